//! What changes leases. Every write has the revision as its guard that it was decided on.

use flannel_core::allocate;
use flannel_core::config::NetworkConfig;
use flannel_core::family::Family;
use flannel_core::lease::{LeaseAttrs, Revision, Subnets};
use flannel_core::store::CreateGuard;
use flanneld::host::daemons;
use flanneld::store::{Store, StoreError};
use ipnet::IpNet;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::failure::{Failure, Kind};
use crate::flags::{Consent, DryRun};
use crate::node::cluster::{Cluster, Entry, Target, store_config};
use crate::output::Page;
use crate::output::text::life_text;
use crate::session::Session;

/// What a reservation lives for when it is none any more: as long as any new lease of Go's or our daemon.
const LEASE_TIME: Duration = Duration::from_secs(86_400);

/// Deletes a lease.
pub(super) async fn release(
    session: &Session,
    target: &Target,
    force: bool,
    consent: Consent,
    DryRun { dry_run }: DryRun,
) -> anyhow::Result<()> {
    let store = session.store()?;
    let cluster = Cluster::read(session, &store).await?;
    if let Target::Key(key) = target
        && let Some((record, reason)) = cluster.rejected.iter().find(|(record, _)| record.key == *key)
    {
        // Nobody can use it, so nobody can miss it.
        if !dry_run {
            store.delete(key, record.revision).await?;
        }
        return done(session, "released", dry_run, key, json!({"key": key, "reason": reason}));
    }
    let mut entry = cluster.find(target)?.clone();
    entry.life = store.life(&entry.record).await?;
    if !force && let Some(objection) = objection(&entry) {
        let mend = "stop flanneld on that node first, and give --force if it is meant";
        return Err(Failure::new(
            Kind::Refused,
            format!("{} is not released: {objection}", entry.title()),
            mend,
        )
        .into());
    }
    if !dry_run {
        if !force && !consent.yes {
            session.output.confirm(&format!("Release {}?", entry.title()), "--yes")?;
        }
        store.delete(&entry.record.key, entry.record.revision).await?;
    }
    done(session, "released", dry_run, &entry.title(), entry.to_json())
}

/// Why the node of a lease may still need it.
fn objection(entry: &Entry) -> Option<String> {
    if entry.is_own {
        // Of this node we need not guess.
        return daemons::running().map(|process| {
            format!("flanneld runs on this node (process {process}) and would take it again at once")
        });
    }
    match entry.life {
        None if !entry.is_reservation() || entry.attrs.is_unclaimed() => None,
        None => Some(
            "it is a reservation in use, which its node need not renew, so nothing tells whether that node is gone"
                .to_owned(),
        ),
        Some(_) if entry.is_overdue() => None,
        Some(life) => Some(format!(
            "it was renewed {} ago and has {} left, so its node may be running; flanneld there would take it again at \
             once. Unless renewed it ends by itself",
            life_text(life.granted.saturating_sub(life.left)),
            life_text(life.left)
        )),
    }
}

/// Makes a reservation, or makes the lease of a node one.
pub(super) async fn reserve(
    session: &Session,
    addresses: &[IpAddr],
    wanted: &[IpNet],
    DryRun { dry_run }: DryRun,
) -> anyhow::Result<()> {
    let store = session.store()?;
    let cluster = Cluster::read(session, &store).await?;
    let (config, revision) = store_config(cluster.config.as_ref(), &store)?;
    let attrs = node(addresses, &config)?;
    let wish = one_per_family(wanted)?;
    let held: Vec<&Entry> = cluster.of_node(&attrs).collect();
    let fits = |entry: &Entry| {
        wish.iter().all(|net| entry.subnets.get(Family::of_net(net)).is_some_and(|own| own.trunc() == net))
    };
    let Some(entry) = held.iter().find(|entry| fits(entry)).or(held.first()) else {
        let subnets = choose(&config, &cluster, &wish)?;
        let place = (&store, &cluster, &config, revision);
        return create(session, place, &subnets, &attrs, dry_run).await;
    };
    if !fits(entry) {
        let mend = format!("flannelctl lease move {} --subnet {}", addresses[0], wanted[0]);
        let message = format!("the node has {} already", entry.title());
        return Err(Failure::new(Kind::Conflict, message, mend).into());
    }
    if entry.is_reservation() {
        session.output.message("it is a reservation already");
        return done(session, "reserved", true, &entry.title(), entry.to_json());
    }
    if !dry_run {
        store.set_lifetime(&entry.record, None).await?;
    }
    done(session, "reserved", dry_run, &entry.title(), entry.to_json())
}

