//! The configuration of container runtimes: where they look for CNI configs and plugins.

use crate::doctor::catalog::{RUNTIME_CONFIG_IGNORED, RUNTIME_NETWORK_OTHER, RUNTIME_PLUGIN_MISSING};
use crate::doctor::facts::{Facts, RuntimeFacts};
use crate::doctor::report::Report;
use crate::node::cni::CniFile;
use crate::node::runtime::Ignored;
use crate::output::text::join;

pub(super) fn check(facts: &Facts, report: &mut Report) {
    for runtime in &facts.cni.runtimes {
        match runtime {
            Ok(runtime) => of(runtime, facts, report),
            Err(reason) => {
                for check in [&RUNTIME_CONFIG_IGNORED, &RUNTIME_PLUGIN_MISSING, &RUNTIME_NETWORK_OTHER] {
                    report.skip(check, reason);
                }
            }
        }
    }
}

fn of(facts: &RuntimeFacts, all: &Facts, report: &mut Report) {
    let RuntimeFacts { runtime, .. } = facts;
    for Ignored { file, table, key } in &runtime.ignored {
        let file = file.display();
        let problem = format!("{} ignores {key} in {table}", runtime.name);
        report
            .find(&RUNTIME_CONFIG_IGNORED, &file, problem)
            .seen(format!("{file}: {key} in {table}"))
            .fix(format!("move {key} to {}, then systemctl restart {}", runtime.table, runtime.unit));
    }
    // Without a data path, pods have another network, if any.
    if all.view().is_some_and(|view| !view.node.config().backend.connects_pods()) {
        return;
    }
    if let Some(config) = network(facts, report) {
        plugins(facts, config, report);
    }
}

/// Returns the config of flannel if the runtime uses it.
fn network<'a>(facts: &'a RuntimeFacts, report: &mut Report) -> Option<&'a CniFile> {
    let RuntimeFacts { runtime, directory, files, .. } = facts;
    let mut valid = files.iter().filter(|file| file.plugins.is_ok());
    let flannel = valid.clone().find(|file| file.flannel().is_some());
    let used = match &runtime.network {
        Some(name) => valid.find(|file| file.network == *name),
        None => valid.next(),
    };
    if used.is_some_and(|used| used.flannel().is_some()) {
        return used;
    }
    let shown = directory.display();
    let how = runtime.network.as_ref().map_or_else(
        || format!("{} uses the first config in {shown}", runtime.name),
        |name| {
            format!("{} uses the network {name}, by cni_default_network in {}", runtime.name, runtime.table)
        },
    );
    let found = match (used, flannel) {
        // A check of the directory reports it.
        _ if facts.is_checked && runtime.network.is_none() => return None,
        (Some(used), _) => report
            .find(&RUNTIME_NETWORK_OTHER, &used.name, format!("{} uses {shown}/{}", runtime.name, used.name))
            .seen(how)
            .seen(format!("{shown}/{} does not use flannel", used.name)),
        (None, _) => report
            .find(&RUNTIME_NETWORK_OTHER, &shown, format!("{} finds no network in {shown}", runtime.name))
            .seen(how),
    };
    match (&runtime.network, flannel, used) {
        (Some(_), Some(flannel), _) => found.fix(format!(
            "set cni_default_network = \"{}\" in {}, then systemctl restart {}",
            flannel.network, runtime.table, runtime.unit
        )),
        (None, Some(_), Some(used)) => found.fix(format!("mv {shown}/{0} {shown}/{0}.off", used.name)),
        _ => found.fix(format!("write {shown}/10-flannel.conflist, see README.md")),
    };
    None
}

fn plugins(facts: &RuntimeFacts, config: &CniFile, report: &mut Report) {
    let RuntimeFacts { runtime, installed, elsewhere, .. } = facts;
    let Some(first) = runtime.plugins.first() else { return };
    let chained = config.plugins.as_deref().unwrap_or_default();
    for name in chained.iter().filter_map(|plugin| plugin["type"].as_str()) {
        if installed.iter().any(|installed| installed == name) {
            continue;
        }
        // A plugin that is nowhere is reported by another check.
        let Some(found) = elsewhere.iter().find(|path| path.ends_with(name)) else { continue };
        let directories = join(runtime.plugins.iter().map(|path| path.display()), " and ");
        let problem = format!("{} looks for the plugin {name} only in {directories}", runtime.name);
        report
            .find(&RUNTIME_PLUGIN_MISSING, name, problem)
            .seen(format!("{}: {}", runtime.file.display(), runtime.table))
            .seen(format!("{name} is installed as {}", found.display()))
            .fix(format!("ln -s {} {}", found.display(), first.join(name).display()));
    }
}
