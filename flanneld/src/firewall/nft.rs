//! nftables mode: flannel's own tables, by netlink.

use async_trait::async_trait;
use flannel_core::family::Family;
use flannel_core::message::nftables::{Command, Expr, MASQUERADE_FULLY_RANDOM, Message, Query, TableFamily};
use flannel_core::ruleset::Ruleset;
use flannel_core::ruleset::nft::{self, Content};
use nix::errno::Errno;
use tracing::warn;

use super::netfilter::{Netfilter, NetfilterError};
use super::{Firewall, FirewallError};

/// flannel's tables `flannel-ipv4` and `flannel-ipv6`.
#[derive(Default)]
pub struct Nft {
    socket: Option<Netfilter>,
    /// Families for which the kernel rejected `fully-random`.
    plain: Vec<Family>,
}

#[async_trait]
impl Firewall for Nft {
    async fn verify(&mut self, desired: &Ruleset) -> Result<bool, FirewallError> {
        Ok(self.stale_families(&self.supported(desired)).await?.is_empty())
    }

    async fn replace(&mut self, desired: &Ruleset) -> Result<(), FirewallError> {
        loop {
            let desired = self.supported(desired);
            let stale = self.stale_families(&desired).await?;
            if stale.is_empty() {
                return Ok(());
            }
            let commands = nft::replacement(&desired, &stale);
            let Err(error) = self.commit(&commands).await else { return Ok(()) };
            let Some(family) = rejected_fully_random(&error, &commands) else { return Err(error.into()) };
            warn!(%family, "kernel does not support random source ports, masquerading without them");
            self.plain.push(family);
        }
    }

    async fn generation(&mut self) -> Option<u32> {
        let messages = self.query(&Query::Generation).await.ok()?;
        messages.into_iter().find_map(|message| match message {
            Message::Generation(generation) => Some(generation),
            _ => None,
        })
    }
}

impl Nft {
    fn supported(&self, desired: &Ruleset) -> Ruleset {
        self.plain.iter().fold(desired.clone(), |rules, family| rules.without_fully_random(*family))
    }

    async fn stale_families(&mut self, desired: &Ruleset) -> Result<Vec<Family>, NetfilterError> {
        let mut stale = Vec::new();
        for family in Family::ALL {
            let content = Content::new(family, desired.family(family));
            let observed = match self.observe(family).await {
                // No rules are desired, and none can exist.
                Err(error) if content.is_none() && error.means_no_nftables() => None,
                observed => observed?,
            };
            let in_sync = match (&content, &observed) {
                (Some(content), Some(observed)) => content.is_in_force(observed),
                (content, observed) => content.is_none() && observed.is_none(),
            };
            if !in_sync {
                stale.push(family);
            }
        }
        Ok(stale)
    }

    /// Returns the content of flannel's table of `family`, or `None` if it does not exist.
    async fn observe(&mut self, family: Family) -> Result<Option<Content>, NetfilterError> {
        let name = nft::table_name(family);
        let (table_family, name) = (TableFamily::from(family), name.to_owned());
        let table = self.query(&Query::Table(table_family, name.clone())).await?;
        let Some(Message::Table(table)) = table.into_iter().next() else { return Ok(None) };
        let chains = self.query(&Query::Chains(table_family)).await?;
        let rules = self.query(&Query::Rules(table_family, name)).await?;
        let chains = chains.into_iter().filter_map(|message| match message {
            Message::Chain(chain) if chain.table == table.name => Some(chain),
            _ => None,
        });
        // Kernels before 4.19 do not filter by table.
        let rules = rules.into_iter().filter_map(|message| match message {
            Message::Rule(rule) if rule.table == table.name => Some(rule),
            _ => None,
        });
        Ok(Some(Content { chains: chains.collect(), rules: rules.collect(), table }))
    }

    pub(super) async fn query(&mut self, query: &Query) -> Result<Vec<Message>, NetfilterError> {
        let mut socket = self.take_socket()?;
        let result = socket.query(query).await;
        self.keep(socket, &result);
        result
    }

    pub(super) async fn commit(&mut self, commands: &[Command]) -> Result<(), NetfilterError> {
        let mut socket = self.take_socket()?;
        let result = socket.commit(commands).await;
        self.keep(socket, &result);
        result
    }

    /// Takes the socket while it is in use, so that cancelling a request drops the pending reply with it.
    fn take_socket(&mut self) -> Result<Netfilter, NetfilterError> {
        self.socket.take().map_or_else(Netfilter::open, Ok)
    }

    fn keep<T>(&mut self, socket: Netfilter, result: &Result<T, NetfilterError>) {
        if matches!(result, Ok(_) | Err(NetfilterError::Refused { .. })) {
            self.socket = Some(socket);
        }
    }
}

/// Returns the family if the kernel rejected its rule with `fully-random`.
fn rejected_fully_random(error: &NetfilterError, commands: &[Command]) -> Option<Family> {
    let NetfilterError::Refused { command, errno: Errno::EINVAL | Errno::EOPNOTSUPP, .. } = error else {
        return None;
    };
    let Command::AppendRule(rule) = commands.get((*command)?)? else { return None };
    let random = Expr::Masquerade { flags: MASQUERADE_FULLY_RANDOM };
    let family = Family::ALL.into_iter().find(|family| TableFamily::from(*family) == rule.family)?;
    rule.expressions.contains(&random).then_some(family)
}
