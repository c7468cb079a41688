//! etcd as it runs in production: one member or three, with or without TLS and users.

use anyhow::{Context, Result};
use ipnet::IpNet;
use serde_json::Value;
use std::cell::RefCell;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::certificates::Certificates;
use crate::http;
use crate::netns::{Netns, stdout_of};
use crate::node::Flanneld;
use crate::service::Service;
use crate::topology::{Cluster, Lab, Nic, Segment};
use crate::{collect, wait};

mod history;

pub use history::{Event, History};

/// The prefix that flannel uses unless told otherwise.
pub const PREFIX: &str = "/coreos.com/network";

/// What kind of etcd.
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    /// One or three.
    pub members: u8,
    /// Encrypted, with a CA of its own.
    pub tls: bool,
    /// Clients must show a certificate of that CA (needs `tls`).
    pub client_certificates: bool,
    /// Reached over IPv6.
    pub v6: bool,
    /// Time to live of tokens, for users with passwords.
    pub token_secs: u32,
}

impl Default for EtcdOptions {
    fn default() -> Self {
        Self { members: 1, tls: false, client_certificates: false, v6: false, token_secs: 300 }
    }
}

impl EtcdOptions {
    /// The arguments that are the same for all members.
    fn arguments(&self) -> [String; 5] {
        // A single member elects itself immediately; three on a busy machine need more time.
        let (heartbeat, election) = if self.members == 1 { (20, 100) } else { (50, 500) };
        [
            format!("--heartbeat-interval={heartbeat}"),
            format!("--election-timeout={election}"),
            format!("--auth-token-ttl={}", self.token_secs),
            "--log-level=error".to_owned(),
            "--unsafe-no-fsync".to_owned(),
        ]
    }
}

/// A running etcd, reachable over its segment at 192.168.50.240 (or fd50::f0) and up.
pub struct Etcd {
    /// The members, each a host of its own.
    pub members: Vec<Member>,
    security: Option<Certificates>,
    client_certificates: bool,
    user: RefCell<Option<(String, String)>>,
}

/// One member.
pub struct Member {
    /// Its host.
    pub netns: Netns,
    /// Its interface: cut it off, or pull its cable.
    pub nic: Nic,
    address: SocketAddr,
    data: PathBuf,
    service: Service,
}

const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;

fn member_address(v6: bool, number: u8) -> SocketAddr {
    let last = 240 + number;
    let ip = if v6 {
        IpAddr::from([0xfd50, 0, 0, 0, 0, 0, 0, u16::from(last)])
    } else {
        IpAddr::from([192, 168, 50, last])
    };
    SocketAddr::new(ip, CLIENT_PORT)
}

fn with_port(address: SocketAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address.ip(), port)
}

/// A CA and certificates of users.
fn make_certificates(lab: &Lab) -> Result<Certificates> {
    let certificates = Certificates::create(lab, "certificates")?;
    make_users(&certificates)?;
    Ok(certificates)
}

/// The client certificates `root` (for etcdctl) and `flannel`.
fn make_users(certificates: &Certificates) -> Result<()> {
    user_certificate(certificates, "root")?;
    user_certificate(certificates, "flannel").map(drop)
}

fn user_certificate(certificates: &Certificates, name: &str) -> Result<(PathBuf, PathBuf)> {
    certificates.client(name, &format!("/CN={name}"))
}

fn server_certificate(certificates: &Certificates, address: IpAddr) -> Result<(PathBuf, PathBuf)> {
    certificates.server(&format!("server-{address}"), &[format!("IP:{address}")])
}

/// The arguments of a member at this address.
fn tls_arguments(certificates: &Certificates, address: IpAddr, of_clients: bool) -> Result<Vec<String>> {
    let (certificate, key) = server_certificate(certificates, address)?;
    let mut arguments =
        vec![format!("--cert-file={}", certificate.display()), format!("--key-file={}", key.display())];
    if of_clients {
        arguments.push("--client-cert-auth".to_owned());
        arguments.push(format!("--trusted-ca-file={}", certificates.ca().display()));
    }
    Ok(arguments)
}

