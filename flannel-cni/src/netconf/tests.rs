use super::*;
use crate::error::chain;

fn object(text: &str) -> Object {
    Value::parse(text.as_bytes()).unwrap().as_object().unwrap().clone()
}

fn parse(text: &str) -> Result<NetConf, String> {
    NetConf::parse(&object(text)).map_err(|error| chain(&error))
}

#[test]
fn defaults() {
    let conf = parse(r#"{"name":"cbr0","delegate":null,"subnetFile":null}"#).unwrap();
    assert_eq!(conf.subnet_file.to_str(), Some("/run/flannel/subnet.env"));
    assert_eq!(conf.data_dir.to_str(), Some("/var/lib/cni/flannel"));
    assert!(conf.delegate.is_empty() && conf.ipam.is_empty() && conf.native);
    assert_eq!(conf.subnet_file_timeout, Duration::from_secs(5));
}

#[test]
fn keys_fold_and_empty_strings_are_kept() {
    let conf = parse(
        r#"{"Name":"n","SUBNETFILE":"","dataDir":"","Native":false,"RuntimeConfig":{"PortMappings":[]},
            "subnetfiletimeoutseconds":0}"#,
    )
    .unwrap();
    assert_eq!((conf.subnet_file.to_str(), conf.data_dir.to_str()), (Some(""), Some("")));
    assert!(!conf.native);
    assert_eq!(conf.subnet_file_timeout, Duration::ZERO);
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
        assert_eq!(parse(&text), Err(error.to_owned()), "{text}");
        let (conf, error) = NetConf::parse_leniently(&object(&text));
        assert_eq!(conf.name, "n");
        assert!(error.is_some());
    }
}
