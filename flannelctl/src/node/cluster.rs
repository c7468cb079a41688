//! The leases in the store, and what administrators need to know about each.

use flannel_core::backend::Vtep;
use flannel_core::config::NetworkConfig;
use flannel_core::error::chain;
use flannel_core::family::Family;
use flannel_core::lease::table::LeaseTable;
use flannel_core::lease::{LeaseAttrs, Revision, Subnets};
use flannel_core::store::{ConfigRecord, Listing, Record};
use flannel_core::subnet_env::PreviousEnv;
use flanneld::state::StateDir;
use flanneld::store::{Life, Store};
use futures_util::stream::{self, TryStreamExt as _};
use ipnet::IpNet;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use crate::failure::{Failure, Kind};
use crate::output::text::join;
use crate::session::Session;

/// The contents of the store.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    /// Revision of the listing.
    pub(crate) revision: Revision,
    /// The network config, if there is one.
    pub(crate) config: Option<ConfigRecord>,
    /// The leases, in the order of their subnets.
    pub(crate) entries: Vec<Entry>,
    /// Malformed records, with the reason.
    pub(crate) rejected: Vec<(Record, String)>,
}

/// A lease.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// As it is in the store.
    pub(crate) record: Record,
    /// The subnets of the node.
    pub(crate) subnets: Subnets,
    /// The data that peers need.
    pub(crate) attrs: LeaseAttrs,
    /// The remaining time; `None` for a reservation, or if not requested.
    pub(crate) life: Option<Life>,
    /// It is the lease of this node.
    pub(crate) is_own: bool,
}

/// A lease is renewed one hour before it expires, or after half its time if that is shorter.
const RENEW_MARGIN: Duration = Duration::from_secs(3600);
/// Number of concurrent requests for remaining times.
const CONCURRENT: usize = 32;
/// Up to this many leases, remaining times are always requested: a tenth of a second of etcd's time.
const FEW: usize = 500;

impl Entry {
    /// Parses a record; `None` if it is malformed.
    pub(crate) fn new(record: Record, own: &Subnets) -> Option<Self> {
        let subnets = Subnets::parse_key(&record.key).ok().filter(|subnets| !subnets.is_empty())?;
        let attrs = LeaseAttrs::parse(&record.value).ok()?;
        let is_own = subnets.overlap(own);
        Some(Self { record, subnets, attrs, life: None, is_own })
    }

    /// Whether it never expires. The lease of a node of a store that knows nodes exists as long as the node.
    pub(crate) const fn is_reservation(&self) -> bool {
        self.record.grant.is_none() && self.record.node.is_none()
    }

    /// It should have been renewed before: its node no longer exists, or cannot reach the store.
    pub(crate) fn is_overdue(&self) -> bool {
        self.life.is_some_and(|life| life.left < RENEW_MARGIN.min(life.granted / 2) / 2)
    }

    /// The state in one or two words.
    pub(crate) fn state(&self) -> &'static str {
        match (self.is_reservation(), self.attrs.is_unclaimed()) {
            (true, true) => "reserved",
            (true, false) => "reserved, in use",
            (false, _) if self.is_overdue() => "overdue",
            (false, _) => "in use",
        }
    }

    /// Whether an address is in a subnet of the node.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        self.subnets.iter().any(|subnet| subnet.contains(&address))
    }

    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        Family::ALL.into_iter().filter_map(|family| self.attrs.public_address(family))
    }

    /// The tunnel endpoints in the record.
    pub(crate) fn vteps(&self) -> Vec<Vtep> {
        Family::ALL.into_iter().filter_map(|family| Vtep::of(&self.attrs, family)).collect()
    }

    /// The node and the subnet, for messages.
    pub(crate) fn title(&self) -> String {
        let subnets = join(self.subnets.iter(), " and ");
        let name = self.record.node.as_deref();
        match name.unwrap_or(&join(self.addresses(), " ")) {
            "" => subnets,
            addresses => format!("{subnets} of node {addresses}"),
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({
            "key": self.record.key,
            "node": self.record.node,
            "subnets": self.subnets.iter().map(|subnet| subnet.to_string()).collect::<Vec<_>>(),
            "record": serde_json::from_str::<Value>(&self.attrs.to_json()).unwrap_or_default(),
            "revision": self.record.revision,
            "reservation": self.is_reservation(),
            "state": self.state(),
            "remainingSeconds": self.life.map(|life| life.left.as_secs()),
            "grantedSeconds": self.life.map(|life| life.granted.as_secs()),
            "thisNode": self.is_own,
        })
    }
}

impl Cluster {
    /// Reads the store.
    pub(crate) async fn read(session: &Session, store: &Store) -> anyhow::Result<Self> {
        Ok(Self::new(session, store.list().await?))
    }

    /// Opens a store for writing the network config, and reads it. It may be a directory that does not exist yet.
    pub(crate) async fn writable(session: &Session) -> anyhow::Result<(Store, Self)> {
        let options = session.store_options().writable();
        let store = options.open()?;
        let cluster = match options.missing().is_some() {
            true => Self::new(session, Listing::default()),
            false => Self::read(session, &store).await?,
        };
        Ok((store, cluster))
    }

