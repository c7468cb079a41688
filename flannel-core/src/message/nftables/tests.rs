use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use netlink_packet_core::NLM_F_ACK;

use super::*;
use crate::message::frames;

fn decode(bytes: &[u8]) -> Vec<Message> {
    frames(bytes).map(|frame| Message::decode(&frame.unwrap()).unwrap()).collect()
}

fn register() -> impl Strategy<Value = u32> {
    1..=4_u32
}

fn data() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 1..=16)
}

fn name() -> impl Strategy<Value = String> {
    "[a-zA-Z][a-zA-Z0-9_-]{0,20}"
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        Just(Verdict::Accept),
        Just(Verdict::Drop),
        Just(Verdict::Return),
        name().prop_map(Verdict::Jump),
        name().prop_map(Verdict::Goto),
    ]
}

fn expr() -> impl Strategy<Value = Expr> {
    let base = prop::sample::select(vec![PayloadBase::Link, PayloadBase::Network, PayloadBase::Transport]);
    let op = prop::sample::select(vec![CmpOp::Equal, CmpOp::NotEqual]);
    prop_oneof![
        (base, 0..64_u32, 1..=16_u32, register()).prop_map(|(base, offset, len, register)| Expr::Payload {
            base,
            offset,
            len,
            register
        }),
        (0..20_u32, register()).prop_map(|(key, register)| Expr::Meta { key, register }),
        (0..20_u32, register()).prop_map(|(key, register)| Expr::Connection { key, register }),
        register().prop_map(|register| Expr::DestinationType { register }),
        (any::<u8>(), register(), register()).prop_map(|(family, address, port)| Expr::DestinationNat {
            family,
            address,
            port
        }),
        (register(), register(), vec((any::<u8>(), any::<u8>()), 1..=16)).prop_map(
            |(source, destination, bits)| {
                let (mask, xor) = bits.into_iter().unzip();
                Expr::Bitwise { source, destination, mask, xor }
            }
        ),
        (op, register(), data()).prop_map(|(op, register, data)| Expr::Cmp { op, register, data }),
        (register(), data()).prop_map(|(register, data)| Expr::Immediate { register, data }),
        verdict().prop_map(Expr::Verdict),
        prop::sample::select(vec![0, 4, 0x10, 0x14]).prop_map(|flags| Expr::Masquerade { flags }),
        // Whole attributes, as the kernel sends them.
        (prop::sample::select(vec!["counter", "limit", "xt"]), vec((1..9_u16, data()), 0..4)).prop_map(
            |(name, attributes)| {
                let mut writer = Writer::default();
                for (kind, value) in attributes {
                    writer.bytes(kind, &value);
                }
                Expr::Other { name: name.to_owned(), data: writer.0 }
            }
        ),
    ]
}

fn family() -> impl Strategy<Value = TableFamily> {
    prop::sample::select(vec![TableFamily::IP, TableFamily::IP6, TableFamily::INET])
}

fn comment() -> impl Strategy<Value = Option<String>> {
    option::of("[ -~äß]{0,60}")
}

fn command() -> impl Strategy<Value = Command> {
    let policy = prop::sample::select(vec![Policy::Accept, Policy::Drop]);
    let hook = (name(), 0..5_u32, any::<i32>(), policy).prop_map(|(kind, number, priority, policy)| Hook {
        kind,
        number,
        priority,
        policy,
    });
    let rule = (family(), name(), name(), option::of(any::<u64>()), vec(expr(), 0..6), comment()).prop_map(
        |(family, table, chain, handle, expressions, comment)| Rule {
            family,
            table,
            chain,
            handle,
            expressions,
            comment,
        },
    );
    prop_oneof![
        (family(), name(), any::<u32>(), comment()).prop_map(|(family, name, flags, comment)| {
            Command::AddTable(Table { family, name, flags, comment })
        }),
        (family(), name(), name(), option::of(hook), comment()).prop_map(
            |(family, table, name, hook, comment)| {
                Command::AddChain(Chain { family, table, name, hook, comment })
            }
        ),
        rule.prop_map(Command::AppendRule),
    ]
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(commands in vec(command(), 1..5), first in 1..u32::MAX - 10) {
        let bytes = Command::batch(&commands, first);
        let all: Vec<Frame<'_>> = frames(&bytes).map(|frame| frame.unwrap()).collect();
        prop_assert_eq!(all.len(), commands.len() + 2);
        prop_assert!((first..).zip(&all).all(|(sequence, frame)| frame.sequence == sequence));
        let last = all[commands.len()];
        let acknowledged = all.iter().filter(|frame| frame.flags & NLM_F_ACK != 0).count();
        prop_assert!(acknowledged == 1 && last.flags & NLM_F_ACK != 0);
        for (frame, command) in all[1..].iter().zip(&commands) {
            let expected = match command.clone() {
                Command::AddTable(table) => Message::Table(table),
                Command::AddChain(chain) => Message::Chain(chain),
                Command::AppendRule(rule) => Message::Rule(rule),
                other => panic!("{other:?}"),
            };
            prop_assert_eq!(Message::decode(frame).unwrap(), expected);
        }
    }

    /// Whatever a byte is changed to or wherever the message ends: an error or a value, never a panic.
    #[test]
    fn damaged_messages_do_no_harm(commands in vec(command(), 1..4), at: prop::sample::Index, byte: u8, cut: prop::sample::Index) {
        let mut bytes = Command::batch(&commands, 1);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        bytes.truncate(cut.index(bytes.len()) + 1);
        for frame in frames(&bytes).flatten() {
            drop(Message::decode(&frame));
            drop(frame.reply());
        }
    }

    #[test]
    fn noise_does_no_harm(bytes in vec(any::<u8>(), 0..200)) {
        for frame in frames(&bytes).flatten() {
            drop(Message::decode(&frame));
        }
        let frame = Frame { kind: message_type(kind::NEW_RULE), flags: 0, sequence: 0, port: 0, payload: &bytes };
        drop(Message::decode(&frame));
    }
}

