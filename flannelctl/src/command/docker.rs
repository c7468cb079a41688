//! `mk-docker-opts.sh`, another name of this program: writes the options of a Docker daemon that uses the subnet of this node.
//!
//! Compatibility: name, flags and output are those of the script of Go flannel. Systemd units read the output as an
//! `EnvironmentFile`.

use clap::{CommandFactory as _, Parser};
use flannel_core::dataplane::{Route, RouteTarget};
use flannel_core::subnet_env;
use flanneld::kernel::{Effector as _, NetlinkKernel};
use ipnet::{IpNet, Ipv4Net};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::failure::{Failure, Kind, fail};
use crate::output::{Form, Output};

const NAME: &str = "mk-docker-opts.sh";
const SUBNET: &str = "FLANNEL_SUBNET";
/// The fix of a missing subnet.
const START: &str = "Start flanneld first, and wait until it is ready: `flannelctl status --wait`.";

/// Write the options of a Docker daemon that uses the subnet of this node
#[derive(Debug, Parser)]
#[command(name = NAME, disable_help_flag = true, disable_version_flag = true, args_override_self = true)]
struct Arguments {
    /// Path of the subnet file of flanneld
    #[arg(short = 'f', value_name = "FILE", default_value = subnet_env::PATH)]
    subnet_file: PathBuf,
    /// Path of the output
    #[arg(short = 'd', value_name = "FILE", default_value = "/run/docker_opts.env")]
    output: PathBuf,
    /// Write each option as a variable; without -i and -c, both forms are written
    #[arg(short = 'i')]
    individual: bool,
    /// Write all options as one variable
    #[arg(short = 'c')]
    combined: bool,
    /// Leave out --ip-masq
    #[arg(short = 'm')]
    no_masquerade: bool,
    /// Name of the variable with all options
    #[arg(short = 'k', value_name = "NAME", default_value = "DOCKER_OPTS", value_parser = variable)]
    key: String,
    /// Print help
    #[arg(short = 'h', short_alias = '?')]
    help: bool,
    /// The script ignores operands
    #[arg(hide = true)]
    operands: Vec<OsString>,
}

fn variable(name: &str) -> Result<String, &'static str> {
    let is_variable = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.chars().all(|char| char.is_ascii_alphanumeric() || char == '_');
    if is_variable { Ok(name.to_owned()) } else { Err("not a name of a variable") }
}

/// Whether the program was started under this name.
pub(crate) fn is_requested() -> bool {
    let name = std::env::args_os().next();
    name.is_some_and(|name| Path::new(&name).file_name().is_some_and(|name| name == NAME))
}

