//! How the daemon of this node is started, and so where its store is.

use flanneld::cli::{Options, Parsed};
use flanneld::host::daemons::{Process, processes};
use flanneld::store::StoreOptions;
use std::fs;

/// The options that it was started with, where they can be read.
pub(crate) fn options(process: &Process) -> Option<Options> {
    let arguments = process.words("cmdline")?;
    let environment = process.environment();
    let variable =
        |name: &str| environment.iter().find_map(|(key, value)| (key == name).then(|| value.clone()));
    match Options::parse(arguments.into_iter().skip(1), variable) {
        Ok(Parsed::Run(options)) => Some(*options),
        _ => None,
    }
}

/// What `/etc/default/flanneld` may set: the environment of the unit file.
const DEFAULTS: &str = "/etc/default/flanneld";

/// A variable of the daemon's, from our environment or from the file of its unit.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().or_else(|| {
        let defaults = fs::read_to_string(DEFAULTS).ok()?;
        let lines = defaults.lines().map(str::trim).filter(|line| !line.starts_with('#'));
        let mut assigned = lines.filter_map(|line| line.split_once('=')).filter(|(key, _)| *key == name);
        assigned.next_back().map(|(_, value)| value.trim_matches(['"', '\'']).to_owned())
    })
}

/// The store of the daemon that runs, or that of the one that the unit would start. Several daemons with stores of their
/// own name none.
pub(crate) fn store() -> Option<StoreOptions> {
    let mut running = processes().into_iter().filter_map(|process| Some(options(&process)?.store));
    if let Some(store) = running.next() {
        return running.all(|other| other.scope() == store.scope()).then_some(store);
    }
    match Options::parse(std::iter::empty(), variable) {
        Ok(Parsed::Run(options)) => Some(options.store),
        _ => None,
    }
}
