use super::*;
use crate::json;

fn parse(text: &str) -> Result<Vtep, FieldError> {
    Vtep::parse(json::parse_value(text).unwrap())
}

#[test]
fn golden_data_reads_and_writes_back() {
    let text = r#"{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}"#;
    let data = parse(text).unwrap();
    assert_eq!(data.vni, Some(Vni::DEFAULT));
    assert_eq!(data.to_raw().get(), text);
    let windows = Vtep { vni: Vni::new(4096), ..data };
    assert_eq!(windows.to_raw().get(), r#"{"VNI":4096,"VtepMAC":"c6:d2:32:6f:8f:44"}"#);
}

#[test]
fn tolerated_forms() {
    for text in [
        r#"{"VtepMAC":"96:59:b2:3f:04:ee"}"#,
        r#"{"vni": null, "vtepmac": "96-59-B2-3F-04-EE", "new": 1}"#,
        r#"{"VNI": 4294967295, "VtepMAC": "9659.b23f.04ee"}"#,
    ] {
        let data = parse(text).unwrap();
        assert_eq!((data.vni, data.mac.to_string().as_str()), (None, "96:59:b2:3f:04:ee"), "{text}");
    }
}

#[test]
fn unusable_data_is_named() {
    for (text, error) in [
        (
            "null",
            r#"BackendData.VtepMAC is missing: must be an Ethernet address such as "0a:58:0a:05:01:00""#,
        ),
        ("{}", r#"BackendData.VtepMAC is missing: must be an Ethernet address such as "0a:58:0a:05:01:00""#),
        ("[]", "BackendData is an array: must be an object: { … }"),
        (
            r#"{"VtepMAC": "96:59"}"#,
            r#"BackendData.VtepMAC is "96:59": must be an Ethernet address such as "0a:58:0a:05:01:00""#,
        ),
        (
            r#"{"VNI": "1", "VtepMAC": "96:59:b2:3f:04:ee"}"#,
            r#"BackendData.VNI is "1": must be a whole number without sign, quotes, fraction or exponent"#,
        ),
    ] {
        assert_eq!(parse(text).unwrap_err().to_string(), error, "{text}");
    }
}