impl Flanneld {
    /// Our daemon, with leases in etcd, all members named, certificates included.
    #[must_use]
    pub fn on_etcd(etcd: &Etcd) -> Self {
        etcd.flags().into_iter().fold(Self::bare(), |flanneld, flag| flanneld.argument(flag))
    }
}

impl Cluster {
    /// One etcd on the segment, at 192.168.50.240.
    pub fn etcd(&self, lab: &Lab) -> Result<Etcd> {
        Etcd::start(lab, &self.lan, &EtcdOptions::default())
    }
}

impl Etcd {
    /// Starts it and waits until it answers.
    pub fn start(lab: &Lab, segment: &Segment, options: &EtcdOptions) -> Result<Self> {
        let security = if options.tls { Some(make_certificates(lab)?) } else { None };
        let scheme = if options.tls { "https" } else { "http" };
        let names: Vec<(String, SocketAddr)> = (0..options.members)
            .map(|number| (format!("etcd{number}"), member_address(options.v6, number)))
            .collect();
        let cluster: Vec<String> = names
            .iter()
            .map(|(name, address)| format!("{name}=http://{}", with_port(*address, PEER_PORT)))
            .collect();
        let mut members = Vec::new();
        for (name, address) in &names {
            let netns = lab.host(name)?;
            let prefix = if options.v6 { 64 } else { 24 };
            let nic = segment.attach(&netns, "eth0", &[IpNet::new(address.ip(), prefix)?])?;
            segment.default_routes(&nic)?;
            let data = lab.directory("etcd-data")?.join(name);
            let peer = with_port(*address, PEER_PORT);
            let mut arguments = vec![
                format!("--name={name}"),
                format!("--data-dir={}", data.display()),
                format!("--listen-client-urls={scheme}://{address}"),
                format!("--advertise-client-urls={scheme}://{address}"),
                format!("--listen-peer-urls=http://{peer}"),
                format!("--initial-advertise-peer-urls=http://{peer}"),
                format!("--initial-cluster={}", cluster.join(",")),
            ];
            arguments.extend(options.arguments());
            if let Some(certificates) = &security {
                arguments.extend(tls_arguments(certificates, address.ip(), options.client_certificates)?);
            }
            let service = Service::new(&netns, name, "etcd", arguments);
            members.push(Member { netns, nic, address: *address, data, service });
        }
        let etcd = Self {
            members,
            security,
            client_certificates: options.client_certificates,
            user: RefCell::new(None),
        };
        for member in &etcd.members {
            member.start()?;
        }
        etcd.wait_healthy()?;
        etcd.note_for_collection(lab)
    }

    /// Waits until it takes reads that need a leader.
    pub fn wait_healthy(&self) -> Result<()> {
        wait::until("etcd answers", wait::LONG, || self.ctl(&["get", "health"]).map(drop))
    }

    fn endpoints(&self) -> String {
        let scheme = if self.security.is_some() { "https" } else { "http" };
        let urls: Vec<String> =
            self.members.iter().map(|member| format!("{scheme}://{}", member.address)).collect();
        urls.join(",")
    }

    /// The flags by which flanneld (or flannelctl) uses this etcd.
    #[must_use]
    pub fn flags(&self) -> Vec<String> {
        let mut flags = vec![format!("--etcd-endpoints={}", self.endpoints())];
        if let Some(certificates) = &self.security {
            flags.push(format!("--etcd-cafile={}", certificates.ca().display()));
            if self.client_certificates {
                let (certificate, key) = certificates.paths("flannel");
                flags.push(format!("--etcd-certfile={}", certificate.display()));
                flags.push(format!("--etcd-keyfile={}", key.display()));
            }
        }
        flags
    }

    /// A client certificate with this common name, which etcd takes as the user's name; file and key.
    pub fn client_certificate(&self, name: &str) -> Result<(PathBuf, PathBuf)> {
        user_certificate(self.security.as_ref().context("this etcd has no TLS")?, name)
    }

