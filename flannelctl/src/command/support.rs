//! `flannelctl support`: an archive with everything that a bug report needs, without secrets.

mod scrub;

use anyhow::Context as _;
use clap::Subcommand;
use flanneld::cli::Options;
use flanneld::exec::Program;
use flanneld::host::daemons::{self, Process};
use flanneld::store::StoreOptions;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use std::env;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::doctor::{Places, diagnose};
use crate::failure::{Failure, Kind, Outcome};
use crate::node::cluster::{Cluster, Entry};
use crate::node::cni::{self, CONFIGS, CniFile};
use crate::node::daemon::Invocation;
use crate::node::socket;
use crate::output::Page;
use crate::output::text::unix_now;
use crate::session::Session;
use scrub::Scrubber;

#[derive(Debug, Subcommand)]
pub(crate) enum SupportCommand {
    /// Write an archive with status, leases, config, kernel state and logs of this node, without secrets
    Bundle {
        /// Path of the archive, which must not exist
        #[arg(long, default_value = "flannel-support.tar.gz", value_name = "FILE")]
        file: PathBuf,
    },
}

/// Time limit of each program: if one hangs, the others are still collected.
const LIMIT: Duration = Duration::from_secs(20);

/// Programs of the host whose output is collected.
const COMMANDS: [(&str, &str); 16] = [
    ("kernel/links", "ip -d -s link show"),
    ("kernel/addresses", "ip addr show"),
    ("kernel/routes-ipv4", "ip -4 route show table all"),
    ("kernel/routes-ipv6", "ip -6 route show table all"),
    ("kernel/rules-ipv4", "ip -4 rule show"),
    ("kernel/rules-ipv6", "ip -6 rule show"),
    ("kernel/neighbours", "ip neigh show"),
    ("kernel/fdb", "bridge fdb show"),
    ("kernel/nftables", "nft list ruleset"),
    ("kernel/iptables", "iptables-save"),
    ("kernel/ip6tables", "ip6tables-save"),
    ("kernel/ipsec", "ip xfrm state count"),
    ("kernel/sysctl", "sysctl net.ipv4.ip_forward net.ipv4.conf net.ipv6.conf.all net.bridge"),
    ("kernel/modules", "lsmod"),
    ("host/kernel", "uname -a"),
    ("host/journal", "journalctl --unit flanneld --lines 5000 --no-pager --output short-iso-precise"),
];

/// Requests to the daemon of this node.
const PATHS: [&str; 5] = ["/status", "/peers", "/desired", "/actual", "/diff"];

pub(crate) async fn run(session: &Session, command: SupportCommand) -> anyhow::Result<Outcome> {
    let SupportCommand::Bundle { file } = command;
    // The options of a running daemon take precedence: they determine all paths and secrets.
    let options = Invocation::of(&[], session.store_options(), &session.node)?.options;
    let mut bundle = Bundle { scrubber: Scrubber::default(), files: Vec::new() };
    for store in [&options.store, &session.store_options()] {
        bundle.scrubber.learn_store(store);
    }
    bundle.scrubber.learn_variables(env::vars());
    for process in daemons::processes() {
        bundle.scrubber.learn_variables(process.environment());
    }
    store(session, &options.store, &mut bundle).await;
    let socket = options.status_socket.as_ref().unwrap_or(&session.node.status_socket);
    for path in PATHS {
        bundle.add_json(&format!("daemon{path}"), socket::ask::<Value>(socket, path).await);
    }
    let metrics = socket::text(socket, "/metrics").await.unwrap_or_else(|error| format!("{error:#}\n"));
    bundle.add("daemon/metrics.txt", &metrics);
    bundle.add("daemon/processes.txt", &processes());
    let diagnosis = diagnose(session, &Places::default(), &[]).await;
    bundle.add_json("doctor", diagnosis.and_then(|report| Ok(serde_json::to_value(report)?)));
    for (name, line) in COMMANDS {
        bundle.add(&format!("{name}.txt"), &output_of(line).await);
    }
    files(&options, &mut bundle);
    let version = json!({"version": env!("CARGO_PKG_VERSION"), "atUnixSeconds": unix_now()});
    bundle.add_json("flannelctl", Ok(version));
    bundle.write(&file)?;
    let names: Vec<String> = bundle.files.iter().map(|(name, _)| name.clone()).collect();
    let value = json!({"file": file.display().to_string(), "contents": names});
    session.output.message(
        "known secrets, and texts that resemble one, were removed; review the archive before you share it",
    );
    let text = format!("{} with {} files", file.display(), names.len());
    session.output.page(&Page::lines(value, text).named([file.display()]))?;
    Ok(Outcome::Fine)
}

