use super::*;
use crate::environment::Command;
use crate::version;
use std::ffi::OsString;

impl Request {
    /// An ADD of the container `id` with a config.
    pub(crate) fn sample(config: &str, id: &str, args: &str) -> Self {
        let config = parse_config(config.as_bytes()).expect("a config");
        Self {
            environment: Environment {
                command: Command::Add,
                attachment: Attachment { container_id: id.to_owned(), ifname: "eth0".to_owned() },
                netns: "/proc/self/ns/net".into(),
                args: args.to_owned(),
                path: OsString::new(),
                netns_override: false,
            },
            network: config.text("name").to_owned(),
            version: version::of_config(&config, Version::V0_1_0).expect("a version"),
            config,
        }
    }
}

#[test]
fn stdin_must_be_json_with_a_name() {
    for (stdin, code, text) in [
        ("", 6, "error unmarshall network config: EOF while parsing a value at line 1 column 0"),
        ("{} x", 6, "error unmarshall network config: trailing characters at line 1 column 4"),
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
        let error = parse_config(stdin.as_bytes()).unwrap_err();
        let separator = if error.details.is_empty() { "" } else { "; " };
        assert_eq!(
            (error.code, format!("{}{separator}{}", error.msg, error.details)),
            (code, text.to_owned()),
            "{stdin}"
        );
    }
    assert!(parse_config(br#" {"NAME":"cbr0"} "#).is_ok());
}

#[test]
fn attachments_are_unknown_empty_or_listed() {
    let list = |text: &str| {
        valid_attachments(&Request::sample(&format!(r#"{{"name":"n"{text}}}"#), "a", "").config).unwrap()
    };
    assert_eq!(list(""), None);
    assert_eq!(list(r#","cni.dev/valid-attachments":null"#), Some(vec![]));
    assert_eq!(list(r#","cni.dev/attachments":[]"#), Some(vec![]));
    let one = Some(vec![Attachment { container_id: "a".to_owned(), ifname: "eth0".to_owned() }]);
    assert_eq!(list(r#","cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]"#), one);
    assert_eq!(list(r#","cni.dev/attachments":[{"containerID":"a","ifname":"eth0"}]"#), one);
}
