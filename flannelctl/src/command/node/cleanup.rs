//! `node cleanup`: removes everything that flannel created. Objects of uncertain origin are kept and reported.

use flannel_core::advertisement::CHANGED;
use flannel_core::backend;
use flannel_core::cni::BRIDGE;
use flannel_core::dataplane::mark::is_mark;
use flannel_core::dataplane::{
    Dataplane, Link, LinkKind, Op, PROTOCOL, PROTOCOL_BOOT, Route, RouteKey, RouteTarget,
};
use flannel_core::error::chain;
use flannel_core::family::Family;
use flannel_core::lease::Subnets;
use flannel_core::link::LinkName;
use flannel_core::ruleset::{Mode, Ruleset};
use flannel_core::subnet_env::PreviousEnv;
use flanneld::firewall;
use flanneld::host::daemons;
use flanneld::kernel::{Effector as _, NetlinkKernel};
use flanneld::state;
use ipnet::IpNet;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::Cleanup;
use super::plugins::PluginState;
use super::settings::Settings;
use crate::failure::{Kind, fail};
use crate::flags::DryRun;
use crate::node::cluster::{Cluster, Entry};
use crate::node::{cni, host_local};
use crate::output::{Cell, Page, Style, Table};
use crate::session::Session;

/// An object to remove, and the result.
struct Item {
    kind: &'static str,
    name: String,
    outcome: Result<(), String>,
}

impl Item {
    /// What happens to it.
    fn participle(&self) -> &'static str {
        if self.kind == SETTING { "restored" } else { "removed" }
    }
}

/// The kind of an object that is not removed.
const SETTING: &str = "setting";

/// Removes the objects of flannel.
pub(super) async fn run(session: &Session, options: Cleanup) -> anyhow::Result<()> {
    if !options.force
        && let Some(process) = daemons::running()
    {
        let message =
            format!("flanneld is running on this node (process {process}) and would restore everything");
        return fail(Kind::Refused, message, "Run `systemctl stop flanneld` first.");
    }
    let plugins = if options.cni { PluginState::read() } else { PluginState::default() };
    if !options.force
        && let Some(pod) = plugins.networks.iter().find_map(|(data, name)| host_local::living(data, name))
    {
        let message = format!("pods are running on this node: {pod}");
        return fail(Kind::Refused, message, "Drain the node first. --force removes their network anyway.");
    }
    let DryRun { dry_run } = options.dry_run;
    let mut kernel = NetlinkKernel::open()?;
    let observed = kernel.observe(&BTreeSet::new()).await?.dataplane;
    let former = PreviousEnv::parse(&fs::read_to_string(&session.node.subnet_file).unwrap_or_default());
    let mut items = Vec::new();
    firewalls(dry_run, &mut items).await;
    if options.cni {
        host_ports(dry_run, &mut items).await;
    }
    let (ops, mut left) = kernel_objects(session, &observed, &former, &plugins, options).await;
    let outcomes = if dry_run { ops.iter().map(|_| Ok(())).collect() } else { kernel.apply(&ops).await };
    for (op, outcome) in ops.iter().zip(outcomes) {
        let (kind, name) = title(op);
        items.push(Item { kind, name, outcome: outcome.map_err(|error| chain(&error)) });
    }
    let settings = settings(options, &mut items, &mut left);
    let installed = if options.uninstall { cni::installed() } else { Vec::new() };
    for path in files(session, &plugins).into_iter().chain(installed).chain(settings) {
        if fs::symlink_metadata(&path).is_err() {
            continue;
        }
        let outcome = if dry_run { Ok(()) } else { remove(&path).map_err(|error| error.to_string()) };
        items.push(Item { kind: "file", name: path.display().to_string(), outcome });
    }
    if !dry_run {
        // A directory with unmanaged files is kept.
        for directory in directories(session, plugins) {
            let _ = fs::remove_dir(directory);
        }
    }
    report(session, &items, &left, dry_run)
}

