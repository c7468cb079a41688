//! What users install: manifests and chart as `cargo xtask dist` writes them, on a real API server.

use anyhow::{Context, Result, ensure};
use flannel_core::config::NetworkConfig;
use integration::artefacts::{Revision, file};
use integration::kubernetes::{Client, NAMESPACE, component};
use integration::{Netns, lab};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The plugin list that packages install.
const CONFLIST: &str = include_str!("../../../xtask/assets/10-flannel.conflist");

/// Rejects what the API server would ignore.
const STRICT: [&str; 3] = ["--validate=strict", "--namespace", NAMESPACE];

#[test]
fn manifest_and_chart_are_accepted() {
    lab(|lab| {
        let cluster = lab.cluster(0)?;
        let control_plane = cluster.control_plane(lab)?;
        let admin = &control_plane.admin;
        let manifest = text("kube-flannel.yml")?;
        let accepted = admin.apply(&manifest, &STRICT)?;
        ensure!(accepted.lines().count() == 6 && accepted.contains("daemonset.apps"), "{accepted}");
        let again = admin.apply(&manifest, &STRICT)?;
        ensure!(again.lines().all(|line| line.ends_with(" unchanged")), "{again}");

        let helm = Helm { netns: control_plane.netns.clone(), chart: file(Revision::First, ".tgz")? };
        let lint = helm.run(&["lint", "--strict", &helm.chart.display().to_string()])?;
        ensure!(lint.contains("0 chart(s) failed"), "{lint}");
        define_operator_kinds(admin)?;
        for (values, backend) in MATRIX {
            check_values(&helm, admin, values, backend).with_context(|| format!("with {values}"))?;
        }
        for (values, parts) in REJECTED {
            let error = helm.template(values).err().with_context(|| format!("{values} is accepted"))?;
            let text = format!("{error:#}");
            ensure!(parts.iter().all(|part| text.contains(part)), "{values}: {text}");
        }
        chart_is_like_the_manifest(&helm, admin, &manifest)
    });
}

/// A file of the release.
fn text(name: &str) -> Result<String> {
    fs::read_to_string(file(Revision::First, name)?).with_context(|| format!("could not read {name}"))
}

