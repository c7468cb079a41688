//! Expressions: what the rules of nf_tables are made of.

use crate::message::DecodeError;
use crate::message::attribute::{self, attributes};
use crate::message::nfnetlink::Writer;

const OBJECT: &str = "expression";

/// The first of the 16-byte registers (`NFT_REG_1`).
pub const REGISTER_1: u32 = 1;
/// The second one.
pub const REGISTER_2: u32 = 2;
/// The register that takes verdicts (`NFT_REG_VERDICT`).
const REGISTER_VERDICT: u32 = 0;

/// The packet mark (`NFT_META_MARK`), four bytes in host order.
pub const META_MARK: u32 = 3;
/// The name of the interface that a packet came in by (`NFT_META_IIFNAME`), sixteen bytes.
pub const META_INPUT_NAME: u32 = 6;

/// The address family of the packet (`NFT_META_NFPROTO`), one byte: the number of a [`super::TableFamily`].
pub const META_NFPROTO: u32 = 15;
/// The protocol in the packet (`NFT_META_L4PROTO`), one byte.
pub const META_L4PROTO: u32 = 16;
/// The state of the connection (`NFT_CT_STATUS`), four bytes in host order.
pub const CT_STATUS: u32 = 2;
/// In [`CT_STATUS`]: the destination was translated (`IPS_DST_NAT`).
pub const DESTINATION_NAT: u32 = 1 << 5;
/// What [`Expr::DestinationType`] loads for an address of this host (`RTN_LOCAL`).
pub const LOCAL_ADDRESS: u32 = 2;
/// `NFT_FIB_RESULT_ADDRTYPE` and `NFTA_FIB_F_DADDR`.
const FIB_ADDRESS_TYPE: u32 = 3;
const FIB_DESTINATION: u32 = 2;
/// `NFT_NAT_DNAT`; the flags for "address" and "port given", which the kernel sets where they are missing.
const NAT_DESTINATION: u32 = 1;
const NAT_RANGE: u32 = 3;

/// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`.
pub const MASQUERADE_FULLY_RANDOM: u32 = 0x10;

/// One step of a rule. The rule ends where a comparison fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    /// Loads bytes of the packet.
    Payload {
        /// Header from which `offset` counts.
        base: PayloadBase,
        /// First byte.
        offset: u32,
        /// Number of bytes.
        len: u32,
        /// Destination.
        register: u32,
    },
    /// Loads a property of the packet (`NFT_META_*`).
    Meta {
        /// Which.
        key: u32,
        /// Destination.
        register: u32,
    },
    /// Loads a property of the connection (`NFT_CT_*`).
    Connection {
        /// Which.
        key: u32,
        /// Destination.
        register: u32,
    },
    /// Loads what kind of address the destination is (`RTN_*`), four bytes in host order.
    DestinationType {
        /// Destination.
        register: u32,
    },
    /// `destination = (source & mask) ^ xor`.
    Bitwise {
        /// Source register.
        source: u32,
        /// Destination register.
        destination: u32,
        /// Mask; as long as `xor`.
        mask: Vec<u8>,
        /// Bits to turn.
        xor: Vec<u8>,
    },
    /// Goes on only if the comparison holds.
    Cmp {
        /// Comparison.
        op: CmpOp,
        /// Register on the left.
        register: u32,
        /// Value on the right.
        data: Vec<u8>,
    },
    /// Loads a constant.
    Immediate {
        /// Destination.
        register: u32,
        /// Value.
        data: Vec<u8>,
    },
    /// Ends the rule with a verdict.
    Verdict(Verdict),
    /// Masquerades, which accepts as well.
    Masquerade {
        /// `NF_NAT_RANGE_*`.
        flags: u32,
    },
    /// Sends the connection to another address and port, which accepts as well.
    DestinationNat {
        /// `NFPROTO_*` of the address.
        family: u8,
        /// Register of the address.
        address: u32,
        /// Register of the port, two bytes in network order.
        port: u32,
    },
    /// Anything else: its name and its attributes as bytes.
    Other {
        /// Name of the expression in the kernel.
        name: String,
        /// Its attributes.
        data: Vec<u8>,
    },
}

/// The header that a payload offset counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadBase {
    /// Ethernet.
    Link,
    /// IP.
    Network,
    /// TCP, UDP and the like.
    Transport,
}

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CmpOp {
    /// Equal.
    Equal,
    /// Not equal.
    NotEqual,
    /// Less than, as big-endian numbers.
    Less,
    /// Less than or equal.
    LessOrEqual,
    /// Greater than.
    Greater,
    /// Greater than or equal.
    GreaterOrEqual,
}

