//! `macspoofchk`: nftables rules in the bridge family that drop frames of a container whose source is not its hardware address.
//!
//! Compatibility: table, chains and comments are those of Go's plugin, so that each removes the filters of the other. Here the filter
//! is set in one transaction without a process, replaces stale rules of an earlier ADD, and is active before the container can send.

use flannel_core::host_local::Attachment;
use flannel_core::json::Object;
use flannel_core::link::{LinkName, Mac};
use flannel_core::message::nftables::{
    CmpOp, Command, Expr, Hook, META_INPUT_NAME, PayloadBase, REGISTER_1, Rule, TableFamily, Verdict,
};

use crate::environment::Environment;
use crate::error::{CniError, Context};
use crate::firewall::netfilter::{Netfilter, NetfilterError};
use crate::firewall::nft::{self, NftTable, equal, jump};
use crate::firewall::open_netfilter;
use crate::kernel::Kernel;

const TABLE: NftTable = NftTable(TableFamily::BRIDGE, "nat");
const PREROUTING: &str = "PREROUTING";
/// Priority `dstnat` in the bridge family.
const PRIORITY: i32 = -300;
/// The prefix of all comments.
const COMMENT: &str = "macspoofchk-";
/// The offset of the source in an Ethernet header.
const SOURCE_OFFSET: u32 = 6;
/// The kernel compares interface names at their full length (`IFNAMSIZ`).
const NAME_LEN: usize = 16;

/// Whether the config requests the filter, which DEL needs to know even if other keys are invalid.
pub(super) fn is_wanted(config: &Object) -> bool {
    config.is_true("macspoofchk")
}

/// The filter of one interface.
pub(super) struct Filter {
    reference: String,
}

impl Filter {
    pub(super) fn of(environment: &Environment) -> Self {
        Self { reference: reference(&environment.attachment) }
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

    /// Returns the rules in order.
    fn rules(&self, veth: &LinkName, mac: Mac) -> Vec<Rule> {
        let mut name = veth.as_str().as_bytes().to_vec();
        name.resize(NAME_LEN, 0);
        let source =
            Expr::Payload { base: PayloadBase::Link, offset: SOURCE_OFFSET, len: 6, register: REGISTER_1 };
        let input = Expr::Meta { key: META_INPUT_NAME, register: REGISTER_1 };
        let (chain, mac_chain, comment) = (self.chain(), self.mac_chain(), self.comment());
        let of = |chain: &str, expressions| TABLE.rule(chain, expressions, Some(&comment));
        vec![
            of(PREROUTING, vec![input, equal(name), jump(&chain)]),
            of(&chain, vec![jump(&mac_chain)]),
            of(&mac_chain, vec![source, equal(mac.0), Expr::Verdict(Verdict::Return)]),
            of(&mac_chain, vec![Expr::Verdict(Verdict::Drop)]),
        ]
    }

    /// Sets the filter, replacing that of an earlier ADD.
    pub(super) fn set(&self, veth: &LinkName, mac: Mac) -> Result<(), CniError> {
        let hook = nft::hook("filter", Hook::PREROUTING, PRIORITY);
        let mut netfilter = Netfilter::open().context(failed)?;
        let commit = nft::commit(&mut netfilter, |netfilter| -> Result<_, NetfilterError> {
            let mut commands = vec![TABLE.add(None), TABLE.add_chain(PREROUTING, Some(hook.clone()), None)];
            for name in [self.chain(), self.mac_chain()] {
                commands.extend([TABLE.add_chain(&name, None, None), TABLE.flush_chain(&name)]);
            }
            commands.extend(TABLE.delete_rules(netfilter, PREROUTING, |one| one == self.comment())?);
            commands.extend(self.rules(veth, mac).into_iter().map(Command::AppendRule));
            Ok(commands)
        });
        commit.context(failed)
    }

    /// Removes the filter, if it exists.
    pub(super) fn remove(&self) -> Result<(), CniError> {
        // A kernel without such rules has no filter.
        let Some(mut netfilter) = open_netfilter().context(failed)? else { return Ok(()) };
        let removed = nft::commit(&mut netfilter, |netfilter| -> Result<_, NetfilterError> {
            let mut commands = TABLE.delete_rules(netfilter, PREROUTING, |one| one == self.comment())?;
            // The first one jumps to the second one.
            for name in [self.chain(), self.mac_chain()] {
                if TABLE.has_chain(netfilter, &name)? {
                    commands.extend([TABLE.flush_chain(&name), TABLE.delete_chain(&name)]);
                }
            }
            Ok(commands)
        });
        match removed {
            Err(error) if error.means_absent() => Ok(()),
            other => other.context(failed),
        }
    }

    /// Fails unless all rules exist.
    pub(super) fn check(&self, veth: &LinkName, mac: Mac) -> Result<(), CniError> {
        let mut netfilter = Netfilter::open().context(failed)?;
        for wanted in self.rules(veth, mac) {
            let present = TABLE.rules(&mut netfilter, &wanted.chain).context(failed)?;
            if !present.iter().any(|rule| rule.expressions == wanted.expressions) {
                let msg = format!("the MAC spoofing filter (macspoofchk) of {veth} is incomplete");
                return Err(CniError::internal(msg));
            }
        }
        Ok(())
    }
}

/// Removes the filters of containers that no longer exist. A filter does not name its network, so one whose interface exists is kept.
pub(super) fn gc(valid: &[Attachment]) -> Result<(), CniError> {
    let rules = match Netfilter::open().and_then(|mut netfilter| TABLE.rules(&mut netfilter, PREROUTING)) {
        Err(error) if error.means_absent() => return Ok(()),
        other => other.context(failed)?,
    };
    let valid: Vec<String> = valid.iter().map(reference).collect();
    for rule in rules {
        let owner = rule.comment.as_deref().and_then(|comment| comment.strip_prefix(COMMENT));
        let Some(owner) = owner.filter(|owner| !valid.iter().any(|valid| valid == owner)) else { continue };
        let exists = match input_name(&rule) {
            Some(name) => Kernel::open()?.link(&name)?.is_some(),
            None => true,
        };
        if !exists {
            Filter { reference: owner.to_owned() }.remove()?;
        }
    }
    Ok(())
}

fn reference(attachment: &Attachment) -> String {
    format!("{}-{}", attachment.container_id, attachment.ifname)
}

/// Returns the interface whose frames a rule matches.
fn input_name(rule: &Rule) -> Option<LinkName> {
    match rule.expressions.as_slice() {
        [Expr::Meta { key: META_INPUT_NAME, .. }, Expr::Cmp { op: CmpOp::Equal, data, .. }, ..] => {
            let name = data.split(|byte| *byte == 0).next()?;
            std::str::from_utf8(name).ok()?.parse().ok()
        }
        _ => None,
    }
}

fn failed() -> String {
    "failed to access the MAC spoofing filter (macspoofchk)".to_owned()
}
