//! `flannelctl ipam`: the addresses that host-local allocated to pods of this node.

use anyhow::Context as _;
use clap::{Args, Subcommand};
use flannel_core::family::Family;
use flannel_core::host_local::{DATA_DIRECTORY, Use};
use flannel_core::subnet_env::PreviousEnv;
use ipnet::IpNet;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::failure::{Kind, Outcome, fail};
use crate::flags::{Consent, DryRun};
use crate::node::cni::{CONFIGS, CniFile};
use crate::node::host_local::{Allocation, Network, usable};
use crate::output::text::{count, duration, join};
use crate::output::{Cell, Page, Style, Table};
use crate::session::Session;

#[derive(Debug, Subcommand)]
pub(crate) enum IpamCommand {
    /// List allocated addresses and their containers
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Find leaked addresses, addresses outside of the subnet, and subnets that are nearly full
    Check {
        #[command(flatten)]
        place: Place,
    },
    /// Release addresses whose containers no longer exist
    Release(Release),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Release {
    /// Address to release
    #[arg(required_unless_present = "leaked")]
    address: Option<IpAddr>,
    /// Release all addresses that are certainly unused
    #[arg(long, conflicts_with = "address")]
    leaked: bool,
    /// Release the address even if a container uses it; do not ask for confirmation
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    dry_run: DryRun,
}

/// Where the addresses are kept.
#[derive(Args, Clone, Debug)]
pub(crate) struct Place {
    /// Directory of host-local [default: ipam.dataDir of the CNI config that uses flannel, or /var/lib/cni/networks]
    #[arg(long, value_name = "PATH")]
    data_dir: Option<PathBuf>,
    /// Only this CNI network
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
}

pub(crate) fn run(session: &Session, command: IpamCommand) -> anyhow::Result<Outcome> {
    match command {
        IpamCommand::List { place } => list(session, &place).map(|()| Outcome::Fine),
        IpamCommand::Check { place } => check(session, &place),
        IpamCommand::Release(arguments) => release(session, &arguments).map(|()| Outcome::Fine),
    }
}

impl Place {
    fn directory(&self) -> PathBuf {
        let configured = || CniFile::all(Path::new(CONFIGS)).iter().find_map(CniFile::data_directory);
        self.data_dir.clone().or_else(configured).unwrap_or_else(|| DATA_DIRECTORY.into())
    }
}

/// The networks with a directory.
fn networks(place: &Place) -> anyhow::Result<Vec<Network>> {
    let directory = place.directory();
    let names: BTreeSet<String> = match &place.network {
        Some(name) if !directory.join(name).is_dir() => {
            let message = format!("{} has no network {name}", directory.display());
            let fix = "Run `flannelctl ipam list` to see all networks, or specify another directory with --data-dir.";
            return fail(Kind::NotFound, message, fix);
        }
        Some(name) => [name.clone()].into(),
        None if !directory.exists() => BTreeSet::new(),
        None => {
            let entries = fs::read_dir(&directory)
                .with_context(|| format!("could not read {}", directory.display()))?;
            let directories = entries.flatten().filter(|entry| entry.path().is_dir());
            directories.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        }
    };
    names.into_iter().map(|name| Network::read(&directory, &name)).collect()
}

fn allocations<'a>(networks: &'a [Network]) -> impl Iterator<Item = (&'a Network, &'a Allocation)> {
    let pairs = |network: &'a Network| network.allocations.iter().map(move |one| (network, one));
    networks.iter().flat_map(pairs)
}

fn list(session: &Session, place: &Place) -> anyhow::Result<()> {
    let networks = networks(place)?;
    let mut table = Table::new(
        &["ADDRESS", "NETWORK", "CONTAINER", "INTERFACE", "USE", "AGE"],
        &["CONTAINER-ID", "NETNS"],
    );
    for (network, allocation) in allocations(&networks) {
        let (container, interface) = allocation.container();
        let (usage, style) = usage(allocation.usage);
        // The length that docker and crictl show.
        let short: String = container.chars().take(13).collect();
        table.push(vec![
            Cell::from(allocation.address.to_string()),
            Cell::from(network.name.as_str()),
            Cell::from(short),
            Cell::from(interface),
            Cell::from(usage).styled(style),
            Cell::lines(allocation.age.map(duration)),
            Cell::from(container),
            Cell::lines(allocation.owner.as_ref().map(|owner| &owner.netns)),
        ]);
    }
    let value = allocations(&networks).map(|(network, allocation)| to_json(network, allocation)).collect();
    let names = allocations(&networks).map(|(_, allocation)| allocation.address);
    session.output.page(&Page::table(value, table).named(names))?;
    if allocations(&networks).next().is_none() {
        session.output.message(&format!("no addresses are allocated in {}", place.directory().display()));
    }
    Ok(())
}