/// What becomes of a packet, or where its way through the rules goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Accepted, as far as this base chain goes.
    Accept,
    /// Dropped.
    Drop,
    /// Back to the rule after the jump; at the end of a base chain its policy.
    Return,
    /// On in another chain, then back.
    Jump(String),
    /// On in another chain, without coming back.
    Goto(String),
}

const BASES: [PayloadBase; 3] = [PayloadBase::Link, PayloadBase::Network, PayloadBase::Transport];
const OPS: [CmpOp; 6] =
    [CmpOp::Equal, CmpOp::NotEqual, CmpOp::Less, CmpOp::LessOrEqual, CmpOp::Greater, CmpOp::GreaterOrEqual];

const ACCEPT: i32 = 1;
const DROP: i32 = 0;
const JUMP: i32 = -3;
const GOTO: i32 = -4;
const RETURN: i32 = -5;

impl Expr {
    /// Writes `NFTA_EXPR_NAME` and `NFTA_EXPR_DATA`.
    pub(super) fn encode(&self, writer: &mut Writer) {
        let (name, content): (&str, &dyn Fn(&mut Writer)) = match self {
            Self::Payload { base, offset, len, register } => ("payload", &|w| {
                w.be32(1, *register);
                w.be32(2, *base as u32);
                w.be32(3, *offset);
                w.be32(4, *len);
            }),
            Self::Meta { key, register } => ("meta", &|w| {
                w.be32(1, *register);
                w.be32(2, *key);
            }),
            Self::Bitwise { source, destination, mask, xor } => ("bitwise", &|w| {
                w.be32(1, *source);
                w.be32(2, *destination);
                w.be32(3, u32::try_from(mask.len()).expect("a register has 16 bytes"));
                w.nested(4, |w| w.bytes(1, mask));
                w.nested(5, |w| w.bytes(1, xor));
            }),
            Self::Cmp { op, register, data } => ("cmp", &|w| {
                w.be32(1, *register);
                w.be32(2, *op as u32);
                w.nested(3, |w| w.bytes(1, data));
            }),
            Self::Immediate { register, data } => ("immediate", &|w| {
                w.be32(1, *register);
                w.nested(2, |w| w.bytes(1, data));
            }),
            Self::Verdict(verdict) => ("immediate", &|w| {
                w.be32(1, REGISTER_VERDICT);
                w.nested(2, |w| w.nested(2, |w| verdict.encode(w)));
            }),
            Self::Masquerade { flags } => ("masq", &|w| {
                if *flags != 0 {
                    w.be32(1, *flags);
                }
            }),
            Self::Connection { key, register } => ("ct", &|w| {
                w.be32(1, *register);
                w.be32(2, *key);
            }),
            Self::DestinationType { register } => ("fib", &|w| {
                w.be32(1, *register);
                w.be32(2, FIB_ADDRESS_TYPE);
                w.be32(3, FIB_DESTINATION);
            }),
            Self::DestinationNat { family, address, port } => ("nat", &|w| {
                w.be32(1, NAT_DESTINATION);
                w.be32(2, u32::from(*family));
                // The ends of the ranges are where they begin.
                w.be32(3, *address);
                w.be32(4, *address);
                w.be32(5, *port);
                w.be32(6, *port);
                w.be32(7, NAT_RANGE);
            }),
            Self::Other { name, data } => {
                writer.text(1, name);
                writer.nested_bytes(2, data);
                return;
            }
        };
        writer.text(1, name);
        writer.nested(2, content);
    }

    /// A match or target of iptables: its name and its struct, as the kernel's include/uapi/linux/netfilter/xt_*.h
    /// lays it out.
    #[must_use]
    pub fn extension(&self) -> Option<(String, &[u8])> {
        let Self::Other { name, data } = self else { return None };
        if name != "match" && name != "target" {
            return None;
        }
        let name = attribute::required(OBJECT, data, 1).ok()?.text();
        Some((name, attribute::required(OBJECT, data, 3).ok()?.value))
    }

    /// Reads one element of `NFTA_RULE_EXPRESSIONS`.
    pub(super) fn decode(element: &[u8]) -> Result<Self, DecodeError> {
        let name = attribute::required(OBJECT, element, 1)?.text();
        // Some expressions (`notrack`) have no attributes at all.
        let data = attribute::required(OBJECT, element, 2).map(|data| data.value).unwrap_or_default();
        let known = Fields::read(data).and_then(|fields| fields.known(&name));
        Ok(known.unwrap_or_else(|| Self::Other { name, data: data.to_owned() }))
    }
}

