//! `flannelctl support`.

use std::fs;
use std::process::Command;

/// One secret of each kind, and where it is planted.
const SECRETS: [&str; 5] = [
    "planted-psk-0001",
    "planted-password-0002",
    "planted-token-0003",
    "planted-keyline-0004",
    "planted-login-0005",
];

#[test]
fn bundle_contains_everything_except_secrets() {
    let [psk, password, token, keyline, login] = SECRETS;
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name);
    fs::create_dir_all(path("leases/subnets")).unwrap();
    fs::create_dir_all(path("state/etcd-x")).unwrap();
    let config = format!(r#"{{"Network":"10.5.0.0/16","Backend":{{"Type":"ipsec","PSK":"{psk}"}}}}"#);
    fs::write(path("leases/config"), &config).unwrap();
    // A record that quotes the key in a field that does not look like one.
    let record = format!(r#"{{"PublicIP":"127.0.0.3","BackendType":"{psk}"}}"#);
    fs::write(path("leases/subnets/10.5.1.0-24"), record).unwrap();
    let state = serde_json::json!({"version": 1, "revision": 1, "text": config}).to_string();
    fs::write(path("state/etcd-x/config.json"), state).unwrap();
    let env = format!(
        "FLANNEL_SUBNET=10.5.1.1/24\nAPI_TOKEN={token}\nPASSWORD={password}\nURL=https://root:{login}@etcd\n\
         -----BEGIN PRIVATE KEY-----\n{keyline}\n-----END PRIVATE KEY-----\n"
    );
    fs::write(path("subnet.env"), env).unwrap();
    let archive = path("report.tar.gz");
    let bundle = || {
        Command::new(env!("CARGO_BIN_EXE_flannelctl"))
            .args([
                "support",
                "bundle",
                "--file",
                "report.tar.gz",
                "--lease-dir",
                "leases",
                "--status-socket",
                "none.sock",
            ])
            .args(["--subnet-file", "subnet.env", "--state-dir", "state"])
            .current_dir(home.path())
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("FLANNELD_ETCD_PASSWORD", password)
            .output()
            .unwrap()
    };
    let output = bundle();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let mut unpacked = tar::Archive::new(flate2::read::GzDecoder::new(fs::File::open(&archive).unwrap()));
    unpacked.unpack(path("unpacked")).unwrap();
    let read = |name: &str| fs::read_to_string(path("unpacked/flannel-support").join(name)).unwrap();
    assert!(read("store/config.json").contains(r#""PSK":"[removed]""#));
    assert!(read("store/leases.json").contains("127.0.0.3") && read("kernel/links.txt").contains("lo"));
    assert!(read("daemon/status.txt").contains("flanneld") && read("flannelctl.json").contains("version"));
    let listed = Command::new("grep").args(["-r", "planted"]).arg(path("unpacked")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&listed.stdout), "", "secrets are left");
    // Nothing that exists is written over.
    let output = bundle();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--file"), "{output:?}");
}
