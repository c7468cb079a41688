//! `flannelctl subnet`.

use insta::assert_snapshot;
use std::fs;

use crate::support::shown;

fn network(config: &str, keys: &[&str]) -> tempfile::TempDir {
    let home = tempfile::tempdir().expect("a directory can be made");
    let subnets = home.path().join("leases/subnets");
    fs::create_dir_all(&subnets).expect("a directory can be made");
    fs::write(home.path().join("leases/config"), config).expect("a file can be written");
    for (last, key) in keys.iter().enumerate() {
        let record = format!(r#"{{"PublicIP":"192.168.64.{last}","PublicIPv6":null}}"#);
        fs::write(subnets.join(key), record).expect("a file can be written");
    }
    let end = "4102444800";
    let leases = home.path().join("leases/leases");
    fs::create_dir_all(&leases).expect("a directory can be made");
    for key in keys.iter().skip(1) {
        fs::write(leases.join(key), end).expect("a file can be written");
    }
    home
}

#[test]
fn capacity_use_and_map_are_shown() {
    let home = network(
        r#"{"Network":"10.5.0.0/18","Backend":{"Type":"vxlan"}}"#,
        &["10.5.1.0-24", "10.5.2.0-24", "10.5.40.0-23", "10.9.0.0-24"],
    );
    fs::write(home.path().join("subnet.env"), "FLANNEL_SUBNET=10.5.2.1/24\n").unwrap();
    let directory = home.path().join("leases");
    assert_snapshot!(shown(&directory, &["subnet", "plan"]), @r"
    0
    IPv4: 10.5.0.0/18, subnets of length 24 for 253 pods
      63 subnets from 10.5.1.0 to 10.5.63.0
      4 in use (6 %), 1 of them reserved, 59 free
      map: . free  # in use  r reserved  * this node
      10.5.1.0   r*..............................
      10.5.33.0  .......##......................
    2 leases outside of this config; shown where they overlap it
    Capacity for 59 more nodes. Specify --per-month NODES for a forecast.
    ---
    ");
    assert_snapshot!(shown(&directory, &["subnet", "plan", "--per-month", "4", "-o", "json"]), @r#"
    0
    {
      "backend": "vxlan",
      "families": [
        {
          "family": "IPv4",
          "free": "59",
          "network": "10.5.0.0/18",
          "podsPerNode": "253",
          "reserved": "1",
          "subnetLen": 24,
          "subnetMax": "10.5.63.0",
          "subnetMin": "10.5.1.0",
          "subnets": "63",
          "used": "4"
        }
      ],
      "forecast": "At 4 nodes a month it is full in 14 months.",
      "leasesOutside": 2,
      "nodeCapacity": "59"
    }
    ---
    "#);
}

#[test]
fn config_is_planned_before_it_is_written() {
    let home = network(r#"{"Network":"10.5.0.0/16"}"#, &["10.5.1.0-24", "10.5.2.0-24&fd00:5:0:2::-64"]);
    let directory = home.path().join("leases");
    let file = home.path().join("new.json");
    fs::write(&file, r#"{"Network":"10.5.0.0/16","SubnetLen":26,"EnableIPv6":true,"IPv6Network":"fd00:5::/48","Backend":{"Type":"vxlan"}}"#).unwrap();
    let said = shown(&directory, &["subnet", "plan", file.to_str().unwrap(), "--per-month", "10"]);
    assert!(said.lines().all(|line| line.chars().count() <= 80), "{said}");
    assert_snapshot!(said, @r"
    0
    IPv4: 10.5.0.0/16, subnets of length 26 for 61 pods
      1023 subnets from 10.5.0.64 to 10.5.255.192
      8 in use (0 %), 4 of them reserved, 1015 free
      map, 2 subnets per sign: . free  o partly  # all in use  * this node
      10.5.0.64    .o###o..........................
      10.5.16.64   ................................
      10.5.32.64   ................................
      10.5.48.64   ................................
      10.5.64.64   ................................
      10.5.80.64   ................................
      10.5.96.64   ................................
      10.5.112.64  ................................
      10.5.128.64  ................................
      10.5.144.64  ................................
      10.5.160.64  ................................
      10.5.176.64  ................................
      10.5.192.64  ................................
      10.5.208.64  ................................
      10.5.224.64  ................................
      10.5.240.64  ................................
    IPv6: fd00:5::/48, subnets of length 64 for 2^64 pods
      65535 subnets from fd00:5:0:1:: to fd00:5:0:ffff::
      1 in use (0 %), 0 of them reserved, 65534 free
      map, 128 subnets per sign: . free  o partly  # all in use  * this node
      fd00:5:0:1::     o...............................
      fd00:5:0:1001::  ................................
      fd00:5:0:2001::  ................................
      fd00:5:0:3001::  ................................
      fd00:5:0:4001::  ................................
      fd00:5:0:5001::  ................................
      fd00:5:0:6001::  ................................
      fd00:5:0:7001::  ................................
      fd00:5:0:8001::  ................................
      fd00:5:0:9001::  ................................
      fd00:5:0:a001::  ................................
      fd00:5:0:b001::  ................................
      fd00:5:0:c001::  ................................
      fd00:5:0:d001::  ................................
      fd00:5:0:e001::  ................................
      fd00:5:0:f001::  ................................
    2 leases outside of this config; shown where they overlap it
    Capacity for 1015 more nodes. At 10 nodes a month it is full in 8 years.
    ---
    ");
}