const fn usage(usage: Use) -> (&'static str, Style) {
    match usage {
        Use::Alive => ("alive", Style::Good),
        Use::Abandoned => ("leaked", Style::Bad),
        Use::Unknown => ("unknown", Style::Warning),
    }
}

fn to_json(network: &Network, allocation: &Allocation) -> Value {
    let (container, interface) = allocation.container();
    json!({
        "address": allocation.address,
        "network": network.name,
        "container": container,
        "interface": interface,
        "use": usage(allocation.usage).0,
        "ageSeconds": allocation.age.map(|age| age.as_secs()),
        "netns": allocation.owner.as_ref().map(|owner| owner.netns.as_str()),
    })
}

/// A problem and how to fix it.
#[derive(Serialize)]
struct Finding {
    id: &'static str,
    problem: String,
    fix: String,
}

fn check(session: &Session, place: &Place) -> anyhow::Result<Outcome> {
    let networks = networks(place)?;
    let env = fs::read_to_string(&session.node.subnet_file).unwrap_or_default();
    let subnets: Vec<IpNet> = PreviousEnv::parse(&env).subnets.iter().collect();
    let findings: Vec<Finding> = networks.iter().flat_map(|network| findings(network, &subnets)).collect();
    let allocated: usize = networks.iter().map(|network| network.allocations.len()).sum();
    let value = json!({"addresses": allocated, "findings": findings});
    let names = findings.iter().map(|finding| finding.id);
    if findings.is_empty() {
        let (addresses, networks) = (count(allocated, "address"), count(networks.len(), "network"));
        let text = format!("{addresses} in {networks}, no problems found");
        session.output.page(&Page::lines(value, text).named(names))?;
        return Ok(Outcome::Fine);
    }
    let mut table = Table::new(&["ID", "FINDING"], &[]);
    for finding in &findings {
        table.push(vec![
            Cell::from(finding.id).styled(Style::Warning),
            Cell::lines([finding.problem.as_str(), &format!("fix: {}", finding.fix)]),
        ]);
    }
    session.output.page(&Page::table(value, table).named(names))?;
    Ok(Outcome::Findings)
}

fn findings(network: &Network, subnets: &[IpNet]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find = |id, problem: String, fix: String| findings.push(Finding { id, problem, fix });
    let Network { name, allocations, .. } = network;
    let leaked = allocations.iter().filter(|allocation| allocation.usage == Use::Abandoned).count();
    if leaked > 0 {
        let problem = format!("{leaked} of {} addresses of network {name} are leaked", allocations.len());
        find("ipam-leaked", problem, format!("flannelctl ipam release --leaked --network {name}"));
    }
    // Only if this network uses the subnet of flannel.
    let inside = |address: IpAddr| subnets.iter().any(|subnet| subnet.contains(&address));
    let families: Vec<Family> = subnets.iter().map(|subnet| Family::of_net(*subnet)).collect();
    let addresses = || allocations.iter().map(|allocation| allocation.address);
    if addresses().any(inside) {
        let outside = |address: &IpAddr| families.contains(&Family::of(*address)) && !inside(*address);
        for address in addresses().filter(outside) {
            let problem = format!("{address} of network {name} is not in the subnet of this node");
            find(
                "ipam-other-subnet",
                problem,
                "replace that pod: it is unreachable from other nodes".to_owned(),
            );
        }
    }
    for subnet in subnets {
        let used = addresses().filter(|address| subnet.contains(address)).count() as u128;
        let usable = usable(Family::of_net(*subnet), subnet.prefix_len());
        if used > 0 && used * 10 >= usable * 9 {
            let problem = format!("{used} of {usable} addresses of {subnet} are allocated in network {name}");
            find(
                "ipam-nearly-full",
                problem,
                "run fewer pods on this node, or use larger subnets (SubnetLen)".to_owned(),
            );
        }
    }
    for ((container, interface, family), addresses) in
        holders(allocations).iter().filter(|(_, all)| all.len() > 1)
    {
        let (number, addresses) = (addresses.len(), join(addresses, " "));
        let problem = format!(
            "{interface} of container {container} has {number} {family} addresses in network {name}: {addresses}"
        );
        let fix = "flannelctl ipam release ADDRESS for each that the container does not use";
        find("ipam-twice", problem, fix.to_owned());
    }
    for file in &network.unreadable {
        let problem = format!("could not read {}, so its address is not allocated", file.display());
        find("ipam-unreadable", problem, format!("rm {}, unless a pod has that address", file.display()));
    }
    findings
}

