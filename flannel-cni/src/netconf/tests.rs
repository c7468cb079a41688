use super::*;
use crate::error::chain;

fn object(text: &str) -> Object {
    Value::parse(text.as_bytes()).unwrap().as_object().unwrap().clone()
}

fn parse(text: &str) -> Result<NetConf, String> {
    NetConf::parse(&object(text)).map_err(|error| chain(&error))
}

#[test]
fn stdin_must_be_json_with_a_name() {
    for (stdin, code, text) in [
        ("", 6, "error unmarshall network config: unexpected end of JSON input"),
        ("{} x", 6, "error unmarshall network config: invalid character 'x' after top-level value"),
        (
            "[]",
            6,
            "error unmarshall network config: json: cannot unmarshal array into Go value of type types.PluginConf",
        ),
        (
            r#"{"name":1}"#,
            6,
            "error unmarshall network config: json: cannot unmarshal number into Go struct field .name of type string",
        ),
        ("{}", 7, "missing network name"),
        ("null", 7, "missing network name"),
        (r#"{"name":""}"#, 7, "missing network name"),
        (r#"{"name":"a/b"}"#, 7, "invalid characters found in network name; a/b"),
    ] {
        let error = parse_stdin(stdin.as_bytes()).unwrap_err();
        let separator = if error.details.is_empty() { "" } else { "; " };
        assert_eq!(
            (error.code, format!("{}{separator}{}", error.msg, error.details)),
            (code, text.to_owned()),
            "{stdin}"
        );
    }
    assert!(parse_stdin(br#" {"NAME":"cbr0"} "#).is_ok());
}

#[test]
fn defaults() {
    let conf = parse(r#"{"name":"cbr0","delegate":null,"subnetFile":null}"#).unwrap();
    assert_eq!(conf.subnet_file.to_str(), Some("/run/flannel/subnet.env"));
    assert_eq!(conf.data_dir.to_str(), Some("/var/lib/cni/flannel"));
    assert!(conf.delegate.is_empty() && conf.ipam.is_empty() && conf.native);
    assert_eq!(conf.valid_attachments, ValidAttachments::Unknown);
    assert_eq!(conf.subnet_file_patience, Duration::from_secs(5));
}

#[test]
fn keys_fold_and_empty_strings_stay() {
    let conf = parse(
        r#"{"Name":"n","SUBNETFILE":"","dataDir":"","Native":false,"RuntimeConfig":{"PortMappings":[]},
            "subnetfiletimeoutseconds":0}"#,
    )
    .unwrap();
    assert_eq!((conf.subnet_file.to_str(), conf.data_dir.to_str()), (Some(""), Some("")));
    assert!(!conf.native);
    assert_eq!(conf.subnet_file_patience, Duration::ZERO);
    assert!(conf.runtime_config.unwrap().get("PortMappings").is_some(), "names within are kept");
}

#[test]
fn wrong_types_are_errors() {
    for (text, error) in [
        (
            r#""delegate":"x""#,
            "json: cannot unmarshal string into Go struct field NetConf.delegate of type map[string]interface {}",
        ),
        (
            r#""ipam":[]"#,
            "json: cannot unmarshal array into Go struct field NetConf.ipam of type map[string]interface {}",
        ),
        (
            r#""ipam":{"type":1}"#,
            "json: cannot unmarshal number into Go struct field NetConf.ipam.type of type string",
        ),
        (
            r#""dataDir":true"#,
            "json: cannot unmarshal bool into Go struct field NetConf.dataDir of type string",
        ),
        (
            r#""capabilities":{"portMappings":"yes"}"#,
            "json: cannot unmarshal string into Go struct field NetConf.capabilities of type bool",
        ),
        (
            r#""dns":{"nameservers":"x"}"#,
            "json: cannot unmarshal string into Go struct field NetConf.dns.nameservers of type []string",
        ),
        (
            r#""prevResult":1"#,
            "json: cannot unmarshal number into Go struct field NetConf.prevResult of type map[string]interface {}",
        ),
        (
            r#""subnetFileTimeoutSeconds":1.5"#,
            "json: cannot unmarshal number 1.5 into Go struct field NetConf.subnetFileTimeoutSeconds of type uint16",
        ),
    ] {
        let text = format!(r#"{{"name":"n",{text}}}"#);
        assert_eq!(parse(&text), Err(format!("failed to load netconf: {error}")), "{text}");
        let (conf, error) = NetConf::parse_leniently(&object(&text));
        assert_eq!(conf.name, "n");
        assert!(error.is_some());
    }
}

#[test]
fn attachments_are_unknown_empty_or_listed() {
    let list = |text: &str| parse(&format!(r#"{{"name":"n"{text}}}"#)).unwrap().valid_attachments;
    assert_eq!(list(r#","cni.dev/valid-attachments":null"#), ValidAttachments::Only(vec![]));
    assert_eq!(list(r#","cni.dev/attachments":[]"#), ValidAttachments::Only(vec![]));
    let one =
        ValidAttachments::Only(vec![Attachment { container_id: "a".to_owned(), ifname: "eth0".to_owned() }]);
    assert_eq!(list(r#","cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]"#), one);
    assert_eq!(list(r#","cni.dev/attachments":[{"containerID":"a","ifname":"eth0"}]"#), one);
}
