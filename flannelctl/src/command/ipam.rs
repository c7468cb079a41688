//! `flannelctl ipam`: the addresses that host-local has given to pods of this node.

use anyhow::Context as _;
use clap::{Args, Subcommand};
use flannel_core::family::Family;
use flannel_core::host_local::{DATA_DIRECTORY, Use};
use flannel_core::subnet_env::PreviousEnv;
use ipnet::IpNet;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Kind, Outcome};
use crate::flags::{Consent, DryRun};
use crate::node::cni::{CONFIGS, CniFile};
use crate::node::host_local::{Given, Network, holder};
use crate::output::text::life_text;
use crate::output::{Cell, Page, Style, Table};
use crate::session::Session;

#[derive(Debug, Subcommand)]
pub(crate) enum IpamCommand {
    /// Show the addresses in use and who has them
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Look for leaked addresses, addresses of another subnet and subnets that are nearly full
    Check {
        #[command(flatten)]
        place: Place,
    },
    /// Give back addresses whose pods are gone
    Release {
        /// The address
        #[arg(required_unless_present = "leaked")]
        address: Option<IpAddr>,
        /// All that are certainly used by nobody
        #[arg(long, conflicts_with = "address")]
        leaked: bool,
        /// Also if a pod uses it; without asking
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        consent: Consent,
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        dry_run: DryRun,
    },
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
        IpamCommand::Release { address, leaked: _, force, consent, place, dry_run } => {
            release(session, address, force, consent, &place, dry_run).map(|()| Outcome::Fine)
        }
    }
}

impl Place {
    fn directory(&self) -> PathBuf {
        let configured = || CniFile::all(Path::new(CONFIGS)).iter().find_map(CniFile::data_directory);
        self.data_dir.clone().or_else(configured).unwrap_or_else(|| DATA_DIRECTORY.into())
    }
}

/// The networks that have a directory.
fn networks(place: &Place) -> anyhow::Result<Vec<Network>> {
    let directory = place.directory();
    let names = match &place.network {
        Some(name) if !directory.join(name).is_dir() => {
            return Err(Failure::new(
                Kind::NotFound,
                format!("{} has no network {name}", directory.display()),
                "flannelctl ipam list shows all networks; --data-dir names another directory",
            )
            .into());
        }
        Some(name) => vec![name.clone()],
        None => match fs::read_dir(&directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            entries => {
                let entries = entries.with_context(|| format!("could not read {}", directory.display()))?;
                let directories = entries.filter_map(Result::ok).filter(|entry| entry.path().is_dir());
                let mut names: Vec<String> =
                    directories.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
                names.sort();
                names
            }
        },
    };
    names.into_iter().map(|name| Network::read(&directory, &name)).collect()
}

fn list(session: &Session, place: &Place) -> anyhow::Result<()> {
    let networks = networks(place)?;
    let mut table = Table::new(
        &["ADDRESS", "NETWORK", "CONTAINER", "INTERFACE", "USE", "AGE"],
        &["CONTAINER-ID", "NETNS"],
    );
    let (mut values, mut names) = (Vec::new(), Vec::new());
    for (network, given) in
        networks.iter().flat_map(|network| network.given.iter().map(move |given| (network, given)))
    {
        let (container, interface) = holder(&given.holder);
        // As long as docker and crictl show it.
        let short: String = container.chars().take(13).collect();
        table.push(vec![
            Cell::from(given.address.to_string()),
            Cell::from(network.name.as_str()),
            Cell::from(short),
            Cell::from(interface),
            usage(given.usage),
            Cell::from(given.age.map(life_text).unwrap_or_default()),
            Cell::from(container),
            Cell::from(given.owner.as_ref().map(|owner| owner.netns.clone()).unwrap_or_default()),
        ]);
        values.push(to_json(network, given));
        names.push(given.address.to_string());
    }
    let empty = values.is_empty();
    session.output.page(&Page::table(Value::Array(values), table).named(names))?;
    if empty {
        session.output.message(&format!("no addresses are given out in {}", place.directory().display()));
    }
    Ok(())
}

const fn usage_name(usage: Use) -> &'static str {
    match usage {
        Use::Alive => "alive",
        Use::Abandoned => "leaked",
        Use::Unknown => "unknown",
    }
}

