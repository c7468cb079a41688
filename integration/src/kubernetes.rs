//! A real control plane of Kubernetes: etcd, API server and, where a test needs them, controller manager and scheduler, on a
//! host of their own. `integration/kubernetes` is the Go module that the runner builds these programs from.

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::certificates::Certificates;
use crate::feature::Feature;
use crate::netns::Netns;
use crate::service::Service;
use crate::topology::{Cluster, Lab, Nic, Segment};
use crate::{collect, wait};

mod account;
mod client;
mod object;
mod worker;

pub use account::{ACCOUNT, MANIFEST, NAMESPACE, documents};
pub use client::{Answer, Client, Identity};
pub use object::{annotations, condition, node, node_with_cidrs, pod_cidrs};
pub use worker::Worker;

/// What a test may choose.
#[derive(Clone, Debug)]
pub struct ControlPlaneOptions {
    /// The prefixes that the controller manager assigns podCIDRs from, separated by commas: one of each family at most.
    pub cluster_cidr: String,
    /// More arguments for the API server.
    pub api_server: Vec<String>,
}

impl Default for ControlPlaneOptions {
    fn default() -> Self {
        Self { cluster_cidr: "10.42.0.0/16,fd42::/48".to_owned(), api_server: Vec::new() }
    }
}

/// A running control plane, reachable over its segment at 192.168.50.230 and fd50::e6.
pub struct ControlPlane {
    /// Its host.
    pub netns: Netns,
    /// Its interface: cut it off, or pull its cable.
    pub nic: Nic,
    /// The store of the API server.
    pub etcd: Service,
    /// The API server.
    pub api_server: Service,
    /// The controllers; see [`ControlPlane::start_controllers`].
    pub controllers: Service,
    /// The scheduler; see [`ControlPlane::start_scheduler`].
    pub scheduler: Service,
    /// A client with all rights.
    pub admin: Client,
    certificates: Certificates,
    directory: PathBuf,
}

const NAME: &str = "control-plane";
const ADMIN: &str = "admin";
const ISSUER: &str = "issuer";
const ADDRESSES: [&str; 2] = ["192.168.50.230/24", "fd50::e6/64"];
/// Where clients reach the API server.
pub const SERVER: &str = "https://192.168.50.230:6443";
/// The same over IPv6.
pub const SERVER_V6: &str = "https://[fd50::e6]:6443";
/// The addresses of services; the API server has the first one itself.
const SERVICES: &str = "10.43.0.0/16,fd43::/112";
/// The address of the API server's own service.
pub const SERVICE: &str = "10.43.0.1";
const SERVICE_V6: &str = "fd43::1";

/// Those that the tests need. Others only take time on a small machine.
const CONTROLLERS: &str = "node-ipam-controller,node-lifecycle-controller,serviceaccount-controller,\
    root-ca-certificate-publisher-controller,daemonset-controller,namespace-controller,\
    garbage-collector-controller,endpointslice-controller,endpoints-controller,pod-garbage-collector-controller";

impl Cluster {
    /// etcd and the API server on the segment, at 192.168.50.230.
    pub fn control_plane(&self, lab: &Lab) -> Result<ControlPlane> {
        ControlPlane::start(lab, &self.lan, &ControlPlaneOptions::default())
    }
}

