use super::*;
use std::path::Path;

fn set(root: &Path, path: &str, value: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, value).unwrap();
}

fn shown(conditions: Vec<Condition>) -> String {
    conditions.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn forwarding() {
    let root = tempfile::tempdir().unwrap();
    let sysctl = Sysctl { root: root.path().to_owned() };
    insta::assert_snapshot!(shown(sysctl.forwarding(&Family::ALL)), @r#"
    net.ipv4.ip_forward does not exist: the kernel has no IPv4; to fix it: start the kernel with IPv4, or switch it off in the network config
    net.ipv6.conf.all.forwarding does not exist: the kernel has no IPv6; to fix it: start the kernel with IPv6, or switch it off in the network config
    "#);
    set(root.path(), "net/ipv4/ip_forward", "0\n");
    set(root.path(), "net/ipv6/conf/all/forwarding", "0\n");
    insta::assert_snapshot!(shown(sysctl.forwarding(&Family::ALL)), @r#"
    net.ipv4.ip_forward is 0: this node does not forward IPv4 packets to and from pods; to fix it: sysctl -w net.ipv4.ip_forward=1
    net.ipv6.conf.all.forwarding is 0: this node does not forward IPv6 packets to and from pods; to fix it: sysctl -w net.ipv6.conf.all.forwarding=1
    "#);
    assert_eq!(sysctl.forwarding(&[Family::V6]).len(), 1);
    assert_eq!(sysctl.forwarding(&[]), []);
    set(root.path(), "net/ipv4/ip_forward", "1\n");
    set(root.path(), "net/ipv6/conf/all/forwarding", "1\n");
    assert_eq!(sysctl.forwarding(&Family::ALL), []);
}

#[test]
fn reads_and_writes() {
    let root = tempfile::tempdir().unwrap();
    let sysctl = Sysctl { root: root.path().to_owned() };
    set(root.path(), "net/ipv4/conf/flannel.1/rp_filter", "2\n");
    assert_eq!(sysctl.read_path("net/ipv4/conf/flannel.1/rp_filter").unwrap(), "2");
    sysctl.write_path("net/ipv4/conf/flannel.1/rp_filter", "0").unwrap();
    assert!(sysctl.read_path("net/ipv4/conf/flannel.1/rp_filter").unwrap().starts_with('0'));
    assert_eq!(sysctl.write_path("net/ipv4/none", "1").unwrap_err().kind(), ErrorKind::NotFound);
    // The kernel's own.
    assert!(["0", "1"].contains(&Sysctl::default().read("net.ipv4.ip_forward").unwrap().as_str()));
}
