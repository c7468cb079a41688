//! Container runtimes: their configuration, and where they look for CNI configs and plugins.

use flannel_core::error::chain;
use serde_json::Value;
use std::path::PathBuf;

use crate::doctor::catalog::{
    Check, RUNTIME_CONFIG_IGNORED, RUNTIME_CONFIG_INVALID, RUNTIME_NETWORK_NOT_LOADED, RUNTIME_NETWORK_OTHER,
    RUNTIME_NOT_RESTARTED, RUNTIME_PLUGIN_MISSING,
};
use crate::doctor::facts::{Facts, RuntimeFacts};
use crate::doctor::report::Report;
use crate::node::cni::CniFile;
use crate::node::runtime::{FileError, Ignored, Network, Runtime, Settings, StatusError, Written};
use crate::output::text::{duration, join};

/// The checks that require configuration files.
const OF_FILES: [&Check; 2] = [&RUNTIME_CONFIG_INVALID, &RUNTIME_CONFIG_IGNORED];
/// The checks that require a running runtime.
const OF_PROCESS: [&Check; 2] = [&RUNTIME_NOT_RESTARTED, &RUNTIME_NETWORK_NOT_LOADED];
/// The checks that require one of them.
const OF_SETTINGS: [&Check; 2] = [&RUNTIME_NETWORK_OTHER, &RUNTIME_PLUGIN_MISSING];

pub(super) fn check(facts: &Facts, report: &mut Report) {
    if let Some(reason) = facts.hidden.runtimes.as_ref().filter(|_| facts.cni.runtimes.is_empty()) {
        skip(&[OF_FILES, OF_PROCESS, OF_SETTINGS].concat(), reason, report);
    }
    for runtime in &facts.cni.runtimes {
        of(runtime, facts, report);
    }
}

fn of(facts: &RuntimeFacts, all: &Facts, report: &mut Report) {
    let runtime = &facts.runtime;
    if let Err(error) = &runtime.running {
        let silent =
            format!("{} on {}: {}", runtime.place.kind.name(), runtime.socket.display(), chain(error));
        if matches!(error, StatusError::Disabled) {
            // It does not run pods.
            return skip(&[OF_FILES, OF_PROCESS, OF_SETTINGS].concat(), &silent, report);
        }
        skip(&OF_PROCESS, &format!("{silent}; its configuration files were read instead"), report);
    }
    match &runtime.written {
        Ok(written) => ignored(runtime, written, report),
        Err(FileError::Syntax { file, line, reason }) => {
            let (file, name) = (file.display(), runtime.place.kind.name());
            report
                .find(
                    &RUNTIME_CONFIG_INVALID,
                    &file,
                    format!("{file} is not TOML: {name} does not start again"),
                )
                .seen(format!("line {line}: {reason}"))
                .fix(format!(
                    "correct line {line} of {file}, then systemctl restart {}",
                    runtime.place.kind.unit()
                ));
        }
        Err(error) => skip(&OF_FILES, &chain(error), report),
    }
    let Some(settings) = runtime.settings() else {
        return skip(&OF_SETTINGS, "neither the container runtime nor its files are readable", report);
    };
    if let Ok(written) = &runtime.written {
        restarted(facts, settings, written, report);
    }
    // Without a data path, pods have another network, if any.
    if all.view().is_some_and(|view| !view.node.config().backend.connects_pods()) {
        return;
    }
    loaded(facts, report);
    if let Some(config) = network(facts, settings, report) {
        plugins(facts, settings, config, report);
    }
}

fn skip(checks: &[&Check], reason: &str, report: &mut Report) {
    checks.iter().for_each(|check| report.skip(check, reason));
}

fn ignored(runtime: &Runtime, written: &Written, report: &mut Report) {
    let kind = runtime.place.kind;
    for Ignored { file, table, key } in &written.ignored {
        let file = file.display();
        report
            .find(&RUNTIME_CONFIG_IGNORED, &file, format!("{} ignores {key} in {table}", kind.name()))
            .seen(format!("{file}: {key} in {table}"))
            .fix(format!("move {key} to {}, then systemctl restart {}", written.table, kind.unit()));
    }
}

/// Reports a change of the files after the start of the runtime, unless they state what is in effect.
fn restarted(facts: &RuntimeFacts, effective: &Settings, written: &Written, report: &mut Report) {
    let Runtime { place, running: Ok(running), .. } = &facts.runtime else { return };
    if running.settings.is_none() {
        return;
    }
    let Settings { configs, plugins, network, .. } = &written.settings;
    let differs = |written: &[PathBuf], effective: &[PathBuf]| {
        !written.is_empty()
            && !written
                .iter()
                .map(|path| path.components())
                .eq(effective.iter().map(|path| path.components()))
    };
    let shown = |paths: &[PathBuf]| join(paths.iter().map(|path| path.display()), " and ");
    let mut seen = Vec::new();
    for (what, written, effective) in [
        ("CNI configs", configs.as_slice(), effective.configs.as_slice()),
        ("CNI plugins", plugins, &effective.plugins),
    ] {
        if differs(written, effective) {
            seen.push(format!("{what} in the files: {}; in effect: {}", shown(written), shown(effective)));
        }
    }
    if let Some(network) = network
        && effective.network.as_ref() != Some(network)
    {
        let effective = effective.network.as_deref().unwrap_or("the first one");
        seen.push(format!("network in the files: {network}; in effect: {effective}"));
    }
    let is_certain = configs.is_some() && !plugins.is_empty() && *network == effective.network;
    if seen.is_empty() && (is_certain || facts.changed.is_empty()) {
        return;
    }
    let name = place.kind.name();
    let changed = facts.changed.iter();
    seen.extend(changed.map(|(file, after)| {
        format!("{} changed {} after the start of {name}", file.display(), duration(*after))
    }));
    let file = facts.changed.first().map_or(&place.file, |(file, _)| file).display();
    let finding = report.find(
        &RUNTIME_NOT_RESTARTED,
        &file,
        format!("{name} was not restarted since its configuration changed"),
    );
    finding.evidence = seen;
    finding.fix(format!("systemctl restart {}", place.kind.unit()));
}