fn usage(usage: Use) -> Cell {
    Cell::from(usage_name(usage)).styled(match usage {
        Use::Alive => Style::Good,
        Use::Abandoned => Style::Bad,
        Use::Unknown => Style::Warning,
    })
}

fn to_json(network: &Network, given: &Given) -> Value {
    let (container, interface) = holder(&given.holder);
    json!({
        "address": given.address.to_string(),
        "network": network.name,
        "container": container,
        "interface": interface,
        "use": usage_name(given.usage),
        "ageSeconds": given.age.map(|age| age.as_secs()),
        "netns": given.owner.as_ref().map(|owner| owner.netns.as_str()),
    })
}

/// Something that is not as it must be, and what mends it.
struct Finding {
    id: &'static str,
    what: String,
    mend: String,
}

fn check(session: &Session, place: &Place) -> anyhow::Result<Outcome> {
    let networks = networks(place)?;
    let env = fs::read_to_string(&session.node.subnet_file).unwrap_or_default();
    let subnets: Vec<IpNet> = PreviousEnv::parse(&env).subnets.iter().collect();
    let findings: Vec<Finding> = networks.iter().flat_map(|network| findings(network, &subnets)).collect();
    let mut table = Table::new(&["ID", "FINDING"], &[]);
    for finding in &findings {
        table.push(vec![
            Cell::from(finding.id).styled(Style::Warning),
            Cell::lines([finding.what.as_str(), &format!("mend: {}", finding.mend)]),
        ]);
    }
    let given: usize = networks.iter().map(|network| network.given.len()).sum();
    let value = json!({
        "addresses": given,
        "findings": findings
            .iter()
            .map(|finding| json!({"id": finding.id, "what": finding.what, "mend": finding.mend}))
            .collect::<Vec<_>>(),
    });
    if findings.is_empty() {
        let count =
            |count: usize, one: &str, many: &str| format!("{count} {}", if count == 1 { one } else { many });
        let text = format!(
            "{} in {}, all as they must be",
            count(given, "address", "addresses"),
            count(networks.len(), "network", "networks")
        );
        session.output.page(&Page::lines(value, text).named(Vec::new()))?;
        return Ok(Outcome::Fine);
    }
    let names = findings.iter().map(|finding| finding.id.to_owned()).collect();
    session.output.page(&Page::table(value, table).named(names))?;
    Ok(Outcome::Findings)
}

fn findings(network: &Network, subnets: &[IpNet]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let name = &network.name;
    let leaked = network.given.iter().filter(|given| given.usage == Use::Abandoned).count();
    if leaked > 0 {
        findings.push(Finding {
            id: "ipam-leaked",
            what: format!(
                "{leaked} of {} addresses of network {name} are used by nobody",
                network.given.len()
            ),
            mend: format!("flannelctl ipam release --leaked --network {name}"),
        });
    }
    // Only of the network whose addresses come from flannel's subnet at all.
    let ours = |given: &&Given| subnets.iter().any(|subnet| subnet.contains(&given.address));
    let of_family =
        |given: &&Given| subnets.iter().any(|subnet| Family::of_net(*subnet) == Family::of(given.address));
    if network.given.iter().any(|given| ours(&given)) {
        for given in network.given.iter().filter(|given| of_family(given) && !ours(given)) {
            findings.push(Finding {
                id: "ipam-other-subnet",
                what: format!("{} of network {name} is not in the subnet of this node", given.address),
                mend: "replace that pod: nothing outside of this node can reach it".to_owned(),
            });
        }
    }
    for subnet in subnets {
        let used = network.given.iter().filter(|given| subnet.contains(&given.address)).count() as u128;
        let usable = usable(*subnet);
        if used > 0 && used * 10 >= usable * 9 {
            findings.push(Finding {
                id: "ipam-nearly-full",
                what: format!("{used} of {usable} addresses of {subnet} are given out in network {name}"),
                mend: "run fewer pods here, or give the network a shorter SubnetLen".to_owned(),
            });
        }
    }
    let mut holders: BTreeMap<(&str, &str, Family), Vec<IpAddr>> = BTreeMap::new();
    for given in &network.given {
        let (container, interface) = holder(&given.holder);
        if !interface.is_empty() {
            holders.entry((container, interface, Family::of(given.address))).or_default().push(given.address);
        }
    }
    for ((container, interface, family), addresses) in holders.iter().filter(|(_, all)| all.len() > 1) {
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        findings.push(Finding {
            id: "ipam-twice",
            what: format!(
                "{interface} of container {container} has {} {family} addresses in network {name}: {}",
                addresses.len(),
                addresses.join(" ")
            ),
            mend: "flannelctl ipam release those that the container does not show".to_owned(),
        });
    }
    for file in &network.unreadable {
        findings.push(Finding {
            id: "ipam-unreadable",
            what: format!("{} cannot be read, so its address is given to nobody", file.display()),
            mend: format!("look at it, and remove it if no pod has that address: rm {}", file.display()),
        });
    }
    findings
}