/// Restores the settings that the CNI plugin changed. Returns the file that lists them, if it is not needed any more.
fn settings(options: Cleanup, items: &mut Vec<Item>, left: &mut Vec<String>) -> Option<PathBuf> {
    let settings = Settings::read();
    if !options.cni {
        if !settings.is_empty() {
            let names = settings.names().collect::<Vec<_>>().join(" ");
            left.push(format!("former settings of the host are not restored, because pods need the present ones: {names}. Run `flannelctl node cleanup --cni` to restore them."));
        }
        return None;
    }
    let outcomes =
        if options.dry_run.dry_run { settings.names().map(|_| Ok(())).collect() } else { settings.restore() };
    let is_done = outcomes.iter().all(Result::is_ok);
    items.extend(settings.names().zip(outcomes).map(|(name, outcome)| Item { kind: SETTING, name, outcome }));
    (is_done && Path::new(CHANGED).exists()).then(|| CHANGED.into())
}

fn report(session: &Session, items: &[Item], left: &[String], dry_run: bool) -> anyhow::Result<()> {
    let mut table = Table::new(&["KIND", "RESULT", "NAME"], &[]);
    for item in items {
        let (result, name) = match &item.outcome {
            Ok(()) => {
                let done = item.participle();
                let done = if dry_run { format!("would be {done}") } else { done.to_owned() };
                (Cell::from(done), item.name.clone())
            }
            Err(reason) => (Cell::from("failed").styled(Style::Bad), format!("{}: {reason}", item.name)),
        };
        table.push(vec![Cell::from(item.kind), result, Cell::from(name)]);
    }
    let value = |item: &Item| -> Value {
        let Item { kind, name, outcome } = item;
        let is_done = outcome.is_ok() && !dry_run;
        json!({"kind": kind, "name": name, item.participle(): is_done, "error": outcome.as_ref().err()})
    };
    let value = items.iter().map(value).collect();
    let page = if items.is_empty() { Page::lines(value, "") } else { Page::table(value, table) };
    session.output.page(&page.named(items.iter().map(|item| &item.name)))?;
    if items.is_empty() {
        session.output.message("nothing to remove on this node");
    }
    for what in left {
        session.output.message(what);
    }
    let failed = items.iter().filter(|item| item.outcome.is_err()).count();
    if failed == 0 {
        return Ok(());
    }
    let message = format!("could not remove {failed} of {} objects", items.len());
    fail(Kind::Error, message, "Run the command as root.")
}

/// Tables of nftables, and chains of both variants of iptables.
async fn firewalls(dry_run: bool, items: &mut Vec<Item>) {
    let nothing = Ruleset::default();
    for mode in [Mode::Nftables, Mode::Iptables] {
        let mut firewall = firewall::of(mode);
        let outcome = match firewall.verify(&nothing).await {
            Ok(true) => continue,
            Ok(false) if dry_run => Ok(()),
            Ok(false) => firewall.replace(&nothing).await,
            Err(error) => Err(error),
        };
        let outcome = outcome.map_err(|error| chain(&error));
        items.push(Item { kind: "firewall", name: mode.place().to_owned(), outcome });
    }
}

/// The chains of the plugin `portmap`.
async fn host_ports(dry_run: bool, items: &mut Vec<Item>) {
    let outcome = match firewall::host_ports::remove_unused(dry_run).await {
        Ok(false) => return,
        outcome => outcome.map(drop).map_err(|error| chain(&error)),
    };
    items.push(Item { kind: "firewall", name: "chains of portmap".to_owned(), outcome });
}

