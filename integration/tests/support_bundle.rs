//! `flannelctl support bundle` beside a running daemon: everything is in it but secrets.

use anyhow::{Context, Result, ensure};
use integration::{Doctor, Etcd, EtcdOptions, Feature, Flanneld, System, lab, program};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;

const PASSWORD: &str = "planted-\"password\"-0001";
const PSK: &str = "planted-psk-0002";

#[test]
#[expect(clippy::too_many_lines, reason = "one scenario")]
fn bundle_of_a_running_daemon_on_etcd() {
    lab(|lab| {
        lab.require(&[Feature::Etcd, Feature::Openssl, Feature::Vxlan, Feature::Nft, Feature::Iptables])?;
        let cluster = lab.cluster(1)?;
        let node = &cluster.nodes[0];
        let options = EtcdOptions { tls: true, client_certificates: true, ..EtcdOptions::default() };
        let etcd = Etcd::start(lab, &cluster.lan, &options)?;
        etcd.enable_users("rootpw", PASSWORD)?;
        etcd.set_config(&format!(
            r#"{{"Network":"10.42.0.0/16","EnableNFTables":true,"Backend":{{"Type":"vxlan","PSK":"{PSK}"}}}}"#
        ))?;
        let (certificate, key) = etcd.client_certificate("somebody")?;
        let flanneld = Flanneld::on_etcd(&etcd)
            .argument(format!("--etcd-certfile={}", certificate.display()))
            .argument(format!("--etcd-keyfile={}", key.display()))
            .argument("--etcd-username=flannel")
            .environment("FLANNELD_ETCD_PASSWORD", PASSWORD);
        let mut daemon = node.start(&flanneld)?;
        daemon.wait_ready()?;
        Doctor::install_cni_config(node)?;
        let private = fs::read_to_string(&key)?;
        let lines = || private.lines().filter(|line| !line.starts_with("-----"));
        // Under names that do not tell what they are, and under those that do.
        let chained = json!({"name": "other", "cniVersion": "1.0.0", "plugins": [
            {"type": "other", "comment": PASSWORD, "note": lines().next(), "what": PSK},
            {"type": "other", "token": "planted-token-0003", "kubernetes": {"k8s_auth_token": "planted-token-0004"}},
        ]});
        // What others keep beside their configs, and what WireGuard and IPsec would here.
        for (file, text) in [
            ("/etc/cni/net.d/20-other.conflist", chained.to_string()),
            (
                "/etc/cni/net.d/other-kubeconfig",
                "client-key-data: planted-0005\nuser: planted-0006\n".to_owned(),
            ),
            ("/var/lib/flannel/wireguard.key", "planted-0007\n".to_owned()),
            ("/run/flannel/ipsec.secrets", ": PSK \"planted-0008\"\n".to_owned()),
        ] {
            fs::write(node.file(file)?, text)?;
        }
        // As somebody would who has just logged in: without a word about the store.
        node.flannelctl(&[], &["support", "bundle", "--file", "/run/flannel/bundle.tar.gz"])?
            .expect(0, &["secrets"])?;
        let file = node.file("/run/flannel/bundle.tar.gz")?;
        let unpacked = lab.directory("unpacked")?;
        node.netns().run(&format!("tar -C {} -xzf {}", unpacked.display(), file.display()))?;
        let unpacked = unpacked.join("flannel-support");
        let read = |name: &str| {
            fs::read_to_string(unpacked.join(name)).with_context(|| format!("no {name} in the bundle"))
        };
        let value = |name: &str| Ok::<Value, anyhow::Error>(serde_json::from_str(&read(name)?)?);

        let subnet = node.subnet(true)?.to_string();
        let status = value("daemon/status.json")?;
        ensure!(status["ready"] == true && status["store"]["up"] == true, "{status:#}");
        ensure!(value("daemon/peers.json")?["peers"] == json!([]), "{}", read("daemon/peers.json")?);
        for name in ["desired", "actual"] {
            let text = read(&format!("daemon/{name}.json"))?;
            ensure!(text.contains("flannel.1"), "{name}: {text}");
        }
        ensure!(value("daemon/diff.json")?["ops"] == json!([]), "{}", read("daemon/diff.json")?);
        let metrics = read("daemon/metrics.txt")?;
        ensure!(metrics.lines().any(|line| line.starts_with("flannel_rounds_total")), "{metrics}");
        ensure!(read("daemon/processes.txt")?.contains("--etcd-username=flannel"));
        ensure!(read("store/leases.json")?.contains(&subnet), "{}", read("store/leases.json")?);
        ensure!(read("store/config.json")?.contains("10.42.0.0/16"));
        let findings = &value("doctor.json")?["findings"];
        ensure!(
            findings
                .as_array()
                .is_some_and(|found| found.iter().all(|one| one["id"] == "cni-plugin-missing")),
            "{findings:#}"
        );
        ensure!(read("kernel/links.txt")?.contains("flannel.1"));
        ensure!(read("kernel/nftables.txt")?.contains("flannel-ipv4"));
        ensure!(read("files/run/flannel/subnet.env")?.contains("FLANNEL_SUBNET"));
        ensure!(read("files/etc/cni/net.d/20-other.conflist")?.contains("[removed]"));

        for secret in lines().chain(["planted", "rootpw", "PRIVATE KEY"]) {
            ensure!(having(&unpacked, secret)?.is_empty(), "{secret} is in {}", having(&unpacked, secret)?);
        }
        ensure!(having(&unpacked, "FLANNEL_SUBNET")?.contains("subnet.env"), "nothing is found at all");
        Ok(())
    });
}

