//! etcd as it runs in production: one member or three, with or without TLS and users.

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use serde_json::Value;
use std::cell::RefCell;
use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::base64;
use crate::http;
use crate::netns::{Netns, stdout_of};
use crate::topology::{DIRECTORY, Lab, Nic, Segment};
use crate::wait;

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
    arguments: Vec<String>,
    data: PathBuf,
    child: RefCell<Option<Child>>,
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

/// Files of keys and certificates.
#[derive(Clone, Debug)]
struct Certificates {
    directory: PathBuf,
}

impl Etcd {
    /// Starts it and waits until it answers.
    pub fn start(lab: &Lab, segment: &Segment, options: &EtcdOptions) -> Result<Self> {
        let security = if options.tls { Some(Certificates::create(lab)?) } else { None };
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
            // The election time of one member is over at once; three on a busy machine need some.
            let (heartbeat, election) = if options.members == 1 { (20, 100) } else { (50, 500) };
            let peer = with_port(*address, PEER_PORT);
            let mut arguments: Vec<String> = [
                format!("--name={name}"),
                format!("--data-dir={}", data.display()),
                format!("--listen-client-urls={scheme}://{address}"),
                format!("--advertise-client-urls={scheme}://{address}"),
                format!("--listen-peer-urls=http://{peer}"),
                format!("--initial-advertise-peer-urls=http://{peer}"),
                format!("--initial-cluster={}", cluster.join(",")),
                format!("--heartbeat-interval={heartbeat}"),
                format!("--election-timeout={election}"),
                format!("--auth-token-ttl={}", options.token_secs),
                "--log-level=error".to_owned(),
                "--unsafe-no-fsync".to_owned(),
            ]
            .into();
            if let Some(certificates) = &security {
                let (certificate, key) = certificates.server(address.ip())?;
                arguments.push(format!("--cert-file={}", certificate.display()));
                arguments.push(format!("--key-file={}", key.display()));
                if options.client_certificates {
                    arguments.push("--client-cert-auth".to_owned());
                    arguments.push(format!("--trusted-ca-file={}", certificates.ca().display()));
                }
            }
            members.push(Member {
                netns,
                nic,
                address: *address,
                arguments,
                data,
                child: RefCell::new(None),
            });
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
        self.security.as_ref().context("this etcd has no TLS")?.client(name)
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
        let answer = self.ctl(&["get", "--write-out=json", "--", key])?;
        let answer: Value = serde_json::from_str(&answer).context("etcdctl did not answer JSON")?;
        let Some(value) = answer["kvs"][0].as_object() else { return Ok(None) };
        text_of(value.get("value").unwrap_or(&Value::Null)).map(Some)
    }

    /// The record of a key with its revisions and its etcd lease, as `etcdctl` tells it.
    pub fn record_of(&self, key: &str) -> Result<Value> {
        let answer = self.ctl(&["get", "--write-out=json", "--", key])?;
        let mut answer: Value = serde_json::from_str(&answer).context("etcdctl did not answer JSON")?;
        Ok(answer["kvs"][0].take())
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
        let answer = self.ctl(&["get", "--prefix", "--write-out=json", "--", prefix])?;
        let answer: Value = serde_json::from_str(&answer).context("etcdctl did not answer JSON")?;
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
        let answer = self.ctl(&["get", "--write-out=json", "revision"])?;
        let answer: Value = serde_json::from_str(&answer).context("etcdctl did not answer JSON")?;
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
            command.args(
                member.arguments.iter().filter(|word| of_member.iter().any(|flag| word.starts_with(flag))),
            );
            member.netns.checked(&mut command)?;
        }
        self.restart()
    }

    /// Exchanges the CA and all certificates, in the same files, and starts it again.
    pub fn exchange_certificates(&self) -> Result<()> {
        let certificates = self.security.as_ref().context("an etcd without TLS")?;
        self.kill()?;
        certificates.make()?;
        for member in &self.members {
            certificates.server(member.address.ip())?;
        }
        self.restart()
    }

    /// Keeps every change below the prefix from now on, whatever is compacted later.
    pub fn record(&self) -> Result<History> {
        let file = Path::new(DIRECTORY).join("log").join("etcd-history.json");
        let from = self.revision()? + 1;
        let output = File::create(&file).with_context(|| format!("could not create {}", file.display()))?;
        let from = format!("--rev={from}");
        let mut command = self.command(&["watch", "--prefix", &from, "--write-out=json", PREFIX]);
        command.stdout(output).stderr(Stdio::null());
        self.members[0].netns.spawn(&mut command)?;
        Ok(History { file })
    }

    fn note_for_collection(self, lab: &Lab) -> Result<Self> {
        // From "/" on: all keys that anybody uses here. An empty word would get lost on the way.
        let command = self.command(&["get", "--from-key", "/", "--write-out=fields"]);
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let line = words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
        fs::write(lab.directory("etcd-ctl")?.join(self.members[0].netns.name()), line)
            .context("could not write down how to dump etcd")?;
        Ok(self)
    }
}