/// Operations that remove objects from the kernel, routes before links; and messages about objects that are kept.
async fn kernel_objects(
    session: &Session,
    observed: &Dataplane,
    former: &PreviousEnv,
    plugins: &PluginState,
    options: Cleanup,
) -> (Vec<Op>, Vec<String>) {
    let mut left = Vec::new();
    let mut links: Vec<&LinkName> = Vec::new();
    for (name, link) in &observed.links {
        if is_owned(name, link) {
            links.push(name);
        } else if name.as_str().starts_with("flannel") {
            left.push(format!("link {name} is kept: its kind is not one of flannel"));
        } else if name.as_str() != BRIDGE && plugins.bridges.contains(name.as_str()) {
            left.push(format!(
                "link {name}, to which the CNI config attaches pods, is kept: it may be unmanaged. Run \
                 `ip link del {name}` to remove it."
            ));
        }
    }
    let bridge = LinkKind::Other("bridge".to_owned());
    let bridge = observed.links.iter().find(|(name, link)| name.as_str() == BRIDGE && link.kind == bridge);
    if options.cni
        && let Some((name, _)) = bridge
    {
        links.push(name);
    }
    let in_networks =
        |net: IpNet| former.networks.iter().any(|network| network.contains(&net) && network != net);
    let routes = observed.routes.iter().flat_map(|(key, route)| route.each().map(move |route| (*key, route)));
    // The kernel removes the routes of a link with it, but those of nexthop objects in a time in the square of their number.
    let routes = routes.filter(|(_, route)| {
        route.target.object().is_some() || route.target.link().is_none_or(|link| !links.contains(&link))
    });
    let (owned, others): (Vec<_>, Vec<_>) =
        routes.partition(|(key, route)| is_owned_route(*key, route, &former.subnets));
    let mut ops: Vec<Op> =
        owned.into_iter().map(|(key, route)| Op::DeleteRoute(key, route.clone())).collect();
    let mut peers = None;
    for (key, route) in others {
        let RouteTarget::Via { gateway, .. } = &route.target else { continue };
        if route.protocol != PROTOCOL_BOOT || !in_networks(key.destination) {
            continue;
        }
        if peers.is_none() {
            peers = Some(leases(session).await);
        }
        if peers.iter().flatten().any(|entry| is_route_to(key, *gateway, entry)) {
            ops.push(Op::DeleteRoute(key, route.clone()));
        } else {
            left.push(format!(
                "route {} is kept: it is in the pod network, but leads to no node of the store and may be unmanaged",
                key.destination
            ));
        }
    }
    let objects = observed.nexthops.iter().filter(|(_, object)| object.protocol == PROTOCOL);
    ops.extend(objects.map(|(id, _)| Op::DeleteNexthop(*id)));
    ops.extend(links.into_iter().cloned().map(Op::DeleteLink));
    (ops, left)
}

/// Whether a link is a device of a backend, of Go flannel or of this daemon.
fn is_owned(name: &LinkName, link: &Link) -> bool {
    let is_marked = || link.kind.is_tunnel() && link.alias.as_deref().is_some_and(is_mark);
    backend::is_device(name, Some(link.kind.name())) || is_marked()
}

/// Owned by protocol number, or the blackhole route of Go flannel for the subnet of this node.
fn is_owned_route(key: RouteKey, route: &Route, own: &Subnets) -> bool {
    let blackhole = route.target == RouteTarget::Blackhole && route.protocol == PROTOCOL_BOOT;
    route.protocol == PROTOCOL || blackhole && own.iter().any(|subnet| subnet == key.destination)
}

/// The leases in the store, which identify the routes of Go flannel; none if it is unreachable.
async fn leases(session: &Session) -> Vec<Entry> {
    let Ok(store) = session.store() else { return Vec::new() };
    Cluster::read(session, &store).await.map_or_else(|_| Vec::new(), |cluster| cluster.entries)
}

fn is_route_to(key: RouteKey, gateway: IpAddr, entry: &Entry) -> bool {
    let subnet = entry.subnets.get(Family::of_net(key.destination)).map(|subnet| subnet.trunc());
    subnet == Some(key.destination) && entry.addresses().any(|address| address == gateway)
}

fn title(op: &Op) -> (&'static str, String) {
    match op {
        Op::DeleteLink(name) => ("link", name.to_string()),
        Op::DeleteRoute(key, _) => ("route", key.destination.to_string()),
        Op::DeleteNexthop(id) => ("nexthop", id.to_string()),
        other => ("object", format!("{other}")),
    }
}

/// The files of the daemon and the plugins.
fn files(session: &Session, plugins: &PluginState) -> Vec<PathBuf> {
    let run = session.node.subnet_file.parent().unwrap_or(Path::new("/run/flannel"));
    let mut files = vec![session.node.subnet_file.clone(), run.join("flanneld.sock")];
    files.extend(state::files(&session.node.state_dir));
    files.extend(plugins.saved.iter().cloned());
    for (data, network) in &plugins.networks {
        let given = cni::names(&data.join(network)).into_values();
        files.extend(given.filter(|path| path.is_file()));
    }
    files
}

fn directories(session: &Session, plugins: PluginState) -> Vec<PathBuf> {
    let mut directories = state::directories(&session.node.state_dir);
    directories.extend(session.node.subnet_file.parent().map(Path::to_owned));
    directories.extend(plugins.networks.iter().map(|(data, name)| data.join(name)));
    directories.extend(plugins.directories);
    directories
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}
