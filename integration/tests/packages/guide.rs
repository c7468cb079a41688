//! The commands of docs/install.md, run as written.

use anyhow::ensure;
use integration::pages::{self, Host, walk};
use integration::{Feature, lab};

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
        for name in host.expect("ls /opt/cni/bin")?.split_whitespace() {
            let about = host.expect(&format!("/opt/cni/bin/{name} 2>&1 </dev/null"))?;
            ensure!(about.starts_with(&format!("CNI plugin {name} ")), "{name} printed {about:?}");
        }
        Ok(())
    });
}