/// Without the address of the network, the gateway, and for IPv4 the broadcast address.
fn usable(subnet: IpNet) -> u128 {
    let bits = u32::from(subnet.max_prefix_len() - subnet.prefix_len());
    let all = 1_u128.checked_shl(bits).unwrap_or(u128::MAX);
    all.saturating_sub(if subnet.addr().is_ipv4() { 3 } else { 2 })
}

fn release(
    session: &Session,
    address: Option<IpAddr>,
    force: bool,
    consent: Consent,
    place: &Place,
    DryRun { dry_run }: DryRun,
) -> anyhow::Result<()> {
    let networks = networks(place)?;
    let meant = |given: &Given| match address {
        Some(address) => given.address == address,
        None => given.usage == Use::Abandoned,
    };
    let found: Vec<(&Network, &Given)> = networks
        .iter()
        .flat_map(|network| network.given.iter().map(move |given| (network, given)))
        .filter(|(_, given)| meant(given))
        .collect();
    if let Some(address) = address {
        let mend = match found.len() {
            0 => "flannelctl ipam list shows all addresses in use".to_owned(),
            1 => String::new(),
            _ => "name one with --network".to_owned(),
        };
        if found.len() != 1 {
            let what = match found.len() {
                0 => format!("{address} is not in use"),
                several => format!("{several} networks have {address}"),
            };
            return Err(Failure::new(Kind::NotFound, what, mend).into());
        }
        if !force && let [(network, given)] = found[..] {
            refuse_living(network, given)?;
        }
    }
    if !dry_run && !force && !consent.yes && !found.is_empty() {
        let addresses: Vec<String> = found.iter().map(|(_, given)| given.address.to_string()).collect();
        session.output.confirm(&format!("Release {}?", addresses.join(" ")), "--yes")?;
    }
    let mut released = Vec::new();
    for (network, given) in found {
        // Judged again under the lock: the address may have gone to another pod meanwhile.
        if dry_run || network.release(given, force)? {
            released.push((network, given));
        } else {
            session.output.message(&format!("{} has been given to a pod meanwhile and stays", given.address));
        }
    }
    let suffix = if dry_run { " would be released" } else { " released" };
    let lines: Vec<String> = released.iter().map(|(_, given)| format!("{}{suffix}", given.address)).collect();
    let value = released
        .iter()
        .map(|(network, given)| json!({"released": !dry_run, "address": to_json(network, given)}))
        .collect();
    let names = released.iter().map(|(_, given)| given.address.to_string()).collect();
    if released.is_empty() {
        session.output.message("no address is leaked");
    }
    session.output.page(&Page::lines(value, lines.join("\n")).named(names))
}

fn refuse_living(network: &Network, given: &Given) -> anyhow::Result<()> {
    let (container, _) = holder(&given.holder);
    let what = match given.usage {
        Use::Abandoned => return Ok(()),
        Use::Alive => {
            format!("{} is used by container {container} of network {}", given.address, network.name)
        }
        Use::Unknown => format!(
            "nothing tells whether container {container} of network {}, which has {}, is still there",
            network.name, given.address
        ),
    };
    let mend = "look for the container (crictl ps, podman ps), and give --force if it is gone";
    Err(Failure::new(Kind::Refused, what, mend).into())
}
