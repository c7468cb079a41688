//! The vectors were recorded from Go's host-local.

use super::*;

struct Network {
    directory: tempfile::TempDir,
    /// Members of `ipam` and of the config.
    ipam: String,
    members: String,
}

impl Network {
    fn new(ipam: &str) -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            ipam: ipam.to_owned(),
            members: r#""cniVersion":"1.0.0""#.to_owned(),
        }
    }

    fn request(&self, id: &str, args: &str) -> Request {
        let (root, ipam, members) = (self.directory.path().display(), &self.ipam, &self.members);
        let config = format!(r#"{{"name":"net","ipam":{{"dataDir":"{root}",{ipam}}},{members}}}"#);
        Request::sample(&config, id, args)
    }

    fn add_request(request: &Request) -> Result<Vec<String>, String> {
        let config = Config::parse(request).map_err(|error| error.msg)?;
        let result = add(&config, &request.environment).map_err(|error| error.msg)?;
        let text = |ip: &Ip| format!("{} via {}", ip.address, ip.gateway.unwrap());
        Ok(result.ips.iter().map(text).collect())
    }

    fn add_with(&self, id: &str, ifname: &str, args: &str) -> Result<Vec<String>, String> {
        let mut request = self.request(id, args);
        request.environment.attachment.ifname = ifname.to_owned();
        Self::add_request(&request)
    }

    fn add(&self, id: &str) -> Result<Vec<String>, String> {
        self.add_with(id, "eth0", "")
    }

    /// The address alone.
    fn address(&self, id: &str) -> String {
        self.add(id).unwrap()[0].split('/').next().unwrap().to_owned()
    }

    fn del(&self, id: &str) {
        del(&self.request(id, "")).unwrap();
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join("net").join(name)
    }

    fn files(&self) -> Vec<String> {
        let Ok(listing) = fs::read_dir(self.directory.path().join("net")) else { return Vec::new() };
        let mut names: Vec<_> =
            listing.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[test]
fn a_small_range_is_exhausted() {
    let net = Network::new(r#""ranges":[[{"subnet":"10.1.2.0/29"}]]"#);
    for (at, last) in ["10.1.2.2", "10.1.2.3", "10.1.2.4", "10.1.2.5", "10.1.2.6"].iter().enumerate() {
        assert_eq!(net.add(&format!("c{at}")).unwrap(), [format!("{last}/29 via 10.1.2.1")]);
    }
    let full = "failed to allocate for range 0: no IP addresses available in range set: 10.1.2.1-10.1.2.6";
    assert_eq!(net.add("c5"), Err(full.to_owned()));
    assert_eq!(fs::read_to_string(net.path("last_reserved_ip.0")).unwrap(), "10.1.2.6");
    // Released addresses are allocated in order.
    net.del("c3");
    net.del("c0");
    assert_eq!([net.address("c6"), net.address("c7")], ["10.1.2.2", "10.1.2.5"]);
}

#[test]
fn files_are_those_of_go() {
    use std::os::unix::fs::PermissionsExt;
    let net = Network::new(r#""ranges":[[{"subnet":"10.1.2.0/24"}],[{"subnet":"2001:DB8::/64"}]]"#);
    assert_eq!(net.add("c0").unwrap(), ["10.1.2.2/24 via 10.1.2.1", "2001:db8::2/64 via 2001:db8::1"]);
    assert_eq!(net.files(), ["10.1.2.2", "2001:db8::2", "last_reserved_ip.0", "last_reserved_ip.1", "lock"]);
    for name in ["10.1.2.2", "2001:db8::2"] {
        assert_eq!(fs::read_to_string(net.path(name)).unwrap(), "c0\r\neth0");
    }
    let mode = |name: &str| fs::metadata(net.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(
        (mode("10.1.2.2"), mode("last_reserved_ip.0"), mode("lock"), mode("")),
        (0o600, 0o600, 0o750, 0o755)
    );
    net.del("c0");
    assert_eq!(net.files(), ["last_reserved_ip.0", "last_reserved_ip.1", "lock"]);
    net.del("c0");
}

#[test]
fn ends_gateways_and_several_ranges() {
    let net = Network::new(
        r#""ranges":[[{"subnet":"10.1.2.0/24","rangeStart":"10.1.2.9","rangeEnd":"10.1.2.11","gateway":"10.1.2.10"}]]"#,
    );
    assert_eq!([net.address("a"), net.address("b")], ["10.1.2.9", "10.1.2.11"]);
    assert!(net.add("c").is_err());

    let net = Network::new(r#""ranges":[[{"subnet":"10.1.2.0/30"},{"subnet":"10.1.3.0/30"}]]"#);
    assert_eq!(net.add("a").unwrap(), ["10.1.2.2/30 via 10.1.2.1"]);
    assert_eq!(net.add("b").unwrap(), ["10.1.3.2/30 via 10.1.3.1"]);
    assert!(net.add("c").unwrap_err().ends_with("range set: 10.1.2.1-10.1.2.2,10.1.3.1-10.1.3.2"));

    let net = Network::new(r#""ranges":[[{"subnet":"10.0.0.0/29","gateway":"1.2.3.4"}]]"#);
    assert_eq!(net.add("a").unwrap(), ["10.0.0.1/29 via 1.2.3.4"]);
}

#[test]
fn ranges_of_the_runtime_come_first() {
    let mut net = Network::new(r#""ranges":[[{"subnet":"10.1.2.0/29"}]]"#);
    net.members =
        r#""cniVersion":"1.0.0","runtimeConfig":{"ipRanges":[[{"subnet":"10.7.0.0/24"}]]}"#.to_owned();
    assert_eq!(net.add("a").unwrap(), ["10.7.0.2/24 via 10.7.0.1", "10.1.2.2/29 via 10.1.2.1"]);
}

#[test]
fn requested_addresses() {
    let net = Network::new(r#""ranges":[[{"subnet":"10.1.2.0/24"}]]"#);
    assert_eq!(net.add_with("a", "eth0", "IP=10.1.2.5").unwrap(), ["10.1.2.5/24 via 10.1.2.1"]);
    for (id, args, error) in [
        (
            "b",
            "IP=10.1.2.5",
            "failed to allocate for range 0: requested IP address 10.1.2.5 is not available in range set 10.1.2.1-10.1.2.254",
        ),
        ("b", "IP=10.1.2.1", "failed to allocate for range 0: requested ip 10.1.2.1 is subnet's gateway"),
        ("b", "IP=10.9.2.5", "failed to allocate all requested IPs: 10.9.2.5"),
    ] {
        assert_eq!(net.add_with(id, "eth0", args), Err(error.to_owned()), "{args}");
    }
    assert_eq!(net.files(), ["10.1.2.5", "last_reserved_ip.0", "lock"], "nothing of what failed is left");
    assert_eq!(net.address("b"), "10.1.2.6", "and the cursor has not moved");
}

#[test]
fn one_interface_has_one_address_of_a_set() {
    let net = Network::new(r#""ranges":[[{"subnet":"10.1.2.0/24"}]]"#);
    net.add("a").unwrap();
    let error = "failed to allocate for range 0: 10.1.2.2 has been allocated to a, duplicate allocation is not allowed";
    assert_eq!(net.add("a"), Err(error.to_owned()));
    assert_eq!(net.add_with("a", "net1", "").unwrap(), ["10.1.2.3/24 via 10.1.2.1"]);
    net.del("a");
    assert_eq!(net.files(), ["10.1.2.3", "last_reserved_ip.0", "lock"]);
}

#[test]
fn a_second_set_that_fails_releases_the_first() {
    let net = Network::new(r#""ranges":[[{"subnet":"10.1.2.0/24"}],[{"subnet":"10.3.0.0/30"}]]"#);
    net.add("a").unwrap();
    assert!(net.add("b").unwrap_err().contains("range 1: no IP addresses available"));
    assert_eq!(net.files(), ["10.1.2.2", "10.3.0.2", "last_reserved_ip.0", "last_reserved_ip.1", "lock"]);
}

#[test]
fn files_in_the_old_form_count() {
    let net = Network::new(r#""ranges":[[{"subnet":"10.1.2.0/24"}]]"#);
    net.add("x").unwrap();
    net.del("x");
    fs::write(net.path("10.1.2.7"), "old\n").unwrap();
    fs::write(net.path("10.1.2.8"), "old\r\nnet1").unwrap();
    assert!(net.add("old").unwrap_err().contains("10.1.2.7 has been allocated to old"));
    check(&net.request("old", "")).unwrap();
    net.del("old");
    assert_eq!(net.files(), ["10.1.2.8", "last_reserved_ip.0", "lock"]);
    let error = check(&net.request("old", "")).unwrap_err();
    assert_eq!(error.msg, "host-local: Failed to find address added by container old");
}

#[test]
fn an_invalid_cursor_starts_over() {
    let net = Network::new(r#""ranges":[[{"subnet":"10.1.2.0/24"}]]"#);
    for (cursor, expected) in
        [("10.1.2.9", "10.1.2.10"), ("10.1.2.9\n", "10.1.2.2"), ("", "10.1.2.3"), ("10.9.9.9", "10.1.2.4")]
    {
        fs::create_dir_all(net.path("")).unwrap();
        fs::write(net.path("last_reserved_ip.0"), cursor).unwrap();
        assert_eq!(net.address(&format!("c{}", expected.replace('.', "-"))), expected, "{cursor:?}");
        assert_eq!(
            fs::read_to_string(net.path("last_reserved_ip.0")).unwrap(),
            expected,
            "nothing of a longer one"
        );
    }
}

#[test]
fn del_works_with_a_broken_config() {
    let mut net = Network::new(r#""ranges":[[{"subnet":"10.1.2.0/24"}]]"#);
    net.add("a").unwrap();
    net.ipam = r#""ranges":[[{"subnet":"10.1.2.0/31"}]],"routes":5"#.to_owned();
    assert!(net.add("b").is_err());
    net.del("a");
    assert_eq!(net.files(), ["last_reserved_ip.0", "lock"]);
    // Nothing is created.
    let net = Network::new(r#""ranges":[[{"subnet":"10.1.2.0/24"}]]"#);
    net.del("a");
    assert_eq!(net.files(), [""; 0]);
}

#[test]
fn gc_keeps_what_is_listed() {
    let mut net = Network::new(r#""ranges":[[{"subnet":"10.1.2.0/24"}]]"#);
    for id in ["a", "b", "c"] {
        net.add(id).unwrap();
    }
    fs::write(net.path("10.1.2.9"), "old").unwrap();
    fs::write(net.path("10.1.2.10"), "b").unwrap();
    fs::write(net.path("10.1.2.11"), "").unwrap();
    fs::write(net.path("notes"), "a\r\neth0").unwrap();
    let before = net.files();
    gc(&net.request("a", "")).unwrap();
    assert_eq!(net.files(), before, "without a list");
    net.members = r#""cni.dev/valid-attachments":[{"containerID":"b","ifname":"eth0"}]"#.to_owned();
    gc(&net.request("a", "")).unwrap();
    assert_eq!(net.files(), ["10.1.2.10", "10.1.2.3", "last_reserved_ip.0", "lock", "notes"]);
}

#[test]
fn addresses_of_deleted_namespaces_are_released() {
    let net = Network::new(r#""ranges":[[{"subnet":"10.1.2.0/29"}]]"#);
    let gone = tempfile::NamedTempFile::new().unwrap();
    for id in ["a", "b", "c"] {
        let mut request = net.request(id, "");
        request.environment.netns = gone.path().to_owned();
        Network::add_request(&request).unwrap();
    }
    net.add("d").unwrap();
    net.add("e").unwrap();
    assert!(net.add("f").is_err(), "all are there");
    drop(gone);
    for id in ["f", "g", "h"] {
        net.add(id).unwrap();
    }
    assert!(net.add("i").is_err(), "d and e are still there");
}

#[test]
fn resolv_conf_is_read_as_by_go() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("resolv.conf");
    let text = "# c\n; c\n nameserver 1.1.1.1 x\nnameserver 9.9.9.9\ndomain a\ndomain b\nsearch c d\nsearch e\noptions f g\nsortlist x\nnameserver\n";
    fs::write(&path, text).unwrap();
    let dns = resolv_conf(&path).unwrap();
    let list = |texts: &[&str]| Some(texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
    assert_eq!(
        dns,
        Dns {
            nameservers: list(&["1.1.1.1", "9.9.9.9"]),
            domain: "b".to_owned(),
            search: list(&["c", "d", "e"]),
            options: list(&["f", "g"])
        }
    );
}

#[test]
fn adds_at_the_same_time_get_different_addresses() {
    let net = Network::new(r#""ranges":[[{"subnet":"10.1.0.0/24"}]]"#);
    let mut all: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|thread| {
                let net = &net;
                scope.spawn(move || {
                    (0..8).map(|at| net.address(&format!("c{thread}-{at}"))).collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 64);
}