    /// Makes `root` with this password, gives user `flannel` the prefix, and turns users on. From here on
    /// [`Etcd::ctl`] works as root.
    pub fn enable_users(&self, root_password: &str, flannel_password: &str) -> Result<()> {
        self.ctl(&["user", "add", &format!("root:{root_password}")])?;
        self.ctl(&["user", "grant-role", "root", "root"])?;
        self.ctl(&["user", "add", &format!("flannel:{flannel_password}")])?;
        self.ctl(&["role", "add", "flannel"])?;
        self.ctl(&["role", "grant-permission", "flannel", "--prefix=true", "readwrite", PREFIX])?;
        self.ctl(&["user", "grant-role", "flannel", "flannel"])?;
        self.ctl(&["auth", "enable"])?;
        *self.user.borrow_mut() = Some(("root".to_owned(), root_password.to_owned()));
        Ok(())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").arg(format!("--endpoints={}", self.endpoints()));
        // Several members: give a dead one no time.
        command.args(["--dial-timeout=2s", "--command-timeout=5s"]);
        if let Some(certificates) = &self.security {
            command.arg(format!("--cacert={}", certificates.ca().display()));
            if self.client_certificates {
                let (certificate, key) = certificates.paths("root");
                command.arg(format!("--cert={}", certificate.display()));
                command.arg(format!("--key={}", key.display()));
            }
        }
        if let Some((name, password)) = &*self.user.borrow() {
            command.arg(format!("--user={name}:{password}"));
        }
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// Runs `etcdctl` on the host of the first member; answers with its stdout.
    pub fn ctl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.command(arguments);
        let output = self.members[0].netns.output(&mut command)?;
        stdout_of(&command, &output)
    }