/// Reports a CNI config that the runtime could not load, or whose latest version it has not loaded.
fn loaded(facts: &RuntimeFacts, report: &mut Report) {
    let RuntimeFacts { runtime: Runtime { place, running: Ok(running), .. }, directory, files, .. } = facts
    else {
        return;
    };
    let (name, shown) = (place.kind.name(), directory.display());
    if !running.words.is_empty() {
        // An empty directory is reported by another check.
        if files.is_empty() {
            return;
        }
        let is_named = |file: &&CniFile| running.words.iter().any(|words| words.contains(&file.name));
        let problem = format!("{name} has no network for pods: it could not load a CNI config of {shown}");
        let finding = report.find(&RUNTIME_NETWORK_NOT_LOADED, &shown, problem);
        finding.evidence = running.words.iter().map(|words| format!("{name} reports: {words}")).collect();
        if let Some(file) = files.iter().find(is_named) {
            finding.fix(format!("correct {shown}/{0}, or rm {shown}/{0}", file.name));
        }
        return;
    }
    let Some(config) = facts.used().find(|file| file.flannel().is_some()) else { return };
    let is_latest = |network: &Network| config.plugins.as_ref() == Ok(&network.plugins);
    if running.networks.is_empty() || running.networks.iter().any(is_latest) {
        return;
    }
    let file = format!("{shown}/{}", config.name);
    let types = |plugins: &[Value]| join(plugins.iter().filter_map(|plugin| plugin["type"].as_str()), ", ");
    let finding = report.find(
        &RUNTIME_NETWORK_NOT_LOADED,
        &file,
        format!("{name} has not loaded the latest version of {file}"),
    );
    for Network { name: network, plugins } in &running.networks {
        finding.seen(format!("{name} reports: network {network} with the plugins {}", types(plugins)));
    }
    finding
        .seen(format!(
            "{file}: network {} with the plugins {}",
            config.network,
            types(config.plugins.as_deref().unwrap_or_default())
        ))
        .fix(format!("systemctl restart {}", place.kind.unit()));
}

/// Returns the config of flannel if the runtime uses it.
fn network<'a>(facts: &'a RuntimeFacts, settings: &Settings, report: &mut Report) -> Option<&'a CniFile> {
    let RuntimeFacts { runtime, directory, files, is_checked, .. } = facts;
    let flannel = files.iter().find(|file| file.flannel().is_some());
    let mut used = facts.used().peekable();
    let first = used.peek().copied();
    if let Some(config) = used.find(|file| file.flannel().is_some()) {
        return Some(config);
    }
    // A check of the directory reports it.
    if *is_checked && settings.network.is_none() {
        return None;
    }
    let (shown, name, unit) = (directory.display(), runtime.place.kind.name(), runtime.place.kind.unit());
    let table = runtime.written.as_ref().map_or("its configuration", |written| &written.table);
    let finding = match first {
        Some(first) => report
            .find(&RUNTIME_NETWORK_OTHER, &first.name, format!("{name} uses {shown}/{}", first.name))
            .seen(format!("{shown}/{} does not use flannel", first.name)),
        None => report.find(&RUNTIME_NETWORK_OTHER, &shown, format!("{name} finds no network in {shown}")),
    };
    finding.seen(settings.network.as_ref().map_or_else(
        || format!("{name} uses the first config in {shown}"),
        |network| format!("{name} uses the network {network}, by cni_default_network in {table}"),
    ));
    match (&settings.network, flannel, first) {
        (Some(_), Some(flannel), _) => finding.fix(format!(
            "set cni_default_network = \"{}\" in {table}, then systemctl restart {unit}",
            flannel.network
        )),
        (None, Some(_), Some(first)) => finding.fix(format!("mv {shown}/{0} {shown}/{0}.off", first.name)),
        _ => finding.fix(format!("write {shown}/10-flannel.conflist, see README.md")),
    };
    None
}

fn plugins(facts: &RuntimeFacts, settings: &Settings, config: &CniFile, report: &mut Report) {
    let RuntimeFacts { runtime, installed, elsewhere, .. } = facts;
    let Some(first) = settings.plugins.first() else { return };
    let name = runtime.place.kind.name();
    let source = match &runtime.running {
        Ok(running) if running.settings.is_some() => format!("{name} reports"),
        _ => runtime.place.file.display().to_string(),
    };
    let chained = config.plugins.as_deref().unwrap_or_default();
    for plugin in chained.iter().filter_map(|plugin| plugin["type"].as_str()) {
        if installed.iter().any(|installed| installed == plugin) {
            continue;
        }
        // A plugin that is nowhere is reported by another check.
        let Some(found) = elsewhere.iter().find(|path| path.ends_with(plugin)) else { continue };
        let directories = join(settings.plugins.iter().map(|path| path.display()), " and ");
        report
            .find(
                &RUNTIME_PLUGIN_MISSING,
                plugin,
                format!("{name} looks for the plugin {plugin} only in {directories}"),
            )
            .seen(format!("{source}: CNI plugins in {directories}"))
            .seen(format!("{plugin} is installed as {}", found.display()))
            .fix(format!("ln -s {} {}", found.display(), first.join(plugin).display()));
    }
}
