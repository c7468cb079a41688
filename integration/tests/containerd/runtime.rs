//! containerd on a node, as the kubelet uses it: pods through the Container Runtime Interface.

use anyhow::{Context, Result, bail, ensure};
use integration::image::{self, NAME, PROGRAM};
use integration::{Lab, Machine, Netns, containerd, readme, wait};
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{
    ContainerConfig, ContainerMetadata, CreateContainerRequest, ExecSyncRequest, ImageSpec,
    ImageStatusRequest, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, ListPodSandboxRequest,
    NamespaceMode, NamespaceOption, PodSandboxConfig, PodSandboxMetadata, PodSandboxState,
    PodSandboxStatusRequest, PortMapping, Protocol, RemovePodSandboxRequest, RunPodSandboxRequest,
    StartContainerRequest, StatusRequest, StopPodSandboxRequest,
};
use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// How long one request may take, on a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_secs(90);

/// containerd on one node. Dropping the handle leaves it running.
pub(crate) struct Containerd {
    netns: Netns,
    log: std::path::PathBuf,
    runtime: Runtime,
    channel: Channel,
    child: Child,
}

/// A pod.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) name: String,
    /// IPv4 first.
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) id: String,
    config: PodSandboxConfig,
    /// A container in it that waits, for [`Containerd::ask`].
    container: Option<String>,
}

/// What the pod at the other end said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The pod that answered.
    pub(crate) pod: String,
    /// From where it saw the question come.
    pub(crate) seen: IpAddr,
}

impl Containerd {
    /// Starts it on a node where it is configured, and waits until it can run pods.
    pub(crate) fn start(lab: &Lab, machine: &Machine) -> Result<Self> {
        let log = lab.directory("log")?.join(format!("{}.containerd.log", machine.netns().name()));
        let child = spawn(machine.netns(), &log)?;
        let socket = machine.memory("containerd").join("containerd.sock");
        let runtime = Builder::new_current_thread().enable_all().build().context("no runtime")?;
        let channel = {
            let _guard = runtime.enter();
            Endpoint::try_from(format!("unix://{}", socket.display()))
                .context("not an address of a socket")?
                .connect_lazy()
        };
        let containerd = Self { netns: machine.netns().clone(), log, runtime, channel, child };
        containerd.wait_ready()?;
        containerd.import(lab)?;
        Ok(containerd)
    }

