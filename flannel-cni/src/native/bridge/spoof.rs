//! `macspoofchk`: frames of a container that have another source than its hardware address are dropped, by rules of nftables in
//! the family of bridges.
//!
//! Compatibility: table, chains and comments are those of Go's plugin, so each removes what the other set. Here all is one
//! transaction without a process, stale rules of an ADD before go with it, and it stands before the container can send.

use flannel_core::json::{Object, Value};
use flannel_core::link::{LinkName, Mac};
use flannel_core::message::nftables::{
    Chain, CmpOp, Command, Expr, Hook, META_INPUT_NAME, PayloadBase, Policy, REGISTER_1, Rule, Table,
    TableFamily, Verdict,
};

use crate::environment::Environment;
use crate::error::CniError;
use crate::firewall::netfilter::{Netfilter, NetfilterError};
use crate::kernel::Kernel;
use crate::netconf::{self, ValidAttachments};

const FAMILY: TableFamily = TableFamily::BRIDGE;
const TABLE: &str = "nat";
const PREROUTING: &str = "PREROUTING";
/// Priority `dstnat` of bridges.
const PRIORITY: i32 = -300;
/// What the comments of all its rules begin with.
const COMMENT: &str = "macspoofchk-";
/// The source in an Ethernet header.
const SOURCE_OFFSET: u32 = 6;
/// The kernel compares names of interfaces in full (`IFNAMSIZ`).
const NAME_LEN: usize = 16;
/// How often it is tried again when somebody else has changed the rules meanwhile.
const ATTEMPTS: u32 = 10;

/// Rules that could not be set, found or removed.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpoofError {
    #[error("failed to {0} the filter of source addresses (macspoofchk)")]
    Netfilter(&'static str, #[source] NetfilterError),
    #[error("the filter of source addresses (macspoofchk) of {0} is not complete")]
    Incomplete(String),
}

/// The config asks for it. What DEL needs to know, also of a config that is wrong elsewhere.
pub(super) fn is_wanted(config: &Object) -> bool {
    config.field("macspoofchk") == Some(&Value::Bool(true))
}

/// The filter of one interface.
pub(super) struct Filter {
    reference: String,
}

impl Filter {
    pub(super) fn of(environment: &Environment) -> Self {
        Self { reference: format!("{}-{}", environment.container_id, environment.ifname) }
    }

    fn comment(&self) -> String {
        format!("{COMMENT}{}", self.reference)
    }

    fn chain(&self) -> String {
        format!("cni-br-iface-{}", self.reference)
    }

    fn mac_chain(&self) -> String {
        format!("{}-mac", self.chain())
    }

    /// The rules, in order.
    fn rules(&self, veth: &LinkName, mac: Mac) -> Vec<Rule> {
        let mut name = veth.as_str().as_bytes().to_vec();
        name.resize(NAME_LEN, 0);
        let is = |data: Vec<u8>| Expr::Cmp { op: CmpOp::Equal, register: REGISTER_1, data };
        let source =
            Expr::Payload { base: PayloadBase::Link, offset: SOURCE_OFFSET, len: 6, register: REGISTER_1 };
        let jump = |chain: String| Expr::Verdict(Verdict::Jump(chain));
        let input = Expr::Meta { key: META_INPUT_NAME, register: REGISTER_1 };
        let of = |chain: String, expressions: Vec<Expr>| Rule {
            family: FAMILY,
            table: TABLE.to_owned(),
            chain,
            handle: None,
            expressions,
            comment: Some(self.comment()),
        };
        vec![
            of(PREROUTING.to_owned(), vec![input, is(name), jump(self.chain())]),
            of(self.chain(), vec![jump(self.mac_chain())]),
            of(self.mac_chain(), vec![source, is(mac.0.to_vec()), Expr::Verdict(Verdict::Return)]),
            of(self.mac_chain(), vec![Expr::Verdict(Verdict::Drop)]),
        ]
    }

    /// Sets the filter, in place of one of an ADD before.
    pub(super) fn set(&self, veth: &LinkName, mac: Mac) -> Result<(), SpoofError> {
        let own = |rule: &Rule| rule.comment.as_deref() == Some(&self.comment());
        attempt("set", |netfilter| {
            let table = Table { family: FAMILY, name: TABLE.to_owned(), flags: 0, comment: None };
            let mut commands = vec![Command::AddTable(table)];
            let hook = Hook {
                kind: "filter".to_owned(),
                number: Hook::PREROUTING,
                priority: PRIORITY,
                policy: Policy::Accept,
            };
            commands.push(Command::AddChain(chain(PREROUTING.to_owned(), Some(hook))));
            for name in [self.chain(), self.mac_chain()] {
                commands.push(Command::AddChain(chain(name.clone(), None)));
                commands.push(Command::FlushChain(FAMILY, TABLE.to_owned(), name));
            }
            commands.extend(
                netfilter
                    .rules(FAMILY, TABLE, PREROUTING)?
                    .iter()
                    .filter(|rule| own(rule))
                    .filter_map(delete),
            );
            commands.extend(self.rules(veth, mac).into_iter().map(Command::AppendRule));
            Ok(commands)
        })
    }

