//! The commands of docs/install.md, run as written.

use anyhow::ensure;
use integration::pages::{self, Host, walk};
use integration::{Feature, lab, wait};

use super::host::{expect, subnet};

#[test]
fn packages_work_as_documented() {
    lab(|lab| {
        lab.require(&[Feature::Containerd])?;
        let host = Host::boot(lab)?;
        let system = host.system();
        walk("packages::guide::packages_work_as_documented", |guide| {
            host.expect(guide.next("dpkg ")?.text())?;
            system.netns().set_sysctl("net/ipv4/ip_forward", "0")?;
            host.expect(guide.next("echo net.")?.text())?;
            ensure!(system.netns().sysctl("net/ipv4/ip_forward")? == "1", "forwarding is off");
            host.expect(guide.next("flannelctl ")?.text())?;
            host.expect(guide.next("echo FLANNELD_")?.text())?;
            subnet(system)?;
            host.expect(guide.next("install ")?.text())?;
            host.expect("test -s /etc/cni/net.d/10-flannel.conflist")?;
            let containerd = guide.next("version = 2")?;
            host.expect(&format!("cat >/srv/config.toml <<'END'\n{}END", containerd.text()))?;
            let config = host.expect("containerd --config /srv/config.toml config dump")?;
            ensure!(config.contains(r#"bin_dir = "/usr/lib/flannel/cni""#), "{config}");
            let remove = guide.next("systemctl disable")?;

            host.expect(guide.next("mkdir ")?.text())?;
            let writable = host.expect("systemctl show --value -p ReadWritePaths flanneld.service")?;
            ensure!(writable.trim() == "/run /srv/leases", "{writable}");

            host.expect(remove.text())?;
            ensure!(system.netns().ip("link show flannel.1").is_err(), "flannel.1 still exists");
            Ok(())
        })
    });
}

/// Docker's unit, with a daemon that writes its arguments to a file.
const DOCKER: &str = r#"
printf '#!/bin/sh\necho "$*" >/run/dockerd.arguments\nexec sleep infinity\n' >/usr/bin/dockerd
chmod 755 /usr/bin/dockerd
printf '[Service]\nExecStart=/usr/bin/dockerd -H fd://\n' >/usr/lib/systemd/system/docker.service
systemctl daemon-reload
"#;

#[test]
fn docker_uses_the_subnet_as_documented() {
    lab(|lab| {
        let host = Host::boot(lab)?;
        let system = host.system();
        system.run(DOCKER)?;
        for beginning in ["dpkg ", "flannelctl ", "echo FLANNELD_"] {
            host.expect(pages::block("docs/install.md", beginning)?.text())?;
        }
        let subnet = subnet(system)?.replace("FLANNEL_SUBNET=", "");
        let start =
            pages::block("docs/install.md", "install -D -m 644 /usr/share/doc/flannel/examples/docker")?;
        walk("packages::guide::docker_uses_the_subnet_as_documented", |guide| {
            host.expect(guide.next("install ")?.text()).map(drop)
        })?;
        // Options must not accumulate when Docker starts again.
        for _ in 0..2 {
            wait::until("Docker has the options of flannel", wait::LONG, || {
                let options = format!("--bip={subnet} --ip-masq=false --mtu=1450");
                let command = "-H fd:// --containerd=/run/containerd/containerd.sock";
                expect(system, "cat /run/dockerd.arguments", &format!("{command} {options}"))
            })?;
            host.expect(&format!("rm /run/dockerd.arguments\n{}", start.text()))?;
        }

        let refused = host.run("mk-docker-opts.sh -f /nowhere -d /run/other")?;
        let reason = "mk-docker-opts.sh: /nowhere does not exist";
        ensure!(refused.code == 1 && refused.stderr.contains(reason), "{refused:?}");
        ensure!(!system.exists("/run/other")?, "wrote options without a subnet");
        let net = subnet.replace(".1/24", ".0/24");
        host.expect(&format!("ip route add {net} via 10.0.0.254"))?;
        let script = "/usr/libexec/flannel/mk-docker-opts.sh -k DOCKER_NETWORK_OPTIONS -d /run/other";
        let refused = host.run(script)?;
        let reason = format!("a route sends {net}");
        ensure!(refused.code == 1 && refused.stderr.contains(&reason), "{refused:?}");
        let written = host.expect("cat /run/other")?;
        ensure!(written.contains("DOCKER_NETWORK_OPTIONS=\" --bip="), "{written}");
        Ok(())
    });
}

#[test]
fn static_programs_work_as_documented() {
    lab(|lab| {
        let host = Host::boot(lab)?;
        let system = host.system();
        walk("packages::guide::static_programs_work_as_documented", |guide| {
            host.expect(guide.next("tar ")?.text()).map(drop)
        })?;
        // Continue as with packages; the examples are in another directory.
        let network = pages::block("docs/install.md", "flannelctl ")?;
        host.expect(&network.text().replace("/usr/share/doc/flannel/", "flannel-*-linux-amd64/doc/"))?;
        host.expect(pages::block("docs/install.md", "echo FLANNELD_")?.text())?;
        expect(system, "systemctl is-active flanneld.service", "active")?;
        subnet(system)?;
        host.expect("mk-docker-opts.sh -d /dev/stdout | grep '^DOCKER_OPTS=\" --bip=10[.]5[.]'")?;
        for name in host.expect("ls /opt/cni/bin")?.split_whitespace() {
            let about = host.expect(&format!("/opt/cni/bin/{name} 2>&1 </dev/null"))?;
            ensure!(about.starts_with(&format!("CNI plugin {name} ")), "{name} printed {about:?}");
        }
        Ok(())
    });
}