impl ControlPlane {
    /// Starts etcd and the API server and waits until they answer. Skips the test where the programs are missing.
    pub fn start(lab: &Lab, segment: &Segment, options: &ControlPlaneOptions) -> Result<Self> {
        lab.require(&[Feature::Kubernetes, Feature::Kubectl, Feature::Curl, Feature::Openssl])?;
        let netns = lab.host(NAME)?;
        let addresses = ADDRESSES.iter().map(|text| text.parse()).collect::<Result<Vec<IpNet>, _>>()?;
        let nic = segment.attach(&netns, "eth0", &addresses)?;
        segment.default_routes(&nic)?;
        let directory = lab.directory(NAME)?;
        let certificates = Certificates::create(lab, &format!("{NAME}/certificates"))?;
        let identity = Identity::certificate(certificates.client(ADMIN, "/O=system:masters/CN=admin")?);
        // The issuer of tokens has a key of its own, which survives new certificates.
        certificates.client(ISSUER, "/CN=issuer")?;
        let admin = Client::new(&netns, SERVER, &certificates.ca(), identity, &directory.join("admin.conf"))?;
        let service = |name: &str, arguments: Vec<String>| -> Result<Service> {
            Ok(Service::new(&netns, name, component(name)?, arguments))
        };
        let control_plane = Self {
            etcd: service("etcd", etcd_arguments(&directory))?,
            api_server: service("kube-apiserver", api_server_arguments(&certificates, options)?)?,
            controllers: service(
                "kube-controller-manager",
                controller_arguments(&certificates, &admin, options),
            )?,
            scheduler: service("kube-scheduler", client_arguments(&admin))?,
            admin,
            netns,
            nic,
            certificates,
            directory,
        };
        let line = control_plane.admin.kubectl_line(
            "get -A -o yaml nodes,pods,daemonsets,configmaps,serviceaccounts,services,endpointslices,events",
        );
        collect::on_failure(lab, &control_plane.netns, &line)?;
        control_plane.etcd.start()?;
        control_plane.api_server.start()?;
        control_plane.wait_ready()?;
        Ok(control_plane)
    }

    /// Waits until the API server reports that it is ready.
    pub fn wait_ready(&self) -> Result<()> {
        // Of a program that has ended, nothing will come.
        let ended = wait::until("the API server is ready", wait::LONG * 2, || {
            if let Err(ended) = self.etcd.check_running().and_then(|()| self.api_server.check_running()) {
                return Ok(Some(ended));
            }
            let answer = self.admin.call("GET", "/readyz")?;
            ensure!(answer.status == 200, "{answer:?}; {}", self.api_server.log_tail());
            Ok(None)
        })?;
        ended.map_or(Ok(()), Err)
    }

    /// Starts the controllers: nodes get podCIDRs, DaemonSets get pods, deleted objects take along what they own.
    pub fn start_controllers(&self) -> Result<()> {
        self.controllers.start()
    }

    /// Starts the scheduler, which gives pods their nodes; those of DaemonSets, too.
    pub fn start_scheduler(&self) -> Result<()> {
        self.scheduler.start()
    }

    /// A client with this identity, on the host of the control plane.
    pub fn client(&self, name: &str, identity: Identity) -> Result<Client> {
        let file = self.directory.join(format!("{name}.conf"));
        Client::new(&self.netns, SERVER, &self.certificates.ca(), identity, &file)
    }

    /// The certificate of the CA of the API server.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.certificates.ca()
    }

    /// Certificate and key of a user with this subject, such as `/O=system:nodes/CN=system:node:n1`.
    pub fn user_certificate(&self, name: &str, subject: &str) -> Result<(PathBuf, PathBuf)> {
        self.certificates.client(name, subject)
    }

    /// Stops the API server and etcd and copies what they hold, as a backup does. Both run again afterwards.
    pub fn save(&self, name: &str) -> Result<()> {
        self.while_stopped(|| copy(&self.data(), &self.directory.join(name)))
    }

    /// Replaces what they hold by the copy of this name: revisions go back.
    pub fn restore(&self, name: &str) -> Result<()> {
        self.while_stopped(|| {
            let data = self.data();
            fs::remove_dir_all(&data).with_context(|| format!("could not remove {}", data.display()))?;
            copy(&self.directory.join(name), &data)
        })
    }

    fn while_stopped(&self, work: impl FnOnce() -> Result<()>) -> Result<()> {
        self.api_server.kill()?;
        self.etcd.kill()?;
        work()?;
        self.etcd.start()?;
        self.api_server.start()?;
        self.wait_ready()
    }

    fn data(&self) -> PathBuf {
        data(&self.directory)
    }
}

/// The file of one of the programs that the runner built.
pub fn component(name: &str) -> Result<PathBuf> {
    let directory = std::env::var_os("FLANNEL_E2E_KUBERNETES")
        .context("FLANNEL_E2E_KUBERNETES is not set: `cargo xtask e2e kubernetes` sets it")?;
    let file = Path::new(&directory).join(name);
    ensure!(file.exists(), "{} does not exist", file.display());
    Ok(file)
}