/// Config and leases.
async fn store(session: &Session, options: &StoreOptions, bundle: &mut Bundle) {
    let read = async {
        let store = options.open()?;
        let mut cluster = Cluster::read(session, &store).await?;
        cluster.request_lives(&store, false).await?;
        anyhow::Ok((store.identity().location.clone(), cluster))
    };
    match read.await {
        Ok((location, cluster)) => {
            let config = cluster.config.as_ref().map_or("", |config| config.text.as_str());
            bundle.scrubber.learn_config(config);
            bundle.add("store/config.json", config);
            let leases: Vec<Value> = cluster.entries.iter().map(Entry::to_json).collect();
            let rejected: Vec<Value> = cluster
                .rejected
                .iter()
                .map(|(record, reason)| json!({"key": record.key, "reason": reason}))
                .collect();
            let value = json!({"store": location, "leases": leases, "rejected": rejected});
            bundle.add_json("store/leases", Ok(value));
        }
        Err(error) => bundle.add("store/error.txt", &format!("{error:#}\n")),
    }
}

/// The command lines of the daemons.
fn processes() -> String {
    let line = |process: Process| {
        let words = process.words("cmdline").unwrap_or_default().join(OsStr::new(" "));
        format!("{} {} {}\n", process.pid, process.state, words.display())
    };
    daemons::processes().into_iter().map(line).collect()
}

/// Files of flannel, and CNI configs.
fn files(options: &Options, bundle: &mut Bundle) {
    let mut paths = vec![options.subnet_file.clone(), PathBuf::from("/etc/os-release")];
    paths.extend(flanneld::state::files(&options.state_dir));
    // Only CNI configs: other files in this directory may contain credentials.
    let configs = Path::new(CONFIGS);
    paths.extend(CniFile::all(configs).into_iter().map(|file| configs.join(file.name)));
    let events = cni::names(Path::new("/run/flannel/events")).into_values();
    paths.extend(events.filter(|path| path.is_file()));
    for path in paths {
        let text = match fs::read(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => format!("could not read it: {error}\n"),
        };
        bundle.add(&format!("files{}", path.display()), &text);
    }
}

async fn output_of(line: &str) -> String {
    let mut words = line.split(' ');
    let program = Program::new(words.next().unwrap_or_default(), LIMIT);
    let program = words.fold(program, Program::argument);
    match program.run().await {
        Ok(output) => format!("# {line}\n{output}"),
        Err(error) => format!("# {line}\n{error}\n"),
    }
}

/// The contents of the archive.
struct Bundle {
    scrubber: Scrubber,
    files: Vec<(String, String)>,
}

impl Bundle {
    fn add(&mut self, name: &str, text: &str) {
        self.files.push((name.to_owned(), text.to_owned()));
    }

    /// Adds a value as JSON, or the reason why it is missing as text.
    fn add_json(&mut self, name: &str, value: anyhow::Result<Value>) {
        match value {
            Ok(value) => self.add(&format!("{name}.json"), &format!("{value:#}\n")),
            Err(error) => self.add(&format!("{name}.txt"), &format!("{error:#}\n")),
        }
    }

    /// Writes the archive, readable by its owner only. Secrets are removed now that all of them are known.
    fn write(&self, path: &Path) -> anyhow::Result<()> {
        let create = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file: File = create.map_err(|error| {
            let message = match error.kind() {
                ErrorKind::AlreadyExists => format!("{} already exists", path.display()),
                _ => format!("could not write {}: {error}", path.display()),
            };
            Failure::new(Kind::Error, message, "Specify another file with --file.")
        })?;
        let written = self.archive(file).with_context(|| format!("could not write {}", path.display()));
        if written.is_err() {
            // An incomplete archive is useless.
            let _ = fs::remove_file(path);
        }
        written
    }

    fn archive(&self, file: File) -> anyhow::Result<()> {
        let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
        for (name, text) in &self.files {
            let text = self.scrubber.clean(text);
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o600);
            header.set_mtime(unix_now());
            archive.append_data(&mut header, format!("flannel-support/{name}"), text.as_bytes())?;
        }
        archive.into_inner()?.finish()?.sync_all()?;
        Ok(())
    }
}