impl Member {
    /// Starts it; it may take a while until it answers.
    pub fn start(&self) -> Result<()> {
        ensure!(self.child.borrow().is_none(), "{} is running already", self.netns.name());
        let path = Path::new(DIRECTORY).join("log").join(format!("{}.log", self.netns.name()));
        let log = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("could not open {}", path.display()))?;
        let mut command = Command::new("etcd");
        command
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("could not share a log")?)
            .stderr(log);
        *self.child.borrow_mut() = Some(self.netns.spawn(&mut command)?);
        Ok(())
    }

    /// Ends it, as a crash would.
    pub fn kill(&self) -> Result<()> {
        let mut child = self.child.borrow_mut().take().context("this member is not running")?;
        child.kill().context("could not kill a member")?;
        child.wait().context("could not wait for a member").map(drop)
    }

    /// The address where clients reach it.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub revision: i64,
    /// Which key.
    pub key: String,
    /// The new value, or `None` for a deletion.
    pub value: Option<String>,
}

impl Event {
    fn of(record: &Value) -> Result<Self> {
        Ok(Self {
            revision: record["mod_revision"].as_i64().context("a record without a revision")?,
            key: text_of(&record["key"])?,
            value: Some(text_of(&record["value"])?),
        })
    }
}

/// Every change since [`Etcd::record`].
pub struct History {
    file: PathBuf,
}

impl History {
    /// All changes up to what etcd holds now.
    pub fn events(&self, etcd: &Etcd) -> Result<Vec<Event>> {
        // Something of our own at the end shows that everything before it has been seen.
        let mark = format!("{PREFIX}/end-of-history");
        etcd.put(&mark, "")?;
        let events = wait::until("the history is complete", wait::LONG, || {
            let events = self.read()?;
            ensure!(events.iter().any(|event| event.key == mark), "{} events", events.len());
            Ok(events)
        })?;
        etcd.delete(&mark)?;
        Ok(events.into_iter().filter(|event| event.key != mark).collect())
    }

    fn read(&self) -> Result<Vec<Event>> {
        let text = fs::read_to_string(&self.file)
            .with_context(|| format!("could not read {}", self.file.display()))?;
        let mut events = Vec::new();
        // The last line may be half written.
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let answer: Value =
                serde_json::from_str(line).with_context(|| format!("not an answer: {line}"))?;
            for event in answer["Events"].as_array().into_iter().flatten() {
                let mut found = Event::of(&event["kv"])?;
                if event["type"] == 1 {
                    found.value = None;
                }
                events.push(found);
            }
        }
        Ok(events)
    }
}

impl Certificates {
    /// A CA and the client certificates `root` (for etcdctl) and `flannel`.
    fn create(lab: &Lab) -> Result<Self> {
        let certificates = Self { directory: lab.directory("certificates")? };
        certificates.make()?;
        Ok(certificates)
    }

    fn make(&self) -> Result<()> {
        let (certificate, key) = self.paths("ca");
        self.openssl(&certificate, &key, "/CN=lab-ca", &[])?;
        self.client("root")?;
        self.client("flannel").map(drop)
    }

    fn paths(&self, name: &str) -> (PathBuf, PathBuf) {
        (self.directory.join(format!("{name}.crt")), self.directory.join(format!("{name}.key")))
    }

    fn ca(&self) -> PathBuf {
        self.paths("ca").0
    }

    fn server(&self, address: IpAddr) -> Result<(PathBuf, PathBuf)> {
        let name = format!("server-{address}");
        let usage = "extendedKeyUsage=serverAuth,clientAuth";
        self.signed(&name, &[&format!("subjectAltName=IP:{address}"), usage])
    }

    fn client(&self, name: &str) -> Result<(PathBuf, PathBuf)> {
        self.signed(name, &["extendedKeyUsage=clientAuth"])
    }

    fn signed(&self, name: &str, extensions: &[&str]) -> Result<(PathBuf, PathBuf)> {
        let (certificate, key) = self.paths(name);
        let (ca, ca_key) = self.paths("ca");
        let (ca, ca_key) = (ca.display().to_string(), ca_key.display().to_string());
        let mut arguments = vec!["-CA", &ca, "-CAkey", &ca_key, "-addext", "basicConstraints=CA:FALSE"];
        for extension in extensions {
            arguments.extend(["-addext", extension]);
        }
        self.openssl(&certificate, &key, &format!("/CN={name}"), &arguments)?;
        Ok((certificate, key))
    }

    fn openssl(&self, certificate: &Path, key: &Path, subject: &str, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new("openssl");
        command
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "2",
            ])
            .args(["-subj", subject])
            .arg("-out")
            .arg(certificate)
            .arg("-keyout")
            .arg(key)
            .args(arguments)
            .current_dir(&self.directory);
        let output = command.output().context("could not start openssl")?;
        stdout_of(&command, &output).map(drop)
    }
}

/// The text in a field of etcd's JSON, where bytes are base64 and an empty value is left out.
fn text_of(field: &Value) -> Result<String> {
    let bytes = base64::decode(field.as_str().unwrap_or_default())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
