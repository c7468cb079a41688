use super::*;
use std::path::Path;

fn set(root: &Path, path: &str, value: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, value).unwrap();
}

fn shown(problems: &[String]) -> String {
    problems.join("\n")
}

#[test]
fn forwarding() {
    let root = tempfile::tempdir().unwrap();
    let sysctl = Sysctl { root: root.path().to_owned() };
    insta::assert_snapshot!(shown(&sysctl.forwarding(&Family::ALL)), @r#"
    net.ipv4.ip_forward does not exist: the kernel has no IPv4: start the kernel with IPv4, or disable it in the network config
    net.ipv6.conf.all.forwarding does not exist: the kernel has no IPv6: start the kernel with IPv6, or disable it in the network config
    "#);
    set(root.path(), "net/ipv4/ip_forward", "0\n");
    set(root.path(), "net/ipv6/conf/all/forwarding", "0\n");
    insta::assert_snapshot!(shown(&sysctl.forwarding(&Family::ALL)), @r#"
    net.ipv4.ip_forward is 0: this node does not forward IPv4 packets to and from pods: sysctl -w net.ipv4.ip_forward=1
    net.ipv6.conf.all.forwarding is 0: this node does not forward IPv6 packets to and from pods: sysctl -w net.ipv6.conf.all.forwarding=1 (after accept_ra=2 on interfaces with routes from router advertisements)
    "#);
    assert_eq!(sysctl.forwarding(&[Family::V6]).len(), 1);
    assert_eq!(sysctl.forwarding(&[]), [""; 0]);
    set(root.path(), "net/ipv4/ip_forward", "1\n");
    set(root.path(), "net/ipv6/conf/all/forwarding", "1\n");
    assert_eq!(sysctl.forwarding(&Family::ALL), [""; 0]);
}

#[test]
fn settings_are_read() {
    let root = tempfile::tempdir().unwrap();
    let sysctl = Sysctl { root: root.path().to_owned() };
    set(root.path(), "net/ipv4/conf/flannel.1/rp_filter", "2\n");
    assert_eq!(sysctl.read_path("net/ipv4/conf/flannel.1/rp_filter").unwrap(), "2");
    // From the kernel.
    assert!(["0", "1"].contains(&Sysctl::default().read("net.ipv4.ip_forward").unwrap().as_str()));
}