fn data(directory: &Path) -> PathBuf {
    directory.join("etcd")
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let failed = || format!("could not copy {} to {}", from.display(), to.display());
    let copied = |error: io::Error| Err(error).with_context(failed);
    let status = std::process::Command::new("cp").arg("-r").args([from, to]).status().or_else(copied)?;
    ensure!(status.success(), "{}", failed());
    Ok(())
}

fn etcd_arguments(directory: &Path) -> Vec<String> {
    vec![
        format!("--data-dir={}", data(directory).display()),
        "--listen-client-urls=http://127.0.0.1:2379".to_owned(),
        "--advertise-client-urls=http://127.0.0.1:2379".to_owned(),
        "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
        // A single member elects itself immediately.
        "--heartbeat-interval=20".to_owned(),
        "--election-timeout=100".to_owned(),
        "--log-level=warn".to_owned(),
        "--unsafe-no-fsync".to_owned(),
    ]
}

fn api_server_arguments(certificates: &Certificates, options: &ControlPlaneOptions) -> Result<Vec<String>> {
    let ips = ADDRESSES.iter().filter_map(|text| text.split('/').next()).chain([SERVICE, SERVICE_V6]);
    let mut names: Vec<String> = ips.map(|ip| format!("IP:{ip}")).collect();
    names.extend(["DNS:kubernetes.default.svc".to_owned(), "DNS:localhost".to_owned()]);
    let (certificate, key) = certificates.server(NAME, &names)?;
    let (issuer, issuer_key) = certificates.paths(ISSUER);
    let ca = certificates.ca();
    let file = |flag: &str, path: &Path| format!("--{flag}={}", path.display());
    let mut arguments = vec![
        "--etcd-servers=http://127.0.0.1:2379".to_owned(),
        "--bind-address=::".to_owned(),
        "--secure-port=6443".to_owned(),
        format!("--advertise-address={}", address(true)?),
        format!("--service-cluster-ip-range={SERVICES}"),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        file("service-account-key-file", &issuer),
        file("service-account-signing-key-file", &issuer_key),
        file("tls-cert-file", &certificate),
        file("tls-private-key-file", &key),
        file("client-ca-file", &ca),
        // Kubelets serve certificates of their own, which nothing here verifies.
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        file("kubelet-client-certificate", &certificates.paths(ADMIN).0),
        file("kubelet-client-key", &certificates.paths(ADMIN).1),
        // flannel's pods need capabilities only, but tests of its udp backend or of kube-proxy may need all.
        "--allow-privileged=true".to_owned(),
    ];
    arguments.extend(options.api_server.iter().cloned());
    Ok(arguments)
}

fn client_arguments(admin: &Client) -> Vec<String> {
    vec![
        format!("--kubeconfig={}", admin.kubeconfig().display()),
        "--leader-elect=false".to_owned(),
        "--secure-port=0".to_owned(),
        // Tests make many objects at once.
        "--kube-api-qps=500".to_owned(),
        "--kube-api-burst=500".to_owned(),
    ]
}

fn controller_arguments(
    certificates: &Certificates,
    admin: &Client,
    options: &ControlPlaneOptions,
) -> Vec<String> {
    let mut arguments = client_arguments(admin);
    arguments.extend([
        format!("--controllers={CONTROLLERS}"),
        "--allocate-node-cidrs=true".to_owned(),
        format!("--cluster-cidr={}", options.cluster_cidr),
        format!("--service-cluster-ip-range={SERVICES}"),
        format!("--service-account-private-key-file={}", certificates.paths(ISSUER).1.display()),
        format!("--root-ca-file={}", certificates.ca().display()),
    ]);
    arguments
}

/// The address of the control plane of a family.
pub fn address(v4: bool) -> Result<IpAddr> {
    let net: IpNet = ADDRESSES[usize::from(!v4)].parse()?;
    Ok(net.addr())
}