async fn create(
    session: &Session,
    (store, cluster, config, revision): (&Store, &Cluster, &NetworkConfig, Revision),
    subnets: &Subnets,
    attrs: &LeaseAttrs,
    dry_run: bool,
) -> anyhow::Result<()> {
    if !dry_run {
        let dual = config.has(Family::V4) && config.has(Family::V6);
        let guard = CreateGuard { config: revision, records: dual.then_some(cluster.revision) };
        store.create(subnets, attrs, guard, None).await?;
    }
    let nets: Vec<String> = subnets.iter().map(|subnet| subnet.to_string()).collect();
    let record = serde_json::from_str::<Value>(&attrs.to_json()).unwrap_or_default();
    let value = json!({"key": subnets.to_string(), "subnets": nets, "record": record, "reservation": true});
    done(session, "reserved", dry_run, &nets.join(" and "), value)
}

/// Lets a reservation end.
pub(super) async fn unreserve(
    session: &Session,
    target: &Target,
    DryRun { dry_run }: DryRun,
) -> anyhow::Result<()> {
    let store = session.store()?;
    let cluster = Cluster::read(session, &store).await?;
    let entry = cluster.find(target)?;
    if !entry.is_reservation() {
        session.output.message("it is no reservation");
        return done(session, "unreserved", true, &entry.title(), entry.to_json());
    }
    if !dry_run {
        store.set_lifetime(&entry.record, Some(LEASE_TIME)).await?;
        session.output.message("it ends in 24 hours, unless its node renews it");
    }
    done(session, "unreserved", dry_run, &entry.title(), entry.to_json())
}

/// Reserves another subnet for a node and deletes the lease that it has, upon which its daemon goes there.
pub(super) async fn r#move(
    session: &Session,
    target: &Target,
    wanted: &[IpNet],
    consent: Consent,
    DryRun { dry_run }: DryRun,
) -> anyhow::Result<()> {
    let store = session.store()?;
    let cluster = Cluster::read(session, &store).await?;
    let entry = cluster.find(target)?;
    let (config, revision) = store_config(cluster.config.as_ref(), &store)?;
    if entry.addresses().next().is_none() {
        let message = format!(
            "the record of {} has no public address, by which its node would find another",
            entry.title()
        );
        return Err(Failure::new(
            Kind::Invalid,
            message,
            "restart flanneld there, which publishes its address",
        )
        .into());
    }
    let wish = one_per_family(wanted)?;
    // A move that was interrupted has left its reservation, and goes on from there.
    let prepared = cluster.of_node(&entry.attrs).find(|other| {
        other.is_reservation()
            && other.subnets != entry.subnets
            && wish.iter().all(|net| other.subnets.get(Family::of_net(net)) == Some(net))
    });
    let subnets = match prepared {
        Some(prepared) => prepared.subnets,
        None => choose(&config, &cluster, &wish)?,
    };
    let nets: Vec<String> = subnets.iter().map(|subnet| subnet.to_string()).collect();
    let text = format!("{} to {}", entry.title(), nets.join(" and "));
    let value = json!({"from": entry.to_json(), "key": subnets.to_string(), "subnets": nets});
    if dry_run {
        return done(session, "moved", true, &text, value);
    }
    if !consent.yes {
        session
            .output
            .confirm(&format!("Move {text}? Its pods lose their addresses and must be replaced."), "--yes")?;
    }
    if prepared.is_none() {
        let dual = config.has(Family::V4) && config.has(Family::V6);
        let guard = CreateGuard { config: revision, records: dual.then_some(cluster.revision) };
        // With all that the node publishes, so that its peers find it there without a pause.
        store.create(&subnets, &entry.attrs, guard, None).await?;
    }
    match store.delete(&entry.record.key, entry.record.revision).await {
        Err(StoreError::Raced) => {
            let message = format!(
                "the record {} has changed meanwhile; {} is reserved",
                entry.record.key,
                nets.join(" and ")
            );
            return Err(
                Failure::new(Kind::Conflict, message, "repeat the command: it goes on from there").into()
            );
        }
        outcome => outcome?,
    }
    session.output.message(
        "flanneld on that node goes there now, or when it starts; pods with addresses of the old subnet must be replaced",
    );
    done(session, "moved", false, &text, value)
}