    /// Kills it without a warning: pods stay.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill().context("could not kill containerd")?;
        self.child.wait().map(drop).context("could not wait for containerd")
    }

    /// Starts it again after [`Containerd::kill`].
    pub(crate) fn start_again(&mut self) -> Result<()> {
        self.child = spawn(&self.netns, &self.log)?;
        self.wait_ready()
    }

    /// Starts it again with its present configuration.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.kill()?;
        self.start_again()
    }

    /// What it reports about its CNI plugins and networks.
    pub(crate) fn cni_state(&self) -> Result<serde_json::Value> {
        let status = self.call(self.client().status(StatusRequest { verbose: true }))?;
        let state = status.info.get("cniconfig").context("a status without CNI")?;
        serde_json::from_str(state).with_context(|| format!("not JSON: {state}"))
    }

    /// Waits until runtime and network are ready.
    fn wait_ready(&self) -> Result<()> {
        let what = format!("containerd on {} is ready", self.netns.name());
        wait::until(what, wait::LONG, || {
            let status = self
                .call(self.client().status(StatusRequest::default()))
                .with_context(|| tail(&self.log))?
                .status
                .context("a status without content")?;
            match status.conditions.iter().find(|condition| !condition.status) {
                Some(condition) => bail!("{}: {}", condition.r#type, condition.message),
                None => Ok(()),
            }
        })
    }

    /// Gives it the image that all containers are made from.
    fn import(&self, lab: &Lab) -> Result<()> {
        let archive = image::archive(lab, NAME, &[])?;
        self.netns.run(&format!("ctr -n k8s.io images import {}", archive.display()))?;
        let spec = ImageSpec { image: NAME.to_owned(), ..Default::default() };
        wait::until("the image is known", wait::LONG, || {
            let request = ImageStatusRequest { image: Some(spec.clone()), verbose: false };
            let mut client = ImageServiceClient::new(self.channel.clone());
            self.call(client.image_status(request))?.image.context("no such image").map(drop)
        })
    }

    /// Runs a pod that answers, with a container to ask others from.
    pub(crate) fn run(&self, name: &str) -> Result<Pod> {
        self.run_config(sandbox_config(name, &[]))
    }

    /// The same, with its port 8080 published on these ports of the node, for TCP and UDP.
    pub(crate) fn run_with_ports(&self, name: &str, host_ports: &[u16]) -> Result<Pod> {
        self.run_config(sandbox_config(name, host_ports))
    }

    /// The same, with annotations.
    pub(crate) fn run_annotated(&self, name: &str, annotations: &[(&str, &str)]) -> Result<Pod> {
        let mut config = sandbox_config(name, &[]);
        config.annotations =
            annotations.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        self.run_config(config)
    }

    fn run_config(&self, config: PodSandboxConfig) -> Result<Pod> {
        let mut pod = self.runtime.block_on(run(self.client(), config))?;
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: "box".to_owned(), attempt: 0 }),
            image: Some(ImageSpec { image: NAME.to_owned(), ..Default::default() }),
            command: vec![PROGRAM.to_owned()],
            args: vec!["wait".to_owned()],
            ..Default::default()
        };
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(config),
            sandbox_config: Some(pod.config.clone()),
        };
        let container = self.call(self.client().create_container(request))?.container_id;
        self.call(self.client().start_container(StartContainerRequest { container_id: container.clone() }))?;
        pod.container = Some(container);
        Ok(pod)
    }

    /// Runs pods, all at once, without a container to ask from.
    pub(crate) fn run_all(&self, names: impl IntoIterator<Item = String>) -> Result<Vec<Pod>> {
        self.all(names.into_iter().map(|name| run(self.client(), sandbox_config(&name, &[]))))
    }

    /// Stops a pod and removes it.
    pub(crate) fn stop(&self, pod: &Pod) -> Result<()> {
        self.stop_all(std::slice::from_ref(pod))
    }

    /// Stops pods and removes them, all at once.
    pub(crate) fn stop_all(&self, pods: &[Pod]) -> Result<()> {
        self.all(pods.iter().map(|pod| stop(self.client(), pod.id.clone()))).map(drop)
    }

    /// Does requests side by side; answers when all are done.
    fn all<T: Send + 'static>(
        &self,
        requests: impl Iterator<Item = impl Future<Output = Result<T>> + Send + 'static>,
    ) -> Result<Vec<T>> {
        self.runtime.block_on(async {
            let tasks: JoinSet<_> = requests.collect();
            tasks.join_all().await.into_iter().collect()
        })
    }

    /// Asks from a pod, and from its network only, who is at other addresses.
    pub(crate) fn ask_all(&self, from: &Pod, to: &[SocketAddr]) -> Result<Vec<Answer>> {
        let container_id = from.container.clone().context("this pod has nothing to ask from")?;
        let mut cmd = vec![PROGRAM.to_owned(), "ask".to_owned()];
        cmd.extend(to.iter().map(SocketAddr::to_string));
        let timeout = i64::try_from(LIMIT.as_secs()).unwrap_or(i64::MAX);
        let output = self.call(self.client().exec_sync(ExecSyncRequest { container_id, cmd, timeout }))?;
        let stdout = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.exit_code == 0,
            "from {}: {}{stdout}",
            from.name,
            String::from_utf8_lossy(&output.stderr)
        );
        stdout.lines().map(Answer::parse).collect()
    }

    /// Asks one address.
    pub(crate) fn ask(&self, from: &Pod, to: SocketAddr) -> Result<Answer> {
        self.ask_all(from, &[to])?.pop().context("no answer")
    }

    /// Asks one address until it answers.
    pub(crate) fn wait_ask(&self, from: &Pod, to: SocketAddr) -> Result<Answer> {
        wait::until(format!("{} reaches {to}", from.name), wait::LONG, || self.ask(from, to))
    }

    /// The names of the pods that it knows in this state.
    pub(crate) fn names(&self, state: PodSandboxState) -> Result<Vec<String>> {
        let list = self.call(self.client().list_pod_sandbox(ListPodSandboxRequest::default()))?;
        let mut names: Vec<String> = list
            .items
            .into_iter()
            .filter(|pod| pod.state() == state)
            .filter_map(|pod| Some(pod.metadata?.name))
            .collect();
        names.sort();
        Ok(names)
    }

    fn client(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone())
    }

    fn call<T>(&self, request: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T> {
        self.runtime.block_on(within(request))
    }
}