/// Runs the program. Every failure has exit code 1, as in the script.
pub(crate) async fn main() -> ExitCode {
    let output = Output::new(Form::Table);
    let arguments = match Arguments::try_parse() {
        Ok(arguments) if !arguments.help => arguments,
        parsed => {
            let error = parsed.err().map(|error| error.render().to_string());
            let error = error.as_deref().and_then(|text| text.lines().next());
            let help = Arguments::command().render_help().to_string();
            output.message(error.map_or(help.clone(), |error| format!("{error}\n\n{help}")).trim_end());
            return ExitCode::FAILURE;
        }
    };
    match run(&arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output.message(&Failure::of(&error).to_text().replacen("flannelctl", NAME, 1));
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let file = &arguments.subnet_file;
    let environment: BTreeMap<String, String> = std::env::vars_os().filter_map(text_pair).collect();
    let text = match fs::read_to_string(file) {
        // The environment may contain the variables.
        Err(error) if error.kind() == ErrorKind::NotFound && environment.contains_key(SUBNET) => {
            String::new()
        }
        result => result.map_err(|error| unreadable(file, &error))?,
    };
    let (subnet, options) = options(arguments, &text, &environment)?;
    write(&arguments.output, &options).map_err(|error| unwritable(&arguments.output, &error))?;
    let mut kernel = NetlinkKernel::open()?;
    let routes = kernel.observe(&BTreeSet::new()).await?.dataplane.routes;
    let subnet = IpNet::V4(subnet.trunc());
    let diverting = routes.iter().find(|(key, route)| key.destination == subnet && has_gateway(route));
    if diverting.is_some() {
        let message = format!("a route sends {subnet}, the subnet of this node, to another host");
        return fail(Kind::Conflict, message, format!("Run `ip route del {subnet}` before Docker starts."));
    }
    Ok(())
}

fn unreadable(file: &Path, error: &io::Error) -> Failure {
    let file = file.display();
    if error.kind() == ErrorKind::NotFound {
        return Failure::new(
            Kind::NotFound,
            format!("{file} does not exist: the node has no subnet yet"),
            START,
        );
    }
    let fix = match error.kind() {
        ErrorKind::PermissionDenied => "Run the command as root.",
        _ => "Specify the subnet file of flanneld with -f.",
    };
    Failure::new(Kind::Error, format!("could not read {file}: {error}"), fix)
}

fn unwritable(file: &Path, error: &io::Error) -> Failure {
    let reason = error.to_string();
    // Without the name of the temporary file.
    let reason = reason.split_once(" at path ").map_or(&*reason, |(reason, _)| reason);
    let fix = match error.kind() {
        ErrorKind::PermissionDenied => "Run the command as root, or specify another file with -d.",
        _ => "Specify another file with -d, or create its directory.",
    };
    Failure::new(Kind::Error, format!("could not write {}: {reason}", file.display()), fix)
}

fn text_pair((name, value): (OsString, OsString)) -> Option<(String, String)> {
    Some((name.into_string().ok()?, value.into_string().ok()?))
}

fn has_gateway(route: &Route) -> bool {
    match &route.target {
        RouteTarget::Via { .. } => true,
        RouteTarget::Several(routes) => routes.iter().any(has_gateway),
        RouteTarget::Link(_) | RouteTarget::Blackhole | RouteTarget::Other(_) => false,
    }
}

/// Returns the subnet of the node and the output. Variables of the environment named `DOCKER_OPT_*` are further options, and the
/// combined variable is preceded by its value in the environment.
fn options(
    arguments: &Arguments,
    text: &str,
    environment: &BTreeMap<String, String>,
) -> anyhow::Result<(Ipv4Net, String)> {
    let file = arguments.subnet_file.display();
    // A shell would read the file into its environment.
    let value = |key: &str| {
        let value = subnet_env::value(text, key).or_else(|| environment.get(key).map(String::as_str));
        value.filter(|value| !value.is_empty())
    };
    let invalid = |key: &str, value: &str, expected: &str| {
        let message = format!("{key} in {file} is {value}, not {expected}");
        Failure::new(Kind::Invalid, message, "Run `systemctl restart flanneld` to write the file again.")
    };
    let Some(subnet) = value(SUBNET) else {
        let message = format!("{file} contains no FLANNEL_SUBNET: the node has no IPv4 subnet yet");
        return fail(Kind::NotFound, message, START);
    };
    let mut options: BTreeMap<&str, String> = environment
        .iter()
        .filter(|(name, _)| name.starts_with("DOCKER_OPT_"))
        .map(|(name, value)| (name.as_str(), value.clone()))
        .collect();
    let subnet: Ipv4Net = subnet.parse().map_err(|_| invalid(SUBNET, subnet, "an IPv4 subnet"))?;
    options.insert("DOCKER_OPT_BIP", format!("--bip={subnet}"));
    if let Some(mtu) = value("FLANNEL_MTU") {
        let mtu: u32 = mtu.parse().map_err(|_| invalid("FLANNEL_MTU", mtu, "a number"))?;
        options.insert("DOCKER_OPT_MTU", format!("--mtu={mtu}"));
    }
    match value("FLANNEL_IPMASQ").filter(|_| !arguments.no_masquerade) {
        // flanneld or Docker masquerades, but not both.
        Some("true") => drop(options.insert("DOCKER_OPT_IPMASQ", "--ip-masq=false".to_owned())),
        Some("false") => drop(options.insert("DOCKER_OPT_IPMASQ", "--ip-masq=true".to_owned())),
        Some(other) => return Err(invalid("FLANNEL_IPMASQ", other, "true or false").into()),
        None => {}
    }
    Ok((subnet, render(arguments, &options, environment.get(&arguments.key))))
}

fn render(arguments: &Arguments, options: &BTreeMap<&str, String>, before: Option<&String>) -> String {
    let both = !arguments.individual && !arguments.combined;
    let mut text = String::new();
    if arguments.individual || both {
        for (name, value) in options {
            let _ = writeln!(text, "{name}=\"{}\"", quoted(value));
        }
    }
    if arguments.combined || both {
        let before = before.filter(|before| !before.is_empty()).map(|before| format!("{before} "));
        let mut all = before.unwrap_or_default();
        for value in options.values() {
            let _ = write!(all, " {value}");
        }
        let _ = writeln!(text, "{}=\"{}\"", arguments.key, quoted(&all));
    }
    text
}

/// Escapes what shells and systemd interpret between double quotes.
fn quoted(value: &str) -> String {
    value.chars().fold(String::new(), |mut text, char| {
        if matches!(char, '"' | '\\' | '$' | '`') {
            text.push('\\');
        }
        text.push(char);
        text
    })
}

/// Replaces a file as a whole, and writes to anything else, such as a pipe.
fn write(path: &Path, content: &str) -> io::Result<()> {
    if fs::symlink_metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        return fs::write(path, content);
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(parent)?;
    file.write_all(content.as_bytes())?;
    file.as_file().set_permissions(Permissions::from_mode(0o644))?;
    file.persist(path).map(drop).map_err(|error| error.error)
}

#[cfg(test)]
mod tests;
