//! Commands that change leases. Every write is guarded by the revision that the decision is based on.

use flannel_core::allocate;
use flannel_core::config::NetworkConfig;
use flannel_core::family::Family;
use flannel_core::lease::{LeaseAttrs, Revision, Subnets};
use flannel_core::store::CreateGuard;
use flanneld::host::daemons;
use flanneld::store::{LeaseChange, Store, StoreError};
use ipnet::IpNet;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::failure::{Failure, Kind, fail};
use crate::flags::{Consent, DryRun};
use crate::node::cluster::{Cluster, Entry, Target, store_config};
use crate::output::Page;
use crate::output::text::{duration, join};
use crate::session::Session;

/// Lifetime of a lease that was a reservation, the same as that of a new lease of flanneld or Go flannel.
const LEASE_TIME: Duration = Duration::from_secs(86_400);

/// A change of the leases that were read.
pub(super) struct Change<'a> {
    session: &'a Session,
    store: Store,
    cluster: Cluster,
    dry_run: bool,
}

impl<'a> Change<'a> {
    /// Reads the leases, if the store makes such changes.
    pub(super) async fn new(
        session: &'a Session,
        change: LeaseChange,
        DryRun { dry_run }: DryRun,
    ) -> anyhow::Result<Self> {
        let store = session.store()?;
        if let Some((reason, instead)) = store.refusal(change) {
            return fail(Kind::Refused, reason, instead);
        }
        let cluster = Cluster::read(session, &store).await?;
        Ok(Self { session, store, cluster, dry_run })
    }

    /// Deletes a lease.
    pub(super) async fn release(self, target: &Target, force: bool, consent: Consent) -> anyhow::Result<()> {
        if let Target::Key(key) = target
            && let Some((record, reason)) =
                self.cluster.rejected.iter().find(|(record, _)| record.key == *key)
        {
            // No daemon uses a malformed record.
            if !self.dry_run {
                self.store.delete(key, record.revision).await?;
            }
            return self.report("released", key, json!({"key": key, "reason": reason}));
        }
        let mut entry = self.cluster.find(target)?.clone();
        entry.life = self.store.life(&entry.record).await?;
        if !force && let Some(objection) = objection(&entry) {
            let message = format!("{} is not released: {objection}", entry.title());
            let fix = "Stop flanneld on that node first. --force releases the lease anyway.";
            return fail(Kind::Refused, message, fix);
        }
        if !self.dry_run {
            if !force && !consent.yes {
                self.session.output.confirm(&format!("Release {}?", entry.title()), "--yes")?;
            }
            self.store.delete(&entry.record.key, entry.record.revision).await?;
        }
        self.report("released", &entry.title(), entry.to_json())
    }

    /// Creates a reservation, or turns the lease of a node into one.
    pub(super) async fn reserve(self, addresses: &[IpAddr], requested: &[IpNet]) -> anyhow::Result<()> {
        let (config, revision) = store_config(self.cluster.config.as_ref(), &self.store)?;
        let attrs = attrs_of_node(addresses, &config)?;
        let preferred = one_per_family(requested)?;
        let leases: Vec<&Entry> = self.cluster.of_node(&attrs).collect();
        let matches = |entry: &Entry| {
            let subnet = |net: IpNet| entry.subnets.get(Family::of_net(net)).map(|subnet| subnet.trunc());
            preferred.iter().all(|net| subnet(net) == Some(net))
        };
        let Some(entry) = leases.iter().find(|entry| matches(entry)).or(leases.first()) else {
            let subnets = choose(&config, &self.cluster, &preferred)?;
            if !self.dry_run {
                self.create(&subnets, &attrs, (&config, revision)).await?;
            }
            let record = serde_json::from_str::<Value>(&attrs.to_json()).unwrap_or_default();
            let (key, nets) = (subnets.to_string(), subnets.iter().collect::<Vec<_>>());
            let value = json!({"key": key, "subnets": nets, "record": record, "reservation": true});
            return self.report("reserved", &join(nets, " and "), value);
        };
        if !matches(entry) {
            let fix = format!("Run `flannelctl lease move {} --subnet {}`.", addresses[0], requested[0]);
            return fail(Kind::Conflict, format!("the node already has {}", entry.title()), fix);
        }
        if entry.is_reservation() {
            return self.unchanged("reserved", entry);
        }
        if !self.dry_run {
            self.store.set_lifetime(&entry.record, None).await?;
        }
        self.report("reserved", &entry.title(), entry.to_json())
    }

