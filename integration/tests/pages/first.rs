//! README.md, "Install": a cluster with one node.

use anyhow::ensure;
use integration::pages::{Host, walk};
use integration::{Feature, lab, wait};

#[test]
fn cluster_of_the_readme() {
    lab(|lab| {
        lab.require(&[Feature::Curl])?;
        let host = Host::boot(lab)?;
        // The build result.
        host.expect("mkdir -p target/release; tar -C target/release --strip-components 1 -xf flannel-*-linux-amd64.tar.gz")?;
        host.system().netns().set_sysctl("net/ipv4/ip_forward", "0")?;
        walk("pages::first::cluster_of_the_readme", |readme| {
            host.expect(readme.next("install -D -m 755 -t /usr/local/bin")?.text())?;
            ensure!(host.system().netns().sysctl("net/ipv4/ip_forward")? == "1", "forwarding is off");

            let started = host.start("on-etcd", readme.next("echo '{")?.text())?;
            let curl = readme.next("curl ")?;
            let [ready, list] = curl.commands()?;
            let wait_ready = || {
                wait::until("the daemon is ready", wait::LONG, || {
                    host.run(&ready)?.expect(0, &["flanneld is ready"]).map(drop)
                })
            };
            wait_ready()?;
            host.expect("grep FLANNEL_IPMASQ=true /run/flannel/subnet.env")?;
            host.run(&list)?.expect(0, &["10.5.", "10.0.0.10", "vxlan"])?;

            host.expect("etcdctl --endpoints http://10.0.0.10:2379 del /coreos.com/network/config")?;
            host.expect(readme.next("etcdctl ")?.text())?;
            let config = host.expect("flannelctl --etcd-endpoints http://10.0.0.10:2379 config get")?;
            ensure!(config.contains("10.5.0.0/16"), "{config}");
            host.stop(&started)?;

            let started = host.start("on-directory", readme.next("flannelctl --lease-dir")?.text())?;
            wait_ready()?;
            let subnet = host.expect("ls /var/lib/flannel/leases/subnets")?;
            ensure!(subnet.starts_with("10.5."), "{subnet}");
            host.stop(&started)
        })
    });
}
