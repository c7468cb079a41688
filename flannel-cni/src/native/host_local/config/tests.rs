use super::*;

fn parse(text: &str, args: &str, version: Version) -> Result<Config, String> {
    let request = Request { version, ..Request::sample(text, "a", args) };
    Config::parse(&request).map_err(|error| error.msg)
}

fn sets(members: &str) -> Result<Vec<String>, String> {
    let text = format!(r#"{{"name":"cbr0",{members}}}"#);
    parse(&text, "", Version::V1_0_0).map(|config| config.sets.iter().map(ToString::to_string).collect())
}

#[test]
fn sets_are_numbered_in_order() {
    assert_eq!(
        sets(
            r#""ipam":{"Ranges":[[{"subnet":"10.1.2.0/29"}]],"subnet":"10.2.0.0/24","rangeStart":"10.2.0.9"},
               "runtimeConfig":{"IPRanges":[[{"Subnet":"10.7.0.0/24"}]]}"#
        )
        .unwrap(),
        ["10.7.0.1-10.7.0.254", "10.2.0.9-10.2.0.254", "10.1.2.1-10.1.2.6"]
    );
}

#[test]
fn the_directory_is_named_after_the_network() {
    let of = |text: &str| directory(&Request::sample(text, "a", "")).display().to_string();
    assert_eq!(of(r#"{"name":"cbr0","ipam":{}}"#), "/var/lib/cni/networks/cbr0");
    assert_eq!(of(r#"{"name":"cbr0","ipam":{"DataDir":"/x","ranges":1}}"#), "/x/cbr0");
}

#[test]
fn requested_addresses_are_collected() {
    let text = r#"{"name":"n","ipam":{"ranges":[[{"subnet":"10.1.2.0/24"}]]},
        "args":{"cni":{"ips":["10.1.2.6/24"]}},"runtimeConfig":{"ips":["2001:db8::7"]}}"#;
    let config = parse(text, "IgnoreUnknown=1;K8S_POD_NAME=x;IP=10.1.2.5", Version::V1_0_0).unwrap();
    let texts: Vec<_> = config.requested.iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["10.1.2.5", "10.1.2.6", "2001:db8::7"]);
    assert_eq!(parse(text, "IP=zz", Version::V1_0_0), Err("cannot understand ip: zz".to_owned()));
    assert_eq!(parse(text, "FOO=BAR", Version::V1_0_0), Err("ARGS: unknown args [\"FOO=BAR\"]".to_owned()));
}

#[test]
fn bad_configs_have_the_errors_of_go() {
    for (members, error) in [
        (r#""type":"x""#, "IPAM config missing 'ipam' key"),
        (r#""ipam":{}"#, "no IP ranges specified"),
        (r#""ipam":{"ranges":[[]]}"#, "invalid range set 0: empty range set"),
        (
            r#""ipam":{"ranges":[[{"subnet":"10.0.0.0/24"}],[{"subnet":"10.0.0.0/31"}]]}"#,
            "invalid range set 1: Network 10.0.0.0/31 too small to allocate from",
        ),
        (
            r#""ipam":{"ranges":[[{"subnet":"10.0.0.0/24"}],[{"subnet":"10.0.0.0/16"}]]}"#,
            "range set 0 overlaps with 1",
        ),
        (r#""ipam":{"subnet":"10.0.0.0"}"#, "invalid CIDR address: 10.0.0.0"),
        (r#""ipam":{"subnet":"10.0.0.0/24","gateway":"x"}"#, "invalid IP address: x"),
        (
            r#""ipam":{"subnet":5}"#,
            "json: cannot unmarshal number into Go struct field Net.subnet of type string",
        ),
        (
            r#""ipam":{"subnet":"10.0.0.0/24","routes":[{"gw":"10.0.0.1"}]}"#,
            "ipam.routes[0] has no dst: must be an address with its prefix length, such as 10.244.1.2/24",
        ),
    ] {
        assert_eq!(sets(members), Err(error.to_owned()), "{members}");
    }
}

#[test]
fn old_results_carry_one_address_per_family() {
    let text = |sets: &str| format!(r#"{{"name":"n","ipam":{{"ranges":[{sets}]}}}}"#);
    let two = text(r#"[{"subnet":"10.1.0.0/24"}],[{"subnet":"10.2.0.0/24"}]"#);
    assert_eq!(
        parse(&two, "", Version::V0_2_0),
        Err("CNI version 0.2.0 does not support more than 1 address per family".to_owned())
    );
    assert!(parse(&two, "", Version::V0_3_0).is_ok());
    let dual = text(r#"[{"subnet":"10.1.0.0/24"}],[{"subnet":"fd00::/64"}]"#);
    assert!(parse(&dual, "", Version::V0_2_0).is_ok());
}