    /// Turns a reservation into a lease that expires.
    pub(super) async fn unreserve(self, target: &Target) -> anyhow::Result<()> {
        let entry = self.cluster.find(target)?;
        if !entry.is_reservation() {
            return self.unchanged("unreserved", entry);
        }
        if !self.dry_run {
            self.store.set_lifetime(&entry.record, Some(LEASE_TIME)).await?;
            self.session.output.message("the lease expires in 24 hours unless its node renews it");
        }
        self.report("unreserved", &entry.title(), entry.to_json())
    }

    /// Reserves another subnet for a node and deletes its lease, upon which its daemon acquires the reservation.
    pub(super) async fn relocate(
        self,
        target: &Target,
        requested: &[IpNet],
        consent: Consent,
    ) -> anyhow::Result<()> {
        let entry = self.cluster.find(target)?;
        let (config, revision) = store_config(self.cluster.config.as_ref(), &self.store)?;
        if entry.addresses().next().is_none() {
            let title = entry.title();
            let message = format!(
                "the record of {title} has no public address, so its node could not find the reservation"
            );
            return fail(Kind::Invalid, message, "Restart flanneld on that node: it publishes its address.");
        }
        let preferred = one_per_family(requested)?;
        // An interrupted move has left its reservation; this one continues it.
        let prepared = self.cluster.of_node(&entry.attrs).find(|other| {
            other.is_reservation()
                && other.subnets != entry.subnets
                && preferred.iter().all(|net| other.subnets.get(Family::of_net(net)) == Some(net))
        });
        let subnets = match prepared {
            Some(prepared) => prepared.subnets,
            None => choose(&config, &self.cluster, &preferred)?,
        };
        let (key, nets) = (subnets.to_string(), subnets.iter().collect::<Vec<_>>());
        let value = json!({"from": entry.to_json(), "key": key, "subnets": nets});
        let nets = join(nets, " and ");
        let title = format!("{} to {nets}", entry.title());
        if self.dry_run {
            return self.report("moved", &title, value);
        }
        if !consent.yes {
            let question = format!("Move {title}? Its pods lose their addresses and must be replaced.");
            self.session.output.confirm(&question, "--yes")?;
        }
        if prepared.is_none() {
            // With everything that the node publishes, so that its peers reach it there without a pause.
            self.create(&subnets, &entry.attrs, (&config, revision)).await?;
        }
        match self.store.delete(&entry.record.key, entry.record.revision).await {
            Err(StoreError::Raced) => {
                let message = format!("record {} changed meanwhile; {nets} is reserved", entry.record.key);
                return fail(Kind::Conflict, message, "Repeat the command to continue the move.");
            }
            outcome => outcome?,
        }
        self.session.output.message(
            "flanneld on that node changes to the new subnet now, or when it starts; replace pods with addresses of the old \
             subnet",
        );
        self.report("moved", &title, value)
    }

    async fn create(
        &self,
        subnets: &Subnets,
        attrs: &LeaseAttrs,
        (config, revision): (&NetworkConfig, Revision),
    ) -> anyhow::Result<()> {
        let dual = config.has(Family::V4) && config.has(Family::V6);
        let guard = CreateGuard { config: revision, records: dual.then_some(self.cluster.revision) };
        self.store.create(subnets, attrs, guard, None).await?;
        Ok(())
    }

    /// Shows what was done, or in a dry run what would be done.
    fn report(&self, action: &str, title: &str, lease: Value) -> anyhow::Result<()> {
        let (suffix, written) = if self.dry_run { (" (dry run)", false) } else { ("", true) };
        let key = lease["key"].as_str().unwrap_or_default().to_owned();
        let value = json!({"action": action, "written": written, "lease": lease});
        self.session.output.page(&Page::lines(value, format!("{title} {action}{suffix}")).named([key]))
    }