    /// Removes all of it that is there.
    pub(super) fn remove(&self) -> Result<(), SpoofError> {
        let own = |rule: &Rule| rule.comment.as_deref() == Some(&self.comment());
        let removed = attempt("remove", |netfilter| {
            let rules = netfilter.rules(FAMILY, TABLE, PREROUTING)?;
            let mut commands: Vec<_> = rules.iter().filter(|rule| own(rule)).filter_map(delete).collect();
            // The one that jumps to the other comes first.
            for name in [self.chain(), self.mac_chain()] {
                if netfilter.has_chain(FAMILY, TABLE, &name)? {
                    commands.push(Command::FlushChain(FAMILY, TABLE.to_owned(), name.clone()));
                    commands.push(Command::DeleteChain(FAMILY, TABLE.to_owned(), name));
                }
            }
            Ok(commands)
        });
        match removed {
            // A kernel without such rules has none of ours.
            Err(SpoofError::Netfilter(_, error)) if error.means_absent() => Ok(()),
            other => other,
        }
    }

    /// All rules are there.
    pub(super) fn check(&self, veth: &LinkName, mac: Mac) -> Result<(), SpoofError> {
        let error = |error| SpoofError::Netfilter("read", error);
        let mut netfilter = Netfilter::open().map_err(error)?;
        for wanted in self.rules(veth, mac) {
            let there = netfilter.rules(FAMILY, TABLE, &wanted.chain).map_err(error)?;
            if !there.iter().any(|rule| rule.expressions == wanted.expressions) {
                return Err(SpoofError::Incomplete(veth.to_string()));
            }
        }
        Ok(())
    }
}

/// Removes the filters of containers that are gone. A filter does not tell its network, so one whose interface is there stays.
pub(super) fn gc(config: &Object) -> Result<(), CniError> {
    let ValidAttachments::Only(valid) = netconf::attachments(config)? else { return Ok(()) };
    let rules = match Netfilter::open().and_then(|mut netfilter| netfilter.rules(FAMILY, TABLE, PREROUTING)) {
        Err(error) if error.means_absent() => return Ok(()),
        other => other.map_err(|error| SpoofError::Netfilter("read", error))?,
    };
    let valid: Vec<String> = valid.iter().map(|one| format!("{}-{}", one.container_id, one.ifname)).collect();
    for rule in rules {
        let reference = rule.comment.as_deref().and_then(|comment| comment.strip_prefix(COMMENT));
        let Some(reference) = reference.filter(|reference| !valid.iter().any(|valid| valid == reference))
        else {
            continue;
        };
        let there = match input_name(&rule) {
            Some(name) => Kernel::open()?.link(&name)?.is_some(),
            None => true,
        };
        if !there {
            Filter { reference: reference.to_owned() }.remove()?;
        }
    }
    Ok(())
}

/// The interface whose frames a rule is about.
fn input_name(rule: &Rule) -> Option<LinkName> {
    match rule.expressions.as_slice() {
        [Expr::Meta { key: META_INPUT_NAME, .. }, Expr::Cmp { op: CmpOp::Equal, data, .. }, ..] => {
            let name = data.split(|byte| *byte == 0).next()?;
            std::str::from_utf8(name).ok()?.parse().ok()
        }
        _ => None,
    }
}

/// Carries out what `plan` finds to do; again, if somebody else was faster with some of it.
fn attempt(
    verb: &'static str,
    plan: impl Fn(&mut Netfilter) -> Result<Vec<Command>, NetfilterError>,
) -> Result<(), SpoofError> {
    let error = |error| SpoofError::Netfilter(verb, error);
    let mut netfilter = Netfilter::open().map_err(error)?;
    let mut attempt = 1;
    loop {
        let commands = plan(&mut netfilter).map_err(error)?;
        match netfilter.commit(&commands) {
            Err(outdated) if outdated.means_outdated() && attempt < ATTEMPTS => attempt += 1,
            other => return other.map_err(error),
        }
    }
}

fn chain(name: String, hook: Option<Hook>) -> Chain {
    Chain { family: FAMILY, table: TABLE.to_owned(), name, hook, comment: None }
}

fn delete(rule: &Rule) -> Option<Command> {
    Some(Command::DeleteRule(FAMILY, TABLE.to_owned(), rule.chain.clone(), rule.handle?))
}