    /// Runs `etcdctl` and returns the JSON that it prints.
    fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.ctl(&[&["--write-out=json"], arguments].concat())?;
        serde_json::from_str(&text).context("etcdctl did not print JSON")
    }

    /// Writes the network config.
    pub fn set_config(&self, json: &str) -> Result<()> {
        self.put(&format!("{PREFIX}/config"), json)
    }

    /// Writes a key.
    pub fn put(&self, key: &str, value: &str) -> Result<()> {
        self.ctl(&["put", "--", key, value]).map(drop)
    }

    /// Writes a key that expires.
    pub fn put_with_lease(&self, key: &str, value: &str, secs: u32) -> Result<()> {
        let lease = self.grant(secs)?;
        self.ctl(&["put", &format!("--lease={lease}"), "--", key, value]).map(drop)
    }

    /// Makes an etcd lease; its number in etcdctl's notation.
    pub fn grant(&self, secs: u32) -> Result<String> {
        let answer = self.ctl(&["lease", "grant", &secs.to_string()])?;
        answer.split_whitespace().nth(1).map(str::to_owned).with_context(|| format!("not a lease: {answer}"))
    }

    /// The value of a key, if it is there.
    pub fn get(&self, key: &str) -> Result<Option<String>> {
        let answer = self.json(&["get", "--", key])?;
        let Some(value) = answer["kvs"][0].as_object() else { return Ok(None) };
        history::text_of(value.get("value").unwrap_or(&Value::Null)).map(Some)
    }

    /// The record of a key with its revisions and its etcd lease, as `etcdctl` tells it.
    pub fn record_of(&self, key: &str) -> Result<Value> {
        Ok(self.json(&["get", "--", key])?["kvs"][0].take())
    }

    /// How many requests clients have sent to the first member, those over streams included.
    pub fn requests(&self) -> Result<u64> {
        let member = &self.members[0];
        let metrics = http::get(&member.netns, member.address, "/metrics")?;
        let services = ["KV", "Lease", "Watch"].map(|name| format!("grpc_service=\"etcdserverpb.{name}\""));
        let counts = metrics.body.lines().filter(|line| {
            line.starts_with("grpc_server_msg_received_total{")
                && services.iter().any(|service| line.contains(service))
        });
        counts
            .map(|line| {
                let count = line.rsplit(' ').next().unwrap_or_default();
                count.parse::<u64>().with_context(|| format!("not a count: {line}"))
            })
            .sum()
    }

    /// Deletes a key.
    pub fn delete(&self, key: &str) -> Result<()> {
        self.ctl(&["del", "--", key]).map(drop)
    }

    /// Keys and values below a prefix.
    pub fn list(&self, prefix: &str) -> Result<Vec<Event>> {
        let answer = self.json(&["get", "--prefix", "--", prefix])?;
        answer["kvs"].as_array().map_or_else(|| Ok(Vec::new()), |kvs| kvs.iter().map(Event::of).collect())
    }

    /// The lease records: subnet keys without the prefix, and values.
    pub fn leases(&self) -> Result<Vec<(String, String)>> {
        let prefix = format!("{PREFIX}/subnets/");
        let records = self.list(&prefix)?;
        Ok(records
            .into_iter()
            .map(|event| (event.key.trim_start_matches(&prefix).to_owned(), event.value.unwrap_or_default()))
            .collect())
    }

    /// The newest revision.
    pub fn revision(&self) -> Result<i64> {
        let answer = self.json(&["get", "revision"])?;
        answer["header"]["revision"].as_i64().context("an answer without a revision")
    }

    /// Forgets all history.
    pub fn compact(&self) -> Result<()> {
        self.ctl(&["compact", "--physical=true", &self.revision()?.to_string()]).map(drop)
    }

    /// Ends all members, as a crash would.
    pub fn kill(&self) -> Result<()> {
        self.members.iter().try_for_each(Member::kill)
    }

    /// Starts all members again with their data.
    pub fn restart(&self) -> Result<()> {
        for member in &self.members {
            member.start()?;
        }
        self.wait_healthy()
    }

    /// Replaces it by an empty one, as someone does who lost the disk.
    pub fn wipe(&self) -> Result<()> {
        self.kill()?;
        for member in &self.members {
            fs::remove_dir_all(&member.data)
                .with_context(|| format!("could not remove {}", member.data.display()))?;
        }
        self.restart()
    }

    /// Saves all that it holds (of one member) to a file.
    pub fn save(&self, file: &Path) -> Result<()> {
        self.ctl(&["snapshot", "save", &file.display().to_string()]).map(drop)
    }

    /// Puts what was saved in the place of what it holds now, as someone does whose disk was lost.
    pub fn restore(&self, file: &Path) -> Result<()> {
        self.kill()?;
        for member in &self.members {
            fs::remove_dir_all(&member.data)
                .with_context(|| format!("could not remove {}", member.data.display()))?;
            let mut command = Command::new("etcdctl");
            command.args(["snapshot", "restore"]).arg(file);
            let of_member =
                ["--name=", "--data-dir=", "--initial-cluster=", "--initial-advertise-peer-urls="];
            let arguments = member.service.arguments();
            command.args(arguments.iter().filter(|word| of_member.iter().any(|flag| word.starts_with(flag))));
            member.netns.checked(&mut command)?;
        }
        self.restart()
    }

    /// Exchanges the CA and all certificates, in the same files, and starts it again.
    pub fn exchange_certificates(&self) -> Result<()> {
        let certificates = self.security.as_ref().context("an etcd without TLS")?;
        self.kill()?;
        certificates.make()?;
        make_users(certificates)?;
        for member in &self.members {
            server_certificate(certificates, member.address.ip())?;
        }
        self.restart()
    }

    fn note_for_collection(self, lab: &Lab) -> Result<Self> {
        // From "/" on: all keys that anybody uses here. An empty word would get lost on the way.
        let command = self.command(&["get", "--from-key", "/", "--write-out=fields"]);
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let line = words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
        collect::on_failure(lab, &self.members[0].netns, &line)?;
        Ok(self)
    }
}

impl Member {
    /// Starts it; it may take a while until it answers.
    pub fn start(&self) -> Result<()> {
        self.service.start()
    }

    /// Ends it, as a crash would.
    pub fn kill(&self) -> Result<()> {
        self.service.kill()
    }

    /// The address where clients reach it.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}