/// Installs plugins and configures containerd on a node as the README describes, except for what would outlive the test.
pub(crate) fn install(machine: &Machine) -> Result<()> {
    readme::install_plugins(machine)?;
    containerd::configure(machine, NAME)
}

fn spawn(netns: &Netns, log: &Path) -> Result<Child> {
    let log = File::options().create(true).append(true).open(log).context("could not open a log")?;
    let mut command = Command::new("containerd");
    command.stdin(Stdio::null()).stdout(log.try_clone().context("could not share a log")?).stderr(log);
    netns.spawn(&mut command)
}

/// The last lines of a log.
fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    format!("its log ends with:\n{}", lines[lines.len().saturating_sub(5)..].join("\n"))
}

/// A pod that runs the image's own program, which answers at port 8080.
fn sandbox_config(name: &str, host_ports: &[u16]) -> PodSandboxConfig {
    let namespaces = NamespaceOption {
        network: NamespaceMode::Pod.into(),
        pid: NamespaceMode::Container.into(),
        ipc: NamespaceMode::Pod.into(),
        ..Default::default()
    };
    let security = LinuxSandboxSecurityContext { namespace_options: Some(namespaces), ..Default::default() };
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: name.to_owned(),
            uid: name.to_owned(),
            namespace: "test".to_owned(),
            attempt: 0,
        }),
        hostname: name.to_owned(),
        port_mappings: host_ports
            .iter()
            .flat_map(|&port| [Protocol::Tcp, Protocol::Udp].map(|protocol| (port, protocol)))
            .map(|(port, protocol)| PortMapping {
                protocol: protocol.into(),
                container_port: image::PORT.into(),
                host_port: port.into(),
                ..Default::default()
            })
            .collect(),
        linux: Some(LinuxPodSandboxConfig { security_context: Some(security), ..Default::default() }),
        ..Default::default()
    }
}

async fn run(mut client: RuntimeServiceClient<Channel>, config: PodSandboxConfig) -> Result<Pod> {
    let name = config.hostname.clone();
    let request = RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
    let id = within(client.run_pod_sandbox(request))
        .await
        .with_context(|| format!("could not run {name}"))?
        .pod_sandbox_id;
    let request = PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: false };
    let status = within(client.pod_sandbox_status(request)).await?.status.context("a pod without status")?;
    let network = status.network.context("a pod without network")?;
    let addresses = std::iter::once(&network.ip)
        .chain(network.additional_ips.iter().map(|more| &more.ip))
        .map(|text| text.parse().with_context(|| format!("not an address of {name}: {text:?}")))
        .collect::<Result<_>>()?;
    Ok(Pod { name, addresses, id, config, container: None })
}

async fn stop(mut client: RuntimeServiceClient<Channel>, id: String) -> Result<()> {
    within(client.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: id.clone() })).await?;
    within(client.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id })).await.map(drop)
}

async fn within<T>(request: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T> {
    let answer = tokio::time::timeout(LIMIT, request).await.context("containerd did not answer in time")?;
    match answer {
        Ok(response) => Ok(response.into_inner()),
        Err(status) if status.code() == Code::Unavailable => {
            bail!("containerd is away: {}", status.message())
        }
        Err(status) => bail!("containerd says: {}", status.message()),
    }
}

impl Pod {
    /// Where it answers.
    pub(crate) fn server(&self, v4: bool) -> Result<SocketAddr> {
        Ok(SocketAddr::new(self.address(v4)?, image::PORT))
    }

    /// Its first address of a family.
    pub(crate) fn address(&self, v4: bool) -> Result<IpAddr> {
        self.addresses
            .iter()
            .copied()
            .find(|address| address.is_ipv4() == v4)
            .with_context(|| format!("{} has no address of that family", self.name))
    }
}

impl Answer {
    pub(crate) fn parse(line: &str) -> Result<Self> {
        let (pod, seen) = line.split_once(' ').with_context(|| format!("not an answer: {line:?}"))?;
        Ok(Self {
            pod: pod.to_owned(),
            seen: seen.parse().with_context(|| format!("not an answer: {line:?}"))?,
        })
    }
}