/// What a dump of Linux 6.18 has beyond what was sent: handle, position, the operation of bitwise; and an attribute
/// of some later kernel.
#[test]
fn decodes_what_the_kernel_adds() {
    let request = Writer::request(message_type(kind::NEW_RULE), 0x802, 2, 0, |w| {
        w.text(1, "flannel-ipv4");
        w.text(2, "postrtg");
        w.bytes(3, &4_u64.to_be_bytes());
        w.bytes(6, &3_u64.to_be_bytes());
        w.nested(4, |w| {
            w.nested(1, |w| {
                w.text(1, "bitwise");
                w.nested(2, |w| {
                    w.be32(1, 1);
                    w.be32(2, 1);
                    w.be32(3, 4);
                    w.be32(6, 0);
                    w.nested(4, |w| w.bytes(1, &[255, 255, 128, 0]));
                    w.nested(5, |w| w.bytes(1, &[0; 4]));
                });
            });
            w.nested(1, |w| {
                w.text(1, "masq");
                w.nested(2, |_| {});
            });
        });
        w.bytes(8, &[]);
        w.bytes(99, &[1, 2, 3]);
    });
    let expressions = vec![
        Expr::Bitwise { source: 1, destination: 1, mask: vec![255, 255, 128, 0], xor: vec![0; 4] },
        Expr::Masquerade { flags: 0 },
    ];
    assert_eq!(
        decode(&request.to_bytes(5)),
        [Message::Rule(Rule {
            family: TableFamily::IP,
            table: "flannel-ipv4".to_owned(),
            chain: "postrtg".to_owned(),
            handle: Some(4),
            expressions,
            comment: None,
        })]
    );
}

/// A known expression with an attribute that changes its meaning is not taken for the plain one.
#[test]
fn variants_of_known_expressions_are_kept_apart() {
    let expr = |name: &str, content: &dyn Fn(&mut Writer)| {
        let mut writer = Writer::default();
        writer.text(1, name);
        writer.nested(2, content);
        Expr::decode(&writer.0).unwrap()
    };
    let load = |w: &mut Writer| {
        for (at, value) in [(1, 1), (2, 1), (3, 12), (4, 4)] {
            w.be32(at, value);
        }
    };
    assert!(matches!(expr("payload", &load), Expr::Payload { .. }));
    let store = expr("payload", &|w| {
        load(w);
        w.be32(5, 2);
    });
    assert!(matches!(&store, Expr::Other { name, .. } if name == "payload"));
    let ports = expr("masq", &|w| w.be32(2, 1));
    assert!(matches!(&ports, Expr::Other { name, .. } if name == "masq"));
    let unknown_number = expr("masq", &|w| w.be32(12, 1));
    assert!(matches!(&unknown_number, Expr::Other { .. }));
    let mut bare = Writer::default();
    bare.text(1, "notrack");
    assert_eq!(Expr::decode(&bare.0), Ok(Expr::Other { name: "notrack".to_owned(), data: Vec::new() }));
}

/// The bytes that nft 1.0.6 sends to list a table (seen by strace), which asks for an ACK in addition.
#[test]
fn queries_are_those_of_nft() {
    let bytes = Query::Table(TableFamily::IP, "flannel-ipv4".to_owned()).get().request.to_bytes(0);
    let mut expected = vec![40, 0, 0, 0, 1, 10, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 17, 0, 1, 0];
    expected.extend_from_slice(b"flannel-ipv4\0\0\0\0");
    assert_eq!(bytes, expected);
    assert_eq!(
        Query::Generation.get().request.to_bytes(0),
        [20, 0, 0, 0, 0x10, 10, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(
        Query::Chains(TableFamily::ANY).get().request.to_bytes(0),
        [20, 0, 0, 0, 4, 10, 1, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    );
    assert!(Query::Chains(TableFamily::ANY).get().dump && !Query::Generation.get().dump);
}

#[test]
fn long_comments_are_cut_between_characters() {
    let comment = "ä".repeat(100);
    let table = Table { family: TableFamily::IP, name: "t".to_owned(), flags: 0, comment: Some(comment) };
    let messages = decode(&Command::batch(&[Command::AddTable(table)], 1));
    let [_, Message::Table(table), _] = messages.as_slice() else { panic!("{messages:?}") };
    assert_eq!(table.comment, Some("ä".repeat(63)));
}

#[test]
fn deletions_name_what_goes() {
    let text = |value: &str| value.to_owned();
    let commands = [
        Command::DeleteRule(TableFamily::IP, text("t"), text("c"), 9),
        Command::FlushChain(TableFamily::IP6, text("t"), text("c")),
        Command::DeleteChain(TableFamily::IP, text("t"), text("c")),
        Command::DeleteTable(TableFamily::IP, text("t")),
    ];
    let rule = |family, handle| {
        let (table, chain) = (text("t"), text("c"));
        Message::RuleGone(Rule { family, table, chain, handle, expressions: Vec::new(), comment: None })
    };
    let (family, comment) = (TableFamily::IP, None);
    let expected = [
        rule(TableFamily::IP, Some(9)),
        rule(TableFamily::IP6, None),
        Message::ChainGone(Chain {
            family,
            table: text("t"),
            name: text("c"),
            hook: None,
            comment: comment.clone(),
        }),
        Message::TableGone(Table { family, name: text("t"), flags: 0, comment }),
    ];
    assert_eq!(decode(&Command::batch(&commands, 1))[1..5], expected);
}