/// The files below a directory that have a text.
fn having(directory: &Path, text: &str) -> Result<String> {
    let found = Command::new("grep").args(["-r", "-l", "-F", "-e", text]).arg(directory).output();
    Ok(String::from_utf8_lossy(&found.context("could not start grep")?.stdout).into_owned())
}

#[test]
fn bundle_contains_the_journal_of_the_unit() {
    lab(|lab| {
        lab.require(&[Feature::Systemd, Feature::Nft])?;
        let host = lab.host("host")?;
        let lan = lab.segment("lan", &["192.168.50.254/24".parse()?])?;
        lan.default_routes(&lan.attach(&host, "eth0", &["192.168.50.1/24".parse()?])?)?;
        let programs = program("flannelctl").parent().context("flannelctl is nowhere")?.to_owned();
        let system = System::boot(lab, &host, &programs)?;
        system.run(
            r#"cat >/etc/network.json <<'END'
{"Network":"10.42.0.0/16","EnableNFTables":true,"Backend":{"Type":"host-gw"}}
END
cat >/etc/systemd/system/flanneld.service <<'END'
[Service]
Type=notify
ExecStartPre=/bin/echo somebody logs --etcd-password planted-0001, and planted-0002 alone
Environment=FLANNELD_ETCD_PASSWORD=planted-0002
ExecStart=/run/shared/flanneld --lease-dir=/var/lib/flannel/leases
END
set -e
/run/shared/flannelctl --lease-dir /var/lib/flannel/leases config set /etc/network.json
systemctl start flanneld.service
cd /srv
/run/shared/flannelctl support bundle
tar -xzf flannel-support.tar.gz"#,
        )?;
        // Without a daemon, the store is the one that its unit would be given.
        system.run("systemctl stop flanneld && echo FLANNELD_LEASE_DIR=/var/lib/flannel/leases >/etc/default/flanneld")?;
        let listed = system.run("/run/shared/flannelctl lease list -o name")?;
        ensure!(listed.starts_with("10.42."), "{listed}");
        let journal = system.run("cat /srv/flannel-support/host/journal.txt")?;
        ensure!(journal.contains("somebody logs") && journal.contains("rules installed"), "{journal}");
        ensure!(system.run("stat -c %a /srv/flannel-support.tar.gz")?.trim() == "600");
        let planted = system.say("grep -r -l planted /srv/flannel-support")?;
        ensure!(planted.is_empty(), "secrets are in {planted}");
        Ok(())
    });
}
