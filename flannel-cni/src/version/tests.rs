use super::*;

fn config(version: &str) -> Object {
    let text = format!(r#"{{"CNIVersion":{version}}}"#);
    Value::parse(text.as_bytes()).unwrap().as_object().unwrap().clone()
}

#[test]
fn only_exact_texts_are_versions() {
    assert_eq!(of_config(&Object::new(), Version::V0_1_0), Ok(Version::V0_1_0));
    assert_eq!(of_config(&config("\"\""), Version::V0_1_0), Ok(Version::V0_1_0));
    assert_eq!(of_config(&config("\"1.1.0\""), Version::V0_1_0), Ok(Version::V1_1_0));
    let error = of_config(&config("\"1.0\""), Version::V0_1_0).unwrap_err();
    assert_eq!(
        (error.code, error.msg.as_str(), error.details.as_str()),
        (
            1,
            "incompatible CNI versions",
            r#"config is "1.0", plugin supports ["0.1.0" "0.2.0" "0.3.0" "0.3.1" "0.4.0" "1.0.0" "1.1.0"]"#
        )
    );
    assert_eq!(of_config(&config("1"), Version::V0_1_0).unwrap_err().code, 6);
}

#[test]
fn commands_need_a_version() {
    let require = |version: &str, command, least| {
        require(&config(version), command, least).map_err(|error| (error.code, error.msg))
    };
    let refused = |code, msg: &str| Err((code, msg.to_owned()));
    assert_eq!(require("\"0.4.0\"", "CHECK", Version::V0_4_0), Ok(()));
    assert_eq!(require("\"0.4\"", "CHECK", Version::V0_4_0), Ok(()));
    assert_eq!(
        require("\"0.3.1\"", "CHECK", Version::V0_4_0),
        refused(1, "config version does not allow CHECK")
    );
    assert_eq!(
        require("\"2.0.0\"", "CHECK", Version::V0_4_0),
        refused(1, "plugin version does not allow CHECK")
    );
    assert_eq!(require("\"1.0.0\"", "GC", Version::V1_1_0), refused(1, "config version does not allow GC"));
    assert_eq!(
        require("\"\"", "STATUS", Version::V1_1_0),
        refused(1, "config version does not allow STATUS")
    );
    assert_eq!(require("\"1.x\"", "GC", Version::V1_1_0).unwrap_err().0, 6);
    assert_eq!(require("\"1.1.0.0\"", "GC", Version::V1_1_0).unwrap_err().0, 6);
}

#[test]
fn the_answer_to_version_is_one_line() {
    assert_eq!(
        answer(Version::V0_1_0),
        concat!(
            r#"{"cniVersion":"1.1.0","supportedVersions":["#,
            r#""0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}"#,
            "\n"
        )
    );
}
