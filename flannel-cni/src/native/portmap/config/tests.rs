use super::*;

fn object(text: &str) -> Object {
    match Value::parse(text.as_bytes()).unwrap() {
        Value::Object(object) => object,
        other => panic!("{other:?}"),
    }
}

fn parse(members: &str, mappings: &str) -> Result<Config, CniError> {
    Config::parse(&object(&format!(
        r#"{{"cniVersion":"1.0.0","name":"cbr0","type":"portmap","runtimeConfig":{{"portMappings":[{mappings}]}}{members}}}"#
    )))
}

#[test]
fn mappings_are_read_as_runtimes_write_them() {
    let config = parse(
        "",
        r#"{"HostPort":8080,"ContainerPort":80,"Protocol":"TCP","HostIP":""},
           {"hostPort":5353,"containerPort":53,"protocol":"udp","hostIP":"192.0.2.1"},
           {"hostPort":8080,"containerPort":80,"protocol":"tcp"},
           {"hostPort":9000,"containerPort":90,"hostIP":"::"}"#,
    )
    .unwrap();
    let texts: Vec<_> = config.mappings.iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["host port 8080/tcp", "host port 192.0.2.1:5353/udp", "host port [::]:9000/tcp"]);
    assert_eq!((config.of(Family::V4).count(), config.of(Family::V6).count()), (2, 2));
    assert_eq!(config.mappings[2].address(), None);
    assert_eq!((config.snat, config.masquerade_all, config.mark), (true, false, Mark::Bit(0x2000)));
}

#[test]
fn errors_name_the_problem() {
    let port = |host: &str, container: &str, more: &str| {
        format!(r#"{{"hostPort":{host},"containerPort":{container},"protocol":"tcp"{more}}}"#)
    };
    let good = port("8080", "80", "");
    for (members, mappings, expected) in [
        ("", port("8080", "0", ""), "Invalid container port number: 0"),
        ("", port("70000", "80", ""), "Invalid host port number: 70000"),
        ("", port("-1", "80", ""), "Invalid host port number: -1"),
        ("", r#"{"hostPort":8080}"#.to_owned(), "Invalid container port number: 0"),
        ("", port("8080", "80", r#","protocol":"icmp""#), r#"invalid protocol "icmp" of host port 8080"#),
        ("", port("8080", "80", r#","hostIP":"zz""#), r#"invalid host IP "zz" of host port 8080"#),
        ("", port("\"80\"", "80", ""), "cannot unmarshal string"),
        (
            "",
            format!("{good},{}", port("8080", "81", "")),
            "host port 8080/tcp is mapped twice: to container port 80 and to 81",
        ),
        (r#","backend":"zz""#, good.clone(), r#"unrecognized backend "zz""#),
        (r#","markMasqBit":32"#, good.clone(), "MasqMarkBit must be between 0 and 31"),
        (
            r#","markMasqBit":5,"externalSetMarkChain":"X""#,
            good.clone(),
            "Cannot specify externalSetMarkChain and markMasqBit",
        ),
        (
            r#","backend":"nftables","externalSetMarkChain":"X","conditionsV4":["-s","10.0.0.1"]"#,
            good.clone(),
            "nftables backend was requested but configuration contains iptables-specific options [externalSetMarkChain conditionsV4]",
        ),
        (
            r#","backend":"iptables","conditionsV6":["ip6","saddr","fd00::1"]"#,
            good.clone(),
            "iptables backend was requested but configuration contains nftables-specific options [conditionsV6]",
        ),
        (
            r#","conditionsV4":["!","-s","10.0.0.1"],"conditionsV6":["ip6","saddr","fd00::1"]"#,
            good,
            "iptables backend was requested but configuration contains nftables-specific options [conditionsV6]",
        ),
    ] {
        let error = parse(members, &mappings).unwrap_err().msg;
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn unknown_keys_are_ignored() {
    let mapping = r#"{"hostPort":80,"containerPort":80,"protocol":"tcp","vendor":{}}"#;
    assert_eq!(parse(r#","vendor":{"a":1}"#, mapping).unwrap(), parse("", mapping).unwrap());
}

#[test]
fn ports_collide_where_a_packet_could_be_meant_by_both() {
    let config = parse(
        "",
        r#"{"hostPort":80,"containerPort":80,"protocol":"tcp","hostIP":"192.0.2.1"},
           {"hostPort":81,"containerPort":80,"protocol":"tcp"}"#,
    )
    .unwrap();
    let [one, all] = &config.mappings[..] else { panic!("two") };
    let ip = |text: &str| Some(text.parse().unwrap());
    assert!(one.collides(Family::V4, 6, 80, None) && one.collides(Family::V4, 6, 80, ip("192.0.2.1")));
    assert!(!one.collides(Family::V4, 6, 80, ip("192.0.2.2")) && !one.collides(Family::V4, 17, 80, None));
    assert!(!one.collides(Family::V6, 6, 80, None) && !one.collides(Family::V4, 6, 81, None));
    assert!(
        all.collides(Family::V6, 6, 81, ip("fd00::1")) && all.collides(Family::V4, 6, 81, ip("192.0.2.2"))
    );
}