    /// Requests the remaining times of the leases. etcd needs one request per lease, so for more than [`FEW`] leases
    /// this happens only if `all` is set. Returns whether they were requested.
    pub(crate) async fn request_lives(&mut self, store: &Store, all: bool) -> anyhow::Result<bool> {
        let ending = self.entries.iter_mut().filter(|entry| !entry.is_reservation());
        let ending: Vec<&mut Entry> = ending.collect();
        if !all && ending.len() > FEW && store.is_life_remote() {
            return Ok(false);
        }
        let request = async |entry: &mut Entry| {
            entry.life = store.life(&entry.record).await?;
            anyhow::Ok(())
        };
        stream::iter(ending.into_iter().map(Ok)).try_for_each_concurrent(CONCURRENT, request).await?;
        Ok(true)
    }

    fn new(session: &Session, listing: Listing) -> Self {
        let own = own_subnets(session);
        let mut table = LeaseTable::default();
        table.replace(&listing.records);
        let (mut entries, mut rejected) = (Vec::new(), Vec::new());
        for record in listing.records {
            if let Some(reason) = table.rejected().get(&record.key) {
                rejected.push((record, reason.clone()));
            } else if let Some(entry) = Entry::new(record, &own) {
                entries.push(entry);
            }
        }
        entries.sort_by_key(|entry| entry.subnets);
        Self { revision: listing.revision, config: listing.config, entries, rejected }
    }

    /// Finds a lease.
    ///
    /// # Errors
    /// Fails if there is none.
    pub(crate) fn find(&self, target: &Target) -> anyhow::Result<&Entry> {
        let is_exact = |entry: &&Entry| match target {
            Target::Key(key) => entry.record.key == *key || entry.record.node.as_ref() == Some(key),
            Target::Subnet(subnet) => entry.subnets.iter().any(|own| own.trunc() == *subnet),
            Target::Address(address) => entry.contains(*address),
        };
        let is_of_node = |entry: &&Entry| match target {
            Target::Address(address) => entry.addresses().any(|own| own == *address),
            _ => false,
        };
        let entries = || self.entries.iter();
        entries().find(is_exact).or_else(|| entries().find(is_of_node)).ok_or_else(|| {
            let message = match target {
                Target::Key(key) => format!("no lease {key}"),
                Target::Subnet(subnet) => format!("no lease of {subnet}"),
                Target::Address(address) => {
                    format!("{address} is neither in the subnet of a node nor its public address")
                }
            };
            let fix = match target {
                Target::Key(key) if Subnets::parse_key(key).is_err() => {
                    "Specify subnet, key, an address in the subnet, or the name or public address of the node."
                }
                _ => "Run `flannelctl lease list` to see all leases.",
            };
            Failure::new(Kind::NotFound, message, fix).into()
        })
    }

    /// The leases of the node with these addresses.
    pub(crate) fn of_node<'a>(&'a self, attrs: &'a LeaseAttrs) -> impl Iterator<Item = &'a Entry> {
        self.entries.iter().filter(move |entry| entry.attrs.is_same_node(attrs))
    }

    /// Subnets that are taken, including those of malformed records.
    pub(crate) fn taken(&self) -> Vec<Subnets> {
        let rejected = self.rejected.iter().filter_map(|(record, _)| Subnets::parse_key(&record.key).ok());
        self.entries.iter().map(|entry| entry.subnets).chain(rejected).collect()
    }
}

/// A lease on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Its key in the store.
    Key(String),
    /// Its subnet.
    Subnet(IpNet),
    /// An address in its subnet, or the public address of its node.
    Address(IpAddr),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(address) => Ok(Self::Address(address)),
            Err(_) if text.contains('/') => Ok(Self::Subnet(parse_subnet(text)?.trunc())),
            Err(_) => Ok(Self::Key(text.to_owned())),
        }
    }
}

/// Parses a subnet of the command line.
pub(crate) fn parse_subnet(text: &str) -> Result<IpNet, String> {
    text.parse().map_err(|_| format!("{text:?} is not a subnet such as 10.5.3.0/24 or fd00:1:2:3::/64"))
}

/// Parses the network config of the store.
///
/// # Errors
/// Fails if it is missing or invalid.
pub(crate) fn store_config(
    config: Option<&ConfigRecord>,
    store: &Store,
) -> anyhow::Result<(NetworkConfig, Revision)> {
    let Some(record) = config else { return Err(no_config(store).into()) };
    let config = NetworkConfig::parse_for(&record.text, store.ownership()).map_err(|error| {
        let message = format!("invalid network config in {}: {}", store.identity().location, chain(&error));
        Failure::new(Kind::Invalid, message, "Run `flannelctl config edit`.")
    })?;
    Ok((config, record.revision))
}

pub(crate) fn no_config(store: &Store) -> Failure {
    let message = format!("{} has no network config", store.identity().location);
    Failure::new(Kind::NotFound, message, "Run `flannelctl config set FILE`.")
}

/// The subnets of this node according to the files of its daemon.
pub(crate) fn own_subnets(session: &Session) -> Subnets {
    let env = std::fs::read_to_string(&session.node.subnet_file).ok();
    let env = env.map(|text| PreviousEnv::parse(&text).subnets).filter(|subnets| !subnets.is_empty());
    let remembered = || {
        let state = StateDir::look(&session.node.state_dir, &session.store_options().scope());
        Subnets::parse_key(&state.lease?.key).ok()
    };
    env.or_else(remembered).unwrap_or(Subnets { v4: None, v6: None })
}