    /// Shows that nothing had to be done.
    fn unchanged(&self, action: &str, entry: &Entry) -> anyhow::Result<()> {
        let value = json!({"action": action, "written": false, "lease": entry.to_json()});
        let line = format!("{} {action} (unchanged)", entry.title());
        self.session.output.page(&Page::lines(value, line).named([&entry.record.key]))
    }
}

/// Why the node of a lease may still need it.
fn objection(entry: &Entry) -> Option<String> {
    if entry.is_own {
        // Whether the daemon of this node runs is known.
        return daemons::running().map(|process| {
            format!("flanneld runs on this node (process {process}) and would acquire it again at once")
        });
    }
    match entry.life {
        None if !entry.is_reservation() || entry.attrs.is_unclaimed() => None,
        None => Some(
            "it is a reservation in use, which its node does not renew, so that node may be running".into(),
        ),
        Some(_) if entry.is_overdue() => None,
        Some(life) => Some(format!(
            "it was renewed {} ago and expires in {}, so its node may be running and would acquire it again at once",
            duration(life.granted.saturating_sub(life.left)),
            duration(life.left)
        )),
    }
}

/// The lease data of a node with these addresses.
fn attrs_of_node(addresses: &[IpAddr], config: &NetworkConfig) -> anyhow::Result<LeaseAttrs> {
    let mut attrs = LeaseAttrs::default();
    for address in addresses {
        let twice = match address {
            IpAddr::V4(address) => attrs.public_ip.replace(*address).is_some(),
            IpAddr::V6(address) => attrs.public_ipv6.replace(*address).is_some(),
        };
        if twice || address.is_unspecified() || address.is_multicast() || address.is_loopback() {
            let message = format!("{address} cannot be the public address of the node");
            let fix = "Specify the address at which other nodes reach it, at most one per family.";
            return fail(Kind::Usage, message, fix);
        }
    }
    // Nodes identify their record by the IPv4 address, unless the network has none.
    let family = if config.has(Family::V4) { Family::V4 } else { Family::V6 };
    if attrs.public_address(family).is_none() {
        let message =
            format!("the network has {family}, so a node finds its reservation by its {family} address");
        return fail(Kind::Usage, message, format!("Specify the public {family} address of the node."));
    }
    Ok(attrs)
}

fn one_per_family(nets: &[IpNet]) -> anyhow::Result<Subnets> {
    let mut subnets = Subnets { v4: None, v6: None };
    for net in nets {
        let twice = match net.trunc() {
            IpNet::V4(net) => subnets.v4.replace(net).is_some(),
            IpNet::V6(net) => subnets.v6.replace(net).is_some(),
        };
        if twice {
            let message = format!("{net} is the second subnet of its family");
            return fail(Kind::Usage, message, "Specify at most one subnet per family.");
        }
    }
    Ok(subnets)
}

/// Chooses free subnets, the preferred ones where specified.
fn choose(config: &NetworkConfig, cluster: &Cluster, preferred: &Subnets) -> anyhow::Result<Subnets> {
    for net in preferred.iter() {
        let family = Family::of_net(net);
        let range = config.range(family).ok_or_else(|| {
            Failure::new(Kind::Invalid, format!("the network has no {family}"), "Omit that subnet.")
        })?;
        if !range.allows(net) {
            let message = format!("the network config does not allow {net}");
            let (length, min, max) = (range.subnet_len(), range.min(), range.max());
            let fix = format!("Choose a subnet of length {length} from {min} to {max}.");
            return fail(Kind::Invalid, message, fix);
        }
        let alone = one_per_family(&[net])?;
        if let Some(other) = cluster.entries.iter().find(|entry| entry.subnets.overlap(&alone)) {
            let message = format!("{net} is taken: {}", other.title());
            return fail(Kind::Conflict, message, "Choose another subnet, or omit --subnet.");
        }
    }
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let chosen = allocate::choose(config, &cluster.taken(), Some(preferred), seed as u64)?;
    if let Some(net) = preferred.iter().find(|net| chosen.get(Family::of_net(*net)) != Some(*net)) {
        let message = format!("{net} is taken by a malformed record");
        return fail(Kind::Conflict, message, "Run `flannelctl lease list` to see it.");
    }
    Ok(chosen)
}
