//! Version, shell completion, man pages.

use anyhow::Context as _;
use clap::{Arg, ArgAction, Command};
use clap_complete::Shell;
use clap_mangen::Man;
use flanneld::cli::flags;
use flanneld::flag::Flag;
use serde_json::json;
use std::fs;
use std::path::Path;

use crate::output::Page;
use crate::session::Session;

/// Prints the version.
pub(crate) fn version(session: &Session) -> anyhow::Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    let value = json!({
        "version": version,
        "os": std::env::consts::OS,
        "architecture": std::env::consts::ARCH,
    });
    session.output.page(&Page::lines(value, format!("flannelctl {version}")))
}

/// Prints a completion script.
pub(crate) fn completion(session: &Session, shell: Shell, mut command: Command) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "flannelctl", &mut script);
    session.output.raw(&String::from_utf8_lossy(&script))
}

/// Writes one man page for each command of flannelctl, and one for flanneld.
pub(crate) fn man(session: &Session, directory: &Path, command: Command) -> anyhow::Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("could not create {}", directory.display()))?;
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let mut written = Vec::new();
    pages(&command, "flannelctl", directory, &mut written)?;
    page(daemon(), "flanneld", directory, &mut written)?;
    session.output.raw(&written.iter().map(|name| format!("{name}\n")).collect::<String>())
}

fn pages(command: &Command, name: &str, directory: &Path, written: &mut Vec<String>) -> anyhow::Result<()> {
    for child in command.get_subcommands().filter(|child| !child.is_hide_set()) {
        pages(child, &format!("{name}-{}", child.get_name()), directory, written)?;
    }
    page(command.clone(), name, directory, written)
}

fn page(command: Command, name: &str, directory: &Path, written: &mut Vec<String>) -> anyhow::Result<()> {
    // clap requires static names; their number is that of the commands.
    let title: &'static str = String::leak(name.to_owned());
    let command = command.version(env!("CARGO_PKG_VERSION")).name(title).display_name(title);
    let file = directory.join(format!("{name}.8"));
    let mut text = Vec::new();
    Man::new(command).section("8").manual("flannel").render(&mut text)?;
    fs::write(&file, text).with_context(|| format!("could not write {}", file.display()))?;
    written.push(file.display().to_string());
    Ok(())
}

/// The command line of flanneld for its man page; clap does not parse it.
fn daemon() -> Command {
    let flag = |flag: &Flag| {
        let Flag { name, value, default, help, .. } = *flag;
        let flag = Arg::new(name)
            .long(name)
            .help(help)
            .env(String::leak(flag.variable()) as &'static str)
            .hide_env_values(true);
        let flag = match value {
            "" => flag.action(ArgAction::SetTrue),
            value => flag.value_name(value),
        };
        if default.is_empty() || value.is_empty() { flag } else { flag.default_value(default) }
    };
    Command::new("flanneld")
        .about("Acquires a subnet for this node and keeps the kernel in sync with the cluster's leases")
        .after_help(
            "Use =false to turn off a switch. Every flag has an environment variable; the command line takes precedence, and an empty variable is ignored. \
             Exit codes: 0 after a signal, 1 if it could not start or a task failed, 2 if a flag or a variable is invalid.",
        )
        .disable_help_flag(true)
        .disable_version_flag(true)
        .args(flags().filter(|flag| flag.name != "version").map(flag))
        .arg(Arg::new("version").long("version").action(ArgAction::SetTrue).help("print the version and exit"))
}

#[cfg(test)]
mod tests;