/// Values in the notation of `--set`, and the `Backend` that they lead to.
const MATRIX: [(&str, &str); 9] = [
    ("", r#"{"Type":"vxlan"}"#),
    (
        "flannel.vni=4096,flannel.backendPort=4789,flannel.GBP=true,flannel.directRouting=true,flannel.mtu=1400,\
         flannel.macPrefix=0E-2B",
        r#"{"Type":"vxlan","VNI":4096,"Port":4789,"GBP":true,"DirectRouting":true,"MTU":1400,"MacPrefix":"0E-2B"}"#,
    ),
    ("podCidr=,podCidrv6=fd42::/48,flannel.backend=host-gw", r#"{"Type":"host-gw"}"#),
    (
        "podCidrv6=fd42::/48,flannel.enableNFTables=true,flannel.healthz.port=0,flannel.skipCNIConfigInstallation=true",
        r#"{"Type":"vxlan"}"#,
    ),
    (
        "flannel.backend=wireguard,flannel.tunnelMode=auto,flannel.psk=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=,flannel.keepaliveInterval=25,\
         flannel.backendPort=51820,flannel.backendPortv6=51821",
        r#"{"Type":"wireguard","Mode":"auto","PSK":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","PersistentKeepaliveInterval":25,"ListenPort":51820,"ListenPortV6":51821}"#,
    ),
    ("flannel.backend=wireguard,flannel.psk=0", r#"{"Type":"wireguard"}"#),
    (
        "flannel.backend=udp,flannel.args={--ip-masq,--kube-subnet-mgr,--iface=eth1},flannel.nodeSelector.zone=a,\
         flannel.resources=null,flannel.tolerations=null,global.imagePullSecrets[0].name=registry,\
         flannel.cniBinDir=/usr/lib/cni,flannel.cniConfDir=/etc/cni,stateDir=/srv/flannel,priorityClassName=system-cluster-critical",
        r#"{"Type":"udp"}"#,
    ),
    (
        "netpol.enabled=true,podMonitor.enabled=true,prometheusRule.enabled=true,podMonitor.labels.release=p,\
         global.commonLabels.team=net,global.commonAnnotations.owner=net,flannel.podLabels.a=b,flannel.podAnnotations.c=d,\
         flannel.daemonSet.labels.e=f,flannel.daemonSet.annotations.g=h,flannel.image.repository=example.org/flannel,\
         flannel.image.tag=v1,flannel.flannel_cni.image.repository=example.org/plugin,flannel.flannel_cni.image.tag=v2,\
         updateStrategy.rollingUpdate.maxUnavailable=1",
        r#"{"Type":"vxlan"}"#,
    ),
    (
        "netpol.enabled=true,netpol.image.repository=example.org/netpol,netpol.image.tag=v7,netpol.args={--v=9},\
         flannel.cniConf=other,flannel.healthz.port=8181,flannel.healthz.livenessProbe.initialDelaySeconds=77,\
         flannel.healthz.livenessProbe.periodSeconds=78,flannel.healthz.readinessProbe.initialDelaySeconds=79,\
         flannel.healthz.readinessProbe.periodSeconds=80,flannel.resources.requests.memory=81Mi,\
         flannel.tolerations[0].key=k82,podMonitor.enabled=true,podMonitor.interval=83s,prometheusRule.enabled=true,\
         prometheusRule.labels.release=r84",
        r#"{"Type":"vxlan"}"#,
    ),
];

/// Values that are rejected, and parts of the error.
const REJECTED: [(&str, &[&str]); 7] = [
    ("podCidr=", &["podCidr and podCidrv6 are empty"]),
    ("podCidr=10.244.0.0", &["/podCidr", "does not match"]),
    ("flannel.backend=vxlna", &["/flannel/backend", "vxlna"]),
    ("flannel.vni=abc", &["/flannel/vni", "integer"]),
    ("flannel.tunnelMode=both", &["/flannel/tunnelMode"]),
    ("podMonitor.enabled=true,flannel.healthz.port=0", &["podMonitor.enabled", "set flannel.healthz.port"]),
    ("flannel.flannel_cni.image.repository=x", &["flannel.flannel_cni.image.tag is required"]),
];

/// Renders the chart with these values: the API server accepts the objects, and the daemon the network config.
fn check_values(helm: &Helm, admin: &Client, values: &str, backend: &str) -> Result<()> {
    let rendered = helm.template(values)?;
    let objects = dry_run(admin, &rendered)?;
    let config = find(&objects, "ConfigMap")?;
    let text = config["data"]["net-conf.json"].as_str().context("no net-conf.json")?;
    let network: Value = serde_json::from_str(text).with_context(|| format!("not JSON: {text}"))?;
    let expected: Value = serde_json::from_str(backend).context("the expected backend")?;
    ensure!(network["Backend"] == expected, "{text}");
    NetworkConfig::parse(text).with_context(|| format!("the daemon rejects {text}"))?;

    let daemon_set = find(&objects, "DaemonSet")?;
    let daemon = &daemon_set["spec"]["template"]["spec"]["containers"][0];
    let is_set = |part: &str| values.contains(part);
    ensure!(daemon["livenessProbe"].is_null() == is_set("healthz.port=0"), "{daemon}");
    ensure!(daemon["securityContext"]["privileged"] == is_set("backend=udp"), "{daemon}");
    let all = daemon_set.to_string() + &rendered;
    for word in values.split(',').filter(|word| !word.ends_with(['=', '}']) && !word.contains("backend=")) {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let switch = ["true", "null", "0"].contains(&value) || name.is_empty();
        ensure!(switch || all.contains(value.trim_start_matches('{')), "{word} has no effect:\n{rendered}");
    }
    for (part, kind) in [("podMonitor.enabled=true", "PodMonitor"), ("prometheusRule.", "PrometheusRule")] {
        ensure!(find(&objects, kind).is_ok() == is_set(part), "{kind}: {rendered}");
    }
    Ok(())
}

/// Lets the API server validate objects. Returns them with its defaults.
fn dry_run(admin: &Client, manifest: &str) -> Result<Vec<Value>> {
    let flags = [&STRICT[..], &["--dry-run=server", "--output", "json"]].concat();
    let list = admin.apply(manifest, &flags)?;
    let mut list: Value = serde_json::from_str(&list).context("kubectl did not print JSON")?;
    match list["items"].take() {
        Value::Array(items) => Ok(items),
        _ => anyhow::bail!("no list: {list}"),
    }
}

fn find<'a>(objects: &'a [Value], kind: &str) -> Result<&'a Value> {
    objects.iter().find(|object| object["kind"] == kind).with_context(|| format!("no {kind}"))
}

/// With default values, the pods of chart and manifest differ only where upstream's do: arguments are part of the command, and
/// pods tolerate `NoExecute`.
fn chart_is_like_the_manifest(helm: &Helm, admin: &Client, manifest: &str) -> Result<()> {
    let chart = dry_run(admin, &helm.template("")?)?;
    let manifest = dry_run(admin, manifest)?;
    let pod = |objects: &[Value]| -> Result<Value> {
        let mut spec = find(objects, "DaemonSet")?["spec"]["template"]["spec"].clone();
        let daemon = &mut spec["containers"][0];
        let words = [&daemon["command"], &daemon["args"]].map(|list| list.as_array().cloned());
        daemon["command"] = words.into_iter().flatten().flatten().collect();
        daemon["args"] = Value::Null;
        if let Some(tolerations) = spec["tolerations"].as_array_mut() {
            tolerations.retain(|toleration| toleration["effect"] != "NoExecute");
        }
        Ok(spec)
    };
    let (chart_pod, manifest_pod) = (pod(&chart)?, pod(&manifest)?);
    ensure!(chart_pod == manifest_pod, "chart:\n{chart_pod:#}\nmanifest:\n{manifest_pod:#}");
    let strategy = |objects: &[Value]| -> Result<Value> {
        Ok(find(objects, "DaemonSet")?["spec"]["updateStrategy"].clone())
    };
    ensure!(strategy(&chart)? == strategy(&manifest)?, "the update strategies differ");

    let mut list: Value = serde_json::from_str(CONFLIST).context("the plugin list")?;
    // That of upstream: nodes may have old reference plugins.
    list["cniVersion"] = "0.3.1".into();
    for (objects, of) in [(&chart, "chart"), (&manifest, "manifest")] {
        let config = &find(objects, "ConfigMap")?["data"];
        let parsed = |key: &str| -> Result<Value> {
            let text = config[key].as_str().with_context(|| format!("no {key}"))?;
            serde_json::from_str(text).with_context(|| format!("{key}: {text}"))
        };
        let expected =
            json!({"Network": "10.244.0.0/16", "EnableNFTables": false, "Backend": {"Type": "vxlan"}});
        ensure!(parsed("net-conf.json")? == expected, "{of}: {config}");
        ensure!(parsed("cni-conf.json")? == list, "{of}: {config}");
    }
    Ok(())
}

/// Defines the kinds of the Prometheus operator, without the rules that it has for their content.
fn define_operator_kinds(admin: &Client) -> Result<()> {
    for (kind, plural) in [("PodMonitor", "podmonitors"), ("PrometheusRule", "prometheusrules")] {
        let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let version =
            json!({"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}});
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.monitoring.coreos.com")},
            "spec": {
                "group": "monitoring.coreos.com",
                "scope": "Namespaced",
                "names": {"kind": kind, "plural": plural},
                "versions": [version],
            },
        });
        admin.apply(&definition.to_string(), &[])?;
        admin.kubectl(&format!("wait --for=condition=Established crd/{plural}.monitoring.coreos.com"))?;
    }
    Ok(())
}

/// The client of charts, without a connection to a cluster.
struct Helm {
    netns: Netns,
    chart: PathBuf,
}

impl Helm {
    fn run(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new(component("helm")?);
        command.args(words).stdin(Stdio::null());
        self.netns.checked(&mut command)
    }

    /// Renders the chart with values in the notation of `--set`.
    fn template(&self, values: &str) -> Result<String> {
        let chart = self.chart.display().to_string();
        self.run(&["template", "release", &chart, "--namespace", NAMESPACE, "--set", values])
    }
}