/// The attributes of an expression by number. Known expressions have at most eight.
struct Fields<'a>([Option<&'a [u8]>; 9]);

impl<'a> Fields<'a> {
    /// Returns `None` if there is an attribute that no known expression has.
    fn read(data: &'a [u8]) -> Option<Self> {
        let mut fields = [None; 9];
        for (kind, value) in attributes(data) {
            *fields.get_mut(usize::from(kind))? = Some(value);
        }
        Some(Self(fields))
    }

    fn number(&self, at: usize) -> Option<u32> {
        Some(u32::from_be_bytes(self.0[at]?.try_into().ok()?))
    }

    /// Nested `NFTA_DATA_VALUE`.
    fn value(&self, at: usize) -> Option<Vec<u8>> {
        Some(attribute::required(OBJECT, self.0[at]?, 1).ok()?.value.to_owned())
    }

    /// No attribute beyond those given and those that are zero: a value of 0 is the default everywhere.
    fn only(&self, known: &[usize]) -> bool {
        let default = |value: &[u8]| value.iter().all(|byte| *byte == 0);
        self.0.iter().enumerate().all(|(at, value)| known.contains(&at) || value.is_none_or(default))
    }

    fn known(&self, name: &str) -> Option<Expr> {
        let (expr, attributes): (Expr, &[usize]) = match name {
            "payload" => (
                Expr::Payload {
                    register: self.number(1)?,
                    base: *BASES.get(usize::try_from(self.number(2)?).ok()?)?,
                    offset: self.number(3)?,
                    len: self.number(4)?,
                },
                &[1, 2, 3, 4],
            ),
            "meta" => (Expr::Meta { register: self.number(1)?, key: self.number(2)? }, &[1, 2]),
            "ct" => (Expr::Connection { register: self.number(1)?, key: self.number(2)? }, &[1, 2]),
            "fib" if self.number(2)? == FIB_ADDRESS_TYPE && self.number(3)? == FIB_DESTINATION => {
                (Expr::DestinationType { register: self.number(1)? }, &[1, 2, 3])
            }
            "nat"
                if self.number(1)? == NAT_DESTINATION
                    && self.0[3] == self.0[4]
                    && self.0[5] == self.0[6]
                    && self.number(7)? == NAT_RANGE =>
            {
                let family = u8::try_from(self.number(2)?).ok()?;
                (
                    Expr::DestinationNat { family, address: self.number(3)?, port: self.number(5)? },
                    &[1, 2, 3, 4, 5, 6, 7],
                )
            }
            "bitwise" => (
                Expr::Bitwise {
                    source: self.number(1)?,
                    destination: self.number(2)?,
                    mask: self.value(4)?,
                    xor: self.value(5)?,
                },
                &[1, 2, 3, 4, 5],
            ),
            "cmp" => (
                Expr::Cmp {
                    register: self.number(1)?,
                    op: *OPS.get(usize::try_from(self.number(2)?).ok()?)?,
                    data: self.value(3)?,
                },
                &[1, 2, 3],
            ),
            "immediate" if self.number(1)? == REGISTER_VERDICT => {
                let verdict = attribute::required(OBJECT, self.0[2]?, 2).ok()?;
                (Expr::Verdict(Verdict::decode(verdict.value)?), &[1, 2])
            }
            "immediate" => (Expr::Immediate { register: self.number(1)?, data: self.value(2)? }, &[1, 2]),
            "masq" => (Expr::Masquerade { flags: self.number(1).unwrap_or_default() }, &[1]),
            _ => return None,
        };
        self.only(attributes).then_some(expr)
    }
}

impl Verdict {
    fn encode(&self, writer: &mut Writer) {
        let (code, chain) = match self {
            Self::Accept => (ACCEPT, None),
            Self::Drop => (DROP, None),
            Self::Return => (RETURN, None),
            Self::Jump(chain) => (JUMP, Some(chain)),
            Self::Goto(chain) => (GOTO, Some(chain)),
        };
        writer.bytes(1, &code.to_be_bytes());
        if let Some(chain) = chain {
            writer.text(2, chain);
        }
    }

    fn decode(data: &[u8]) -> Option<Self> {
        let code = attribute::required(OBJECT, data, 1).ok()?.be32().ok()?.cast_signed();
        let chain = || Some(attribute::required(OBJECT, data, 2).ok()?.text());
        match code {
            ACCEPT => Some(Self::Accept),
            DROP => Some(Self::Drop),
            RETURN => Some(Self::Return),
            JUMP => Some(Self::Jump(chain()?)),
            GOTO => Some(Self::Goto(chain()?)),
            _ => None,
        }
    }
}
