use super::*;

fn read(vars: &[(&str, &str)]) -> Result<Environment, Refusal> {
    Environment::read(|name| {
        vars.iter().find(|(other, _)| *other == name).map(|(_, value)| OsString::from(*value))
    })
}

const ADD: [(&str, &str); 5] = [
    ("CNI_COMMAND", "ADD"),
    ("CNI_CONTAINERID", "cid1"),
    ("CNI_NETNS", "/run/netns/pod1"),
    ("CNI_IFNAME", "eth0"),
    ("CNI_PATH", "/opt/cni/bin"),
];

fn with(changes: &[(&'static str, &'static str)]) -> Result<Environment, Refusal> {
    let mut vars: Vec<_> = changes.to_vec();
    vars.extend(ADD);
    read(&vars)
}

fn error(refusal: Result<Environment, Refusal>) -> (u32, String) {
    match refusal {
        Err(Refusal::Error(error)) if error.details.is_empty() => (error.code, error.msg),
        Err(Refusal::Error(error)) => (error.code, format!("{}; {}", error.msg, error.details)),
        other => panic!("no error: {other:?}"),
    }
}

#[test]
fn missing_variables_are_listed_in_order() {
    for (command, missing) in [
        ("ADD", "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH"),
        ("CHECK", "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH"),
        ("DEL", "CNI_CONTAINERID,CNI_IFNAME,CNI_PATH"),
        ("GC", "CNI_PATH"),
        ("STATUS", "CNI_PATH"),
    ] {
        let expected = (4, format!("required env variables [{missing}] missing"));
        assert_eq!(error(read(&[("CNI_COMMAND", command)])), expected, "{command}");
        let empty = [("CNI_COMMAND", command), ("CNI_CONTAINERID", ""), ("CNI_PATH", "")];
        assert_eq!(error(read(&empty)), expected, "{command}");
    }
    assert_eq!(read(&[]), Err(Refusal::About));
    assert_eq!(read(&[("CNI_COMMAND", "VERSION")]).unwrap().command, Command::Version);
    assert_eq!(read(&[("CNI_COMMAND", "add")]).unwrap().command, Command::Unknown("add".to_owned()));
}

#[test]
fn an_invalid_value_is_reported_before_a_missing_variable() {
    let vars = [("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "-x"), ("CNI_IFNAME", "a/b")];
    assert_eq!(error(read(&vars)), (4, "invalid characters in containerID; -x".to_owned()));
    let vars = [("CNI_COMMAND", "DEL"), ("CNI_IFNAME", "a/b")];
    assert_eq!(error(read(&vars)), (4, "interface name contains / or : or whitespace characters".to_owned()));
}

#[test]
fn values_are_checked_only_where_they_are_needed() {
    assert!(read(&[("CNI_COMMAND", "GC"), ("CNI_CONTAINERID", "/"), ("CNI_PATH", "/bin")]).is_ok());
    for (id, good) in
        [("a.b_c-D9", true), ("9", true), (".a", false), ("a b", false), ("é", false), ("a/b", false)]
    {
        assert_eq!(with(&[("CNI_CONTAINERID", id)]).is_ok(), good, "{id}");
    }
    for (name, msg) in [
        ("abcdefghijklmnop", "interface name is too long; interface name should be less than 16 characters"),
        (".", "interface name is . or .."),
        ("..", "interface name is . or .."),
        ("a:b", "interface name contains / or : or whitespace characters"),
        ("a\u{a0}b", "interface name contains / or : or whitespace characters"),
    ] {
        assert_eq!(error(with(&[("CNI_IFNAME", name)])), (4, msg.to_owned()), "{name}");
    }
    assert!(with(&[("CNI_IFNAME", "abcdefghijklmno")]).is_ok());
}

#[test]
fn the_guard_is_disabled_by_1_and_true() {
    for (value, lifted) in
        [("1", true), ("TRUE", true), ("true", true), ("0", false), ("yes", false), ("", false)]
    {
        assert_eq!(with(&[("CNI_NETNS_OVERRIDE", value)]).unwrap().netns_override, lifted, "{value}");
    }
}