/// Says what was done, or what would be.
fn done(session: &Session, what: &str, dry_run: bool, title: &str, value: Value) -> anyhow::Result<()> {
    let key = value["key"].as_str().unwrap_or_default().to_owned();
    let suffix = if dry_run { " (nothing was written)" } else { "" };
    let value = json!({"action": what, "written": !dry_run, "lease": value});
    session.output.page(&Page::lines(value, format!("{title} {what}{suffix}")).named(vec![key]))
}

/// What the record of a node with these addresses has.
fn node(addresses: &[IpAddr], config: &NetworkConfig) -> anyhow::Result<LeaseAttrs> {
    let mut attrs = LeaseAttrs::default();
    for address in addresses {
        let twice = match address {
            IpAddr::V4(address) => attrs.public_ip.replace(*address).is_some(),
            IpAddr::V6(address) => attrs.public_ipv6.replace(*address).is_some(),
        };
        if twice || address.is_unspecified() || address.is_multicast() || address.is_loopback() {
            let message = format!("{address} cannot be the public address of the node");
            let mend = "give the address that other nodes reach it at, at most one of each family";
            return Err(Failure::new(Kind::Usage, message, mend).into());
        }
    }
    // By the IPv4 address nodes recognise their record, unless the network has none.
    let family = if config.has(Family::V4) { Family::V4 } else { Family::V6 };
    if attrs.public_address(family).is_none() {
        let message =
            format!("the network has {family}, so a node finds its reservation by its {family} address");
        return Err(Failure::new(Kind::Usage, message, format!("give its public {family} address")).into());
    }
    Ok(attrs)
}

fn one_per_family(nets: &[IpNet]) -> anyhow::Result<Subnets> {
    let mut wish = Subnets { v4: None, v6: None };
    for net in nets {
        let twice = match net.trunc() {
            IpNet::V4(net) => wish.v4.replace(net).is_some(),
            IpNet::V6(net) => wish.v6.replace(net).is_some(),
        };
        if twice {
            let message = format!("{net} is the second subnet of its family");
            return Err(Failure::new(Kind::Usage, message, "give at most one of each family").into());
        }
    }
    Ok(wish)
}

/// A free subnet that has what is wished.
fn choose(config: &NetworkConfig, cluster: &Cluster, wish: &Subnets) -> anyhow::Result<Subnets> {
    for net in wish.iter() {
        let family = Family::of_net(net);
        let range = config.range(family).ok_or_else(|| {
            Failure::new(Kind::Invalid, format!("the network has no {family}"), "leave that subnet out")
        })?;
        if !range.allows(net) {
            let message = format!("the network config does not allow {net}");
            let mend =
                format!("take one of length {} from {} to {}", range.subnet_len(), range.min(), range.max());
            return Err(Failure::new(Kind::Invalid, message, mend).into());
        }
        let alone = match net {
            IpNet::V4(net) => Subnets { v4: Some(net), v6: None },
            IpNet::V6(net) => Subnets { v4: None, v6: Some(net) },
        };
        if let Some(other) = cluster.entries.iter().find(|entry| entry.subnets.overlap(&alone)) {
            let message = format!("{net} is taken: {}", other.title());
            return Err(
                Failure::new(Kind::Conflict, message, "take another one, or leave --subnet out").into()
            );
        }
    }
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let chosen = allocate::choose(config, &cluster.taken(), Some(wish), seed as u64)?;
    if let Some(net) = wish.iter().find(|net| chosen.get(Family::of_net(*net)) != Some(*net)) {
        let message = format!("{net} is taken by a record that cannot be read");
        return Err(Failure::new(Kind::Conflict, message, "flannelctl lease list names it").into());
    }
    Ok(chosen)
}
