//! `flannelctl support`: everything that a report of a problem needs, in one archive, without secrets.

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
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::doctor::{Places, diagnose};
use crate::failure::{Failure, Kind, Outcome};
use crate::node::cluster::{Cluster, Entry};
use crate::node::cni::{self, CONFIGS, CniFile};
use crate::node::daemon::Invocation;
use crate::node::socket;
use crate::output::Page;
use crate::session::Session;
use scrub::Scrubber;

#[derive(Debug, Subcommand)]
pub(crate) enum SupportCommand {
    /// Write an archive with status, leases, config, kernel state and logs of this node, secrets taken out
    Bundle {
        /// The archive to be written; it must not exist
        #[arg(long, default_value = "flannel-support.tar.gz", value_name = "FILE")]
        file: PathBuf,
    },
}

/// For each program: a disk or a firewall that hangs must not keep the rest from being collected.
const LIMIT: Duration = Duration::from_secs(20);

/// What is asked of the programs of the host. One that is missing costs its own part only.
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

/// What the daemon of this node is asked.
const PATHS: [&str; 5] = ["status", "peers", "desired", "actual", "diff"];

pub(crate) async fn run(session: &Session, command: SupportCommand) -> anyhow::Result<Outcome> {
    let SupportCommand::Bundle { file } = command;
    // A daemon that runs knows best where everything is, and which secrets there are.
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
        match socket::ask::<Value>(socket, &format!("/{path}")) {
            Ok(value) => bundle.add(&format!("daemon/{path}.json"), &format!("{value:#}\n")),
            Err(error) => bundle.add(&format!("daemon/{path}.txt"), &format!("{error:#}\n")),
        }
    }
    let metrics = socket::text(socket, "/metrics").unwrap_or_else(|error| format!("{error:#}\n"));
    bundle.add("daemon/metrics.txt", &metrics);
    bundle.add("daemon/processes.txt", &processes());
    match diagnose(session, &Places::default(), &[]).await {
        Ok(report) => bundle.add("doctor.json", &format!("{:#}\n", serde_json::to_value(report)?)),
        Err(error) => bundle.add("doctor.txt", &format!("{error:#}\n")),
    }
    for (name, line) in COMMANDS {
        bundle.add(&format!("{name}.txt"), &output_of(line).await);
    }
    files(&options, &mut bundle);
    let version = json!({"version": env!("CARGO_PKG_VERSION"), "time": now()});
    bundle.add("flannelctl.json", &format!("{version:#}\n"));
    bundle.write(&file)?;
    let names: Vec<String> = bundle.files.iter().map(|(name, _)| name.clone()).collect();
    let value = json!({"file": file.display().to_string(), "contents": names});
    session.output.message(
        "secrets that are known or look like one were taken out: look through it before you pass it on",
    );
    let text = format!("{} with {} files", file.display(), names.len());
    session.output.page(&Page::lines(value, text).named(vec![file.display().to_string()]))?;
    Ok(Outcome::Fine)
}

/// Config and leases.
async fn store(session: &Session, options: &StoreOptions, bundle: &mut Bundle) {
    let read = async {
        let store = options.open()?;
        let mut cluster = Cluster::read(session, &store).await?;
        cluster.ask_lives(&store, false).await?;
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
            bundle.add("store/leases.json", &format!("{value:#}\n"));
        }
        Err(error) => bundle.add("store/error.txt", &format!("{error:#}\n")),
    }
}

/// How the daemons were started.
fn processes() -> String {
    let line = |process: Process| {
        let words = process.words("cmdline").unwrap_or_default().join(OsStr::new(" "));
        format!("{} {} {}\n", process.pid, process.state, words.display())
    };
    daemons::processes().into_iter().map(line).collect()
}

/// The files of flannel and of the container runtime that concern it.
fn files(options: &Options, bundle: &mut Bundle) {
    let mut paths = vec![options.subnet_file.clone(), PathBuf::from("/etc/os-release")];
    paths.extend(flanneld::state::files(&options.state_dir));
    // Others keep credentials beside their configs.
    let configs = Path::new(CONFIGS);
    paths.extend(CniFile::all(configs).into_iter().map(|file| configs.join(file.name)));
    let events = cni::names(Path::new("/run/flannel/events")).into_values();
    paths.extend(events.filter(|path| path.is_file()));
    for path in paths {
        let text = match fs::read(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => format!("could not be read: {error}\n"),
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

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// What goes into the archive.
struct Bundle {
    scrubber: Scrubber,
    files: Vec<(String, String)>,
}

impl Bundle {
    fn add(&mut self, name: &str, text: &str) {
        self.files.push((name.to_owned(), text.to_owned()));
    }

    /// Writes the archive, for its user alone. Secrets go here, when all of them are known.
    fn write(&self, path: &Path) -> anyhow::Result<()> {
        let create = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file: File = create.map_err(|error| {
            let message = match error.kind() {
                ErrorKind::AlreadyExists => format!("{} is there already", path.display()),
                _ => format!("could not write {}: {error}", path.display()),
            };
            Failure::new(Kind::Error, message, "name another file with --file")
        })?;
        let written = self.archive(file).with_context(|| format!("could not write {}", path.display()));
        if written.is_err() {
            // Half of an archive helps nobody.
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
            header.set_mtime(now());
            archive.append_data(&mut header, format!("flannel-support/{name}"), text.as_bytes())?;
        }
        archive.into_inner()?.finish()?.sync_all()?;
        Ok(())
    }
}
