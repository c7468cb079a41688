use super::*;
use proptest::prelude::*;

fn object(text: &str) -> Fields<'_> {
    Fields::parse(text).unwrap()
}

#[test]
fn keys_in_any_case_and_the_last_one_wins() {
    let read = object(r#"{"vni": 1, "VNI": 2, "Vni": null, "\u0056ni": 4, "other": []}"#);
    assert_eq!(read.unsigned("VNI").unwrap(), Some(4));
    assert_eq!(read.last("vni").unwrap().get(), "4");
    assert_eq!(read.members.len(), 5);
    assert_eq!(object(r#"{"vni": 1, "VNI": null}"#).unsigned("VNI").unwrap(), Some(1));
    assert_eq!(object(r#"{"\u212aey": true}"#).bool("key").unwrap(), Some(true));
    assert_eq!(object("null").unsigned("VNI").unwrap(), None);
}

#[test]
fn every_occurrence_is_checked() {
    let error = object(r#"{"VNI": "1", "vni": 2}"#).unsigned("VNI").unwrap_err();
    assert_eq!(error.value, "\"1\"");
}

#[test]
fn texts_other_than_objects() {
    let check = |text: &str| Fields::parse(text).unwrap_err().to_string();
    assert_eq!(check(" \n"), "the JSON text is empty; write at least {}");
    assert_eq!(
        check("\u{feff}{}"),
        "the JSON text starts with a byte order mark; save it as UTF-8 without one"
    );
    assert_eq!(check("[1]"), "the JSON text is an array, but must be an object: { … }");
    assert_eq!(check("\"a\""), "the JSON text is a string, but must be an object: { … }");
    assert_eq!(check("7"), "the JSON text is a number, but must be an object: { … }");
    for text in ["{} x", "{}{}", "{ // c\n}", "{\"a\":1,}", "{'a':1}", "{\"a\":01}", "{\"a\":\"\n\"}", "{"] {
        assert_eq!(check(text), "not valid JSON", "{text:?}");
    }
}

#[test]
fn strict_scalars() {
    for text in ["\"24\"", "-1", "24.0", "2.4e1", "18446744073709551616", "true", "[]"] {
        let text = format!(r#"{{"SubnetLen": {text}}}"#);
        assert!(object(&text).unsigned("SubnetLen").is_err(), "{text}");
    }
    for text in ["\"true\"", "1", "{}"] {
        let text = format!(r#"{{"a": {text}}}"#);
        assert!(object(&text).bool("a").is_err(), "{text}");
    }
    assert_eq!(
        object(r#"{"a": "x"}"#).bool("a").unwrap_err().to_string(),
        r#"a is "x": must be true or false, without quotes"#
    );
    assert!(object(r#"{"a": 5}"#).string("a").is_err());
}

#[test]
fn nested_errors_name_the_path_and_hide_secrets() {
    let outer = object(r#"{"Backend": {"psk": 5, "VNI": "x"}}"#);
    let backend = outer.object("backend").unwrap().unwrap();
    assert_eq!(
        backend.secret("PSK").unwrap_err().to_string(),
        "backend.PSK is a number: must be a string in double quotes"
    );
    assert_eq!(backend.unsigned("VNI").unwrap_err().key, "backend.VNI");
    assert_eq!(
        object("{\"a\": []}").object("a").unwrap_err().to_string(),
        "a is an array: must be an object: { … }"
    );
    let merged = object(r#"{"a": {"x": 1, "y": 2}, "A": {"X": 3}}"#);
    let merged = merged.object("a").unwrap().unwrap();
    assert_eq!((merged.unsigned("x").unwrap(), merged.unsigned("y").unwrap()), (Some(3), Some(2)));
}

#[test]
fn embedded_json_is_compacted_and_escaped() {
    let raw: &RawValue = serde_json::from_str(
        "{ \"a b\" : [ 1 ,\n\t2.0 ],\r \"c\": \"x\\\" < \\\\\", \"d\":\"\\u00e9/\u{2028}\" }",
    )
    .unwrap();
    assert_eq!(compact(raw), r#"{"a b":[1,2.0],"c":"x\" \u003c \\","d":"\u00e9/\u2028"}"#);
}

proptest! {
    #[test]
    fn compaction_is_stable(text in "[\\[\\]{}\":, a<\\\\]{0,12}") {
        if let Ok(raw) = parse_value(&text) {
            let once = compact(raw);
            let twice = compact(parse_value(&once).unwrap());
            prop_assert_eq!(once, twice);
        }
    }
}