/// The addresses of each interface of a container, by family.
fn holders(allocations: &[Allocation]) -> BTreeMap<(&str, &str, Family), Vec<IpAddr>> {
    let mut holders: BTreeMap<(&str, &str, Family), Vec<IpAddr>> = BTreeMap::new();
    for allocation in allocations {
        let (container, interface) = allocation.container();
        if !interface.is_empty() {
            let family = Family::of(allocation.address);
            holders.entry((container, interface, family)).or_default().push(allocation.address);
        }
    }
    holders
}

fn release(session: &Session, arguments: &Release) -> anyhow::Result<()> {
    let Release { address, consent, place, .. } = arguments;
    let (force, dry_run) = (arguments.force, arguments.dry_run.dry_run);
    let networks = networks(place)?;
    let selected = |allocation: &Allocation| match address {
        Some(address) => allocation.address == *address,
        None => allocation.usage == Use::Abandoned,
    };
    let found: Vec<(&Network, &Allocation)> =
        allocations(&networks).filter(|(_, allocation)| selected(allocation)).collect();
    match (address, found.as_slice()) {
        (None, _) => {}
        (Some(address), []) => {
            let fix = "Run `flannelctl ipam list` to see all allocated addresses.";
            return fail(Kind::NotFound, format!("{address} is not allocated"), fix);
        }
        (Some(_), [(network, allocation)]) if !force => refuse_living(network, allocation)?,
        (Some(_), [_]) => {}
        (Some(address), several) => {
            let message = format!("{} networks contain {address}", several.len());
            return fail(Kind::NotFound, message, "Specify one with --network.");
        }
    }
    if !dry_run && !force && !consent.yes && !found.is_empty() {
        let addresses = join(found.iter().map(|(_, allocation)| allocation.address), " ");
        session.output.confirm(&format!("Release {addresses}?"), "--yes")?;
    }
    let mut released = Vec::new();
    for (network, allocation) in found {
        // Checked again under the lock: another pod may have the address now.
        if dry_run || network.release(allocation, force)? {
            released.push((network, allocation));
        } else {
            let address = allocation.address;
            session.output.message(&format!("{address} was allocated to another pod meanwhile and is kept"));
        }
    }
    let suffix = if dry_run { " (dry run)" } else { "" };
    let lines = released.iter().map(|(_, allocation)| format!("{} released{suffix}", allocation.address));
    let value = |(network, allocation): &(&Network, &Allocation)| -> Value {
        json!({"released": !dry_run, "address": to_json(network, allocation)})
    };
    let value = released.iter().map(value).collect();
    let names = released.iter().map(|(_, allocation)| allocation.address);
    if released.is_empty() {
        session.output.message("no leaked addresses");
    }
    session.output.page(&Page::lines(value, join(lines, "\n")).named(names))
}

fn refuse_living(Network { name, .. }: &Network, allocation: &Allocation) -> anyhow::Result<()> {
    let ((container, _), address) = (allocation.container(), allocation.address);
    let message = match allocation.usage {
        Use::Abandoned => return Ok(()),
        Use::Alive => format!("{address} is used by container {container} of network {name}"),
        Use::Unknown => format!(
            "could not determine whether container {container} of network {name}, which has {address}, still exists"
        ),
    };
    let fix = "Check with `crictl ps` or `podman ps`. --force releases the address anyway.";
    fail(Kind::Refused, message, fix)
}
