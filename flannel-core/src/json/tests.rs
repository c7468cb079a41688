use super::*;
use proptest::prelude::*;

fn parse(text: &str) -> Value {
    Value::parse(text.as_bytes()).unwrap()
}

#[test]
fn numbers_are_written_as_go_writes_floats() {
    for (literal, written) in [
        ("1.50", "1.5"),
        ("2.0", "2"),
        ("1e21", "1e+21"),
        ("1.25E+22", "1.25e+22"),
        ("12345678901234567890", "12345678901234567000"),
        ("0.0000001", "1e-7"),
        ("0.000001", "0.000001"),
        ("-0", "-0"),
        ("100000000000000000000", "100000000000000000000"),
        ("1450", "1450"),
    ] {
        assert_eq!(parse(literal).to_compact(), written, "{literal}");
    }
}

#[test]
fn strings_are_escaped_as_go_escapes_them() {
    let text = parse(r#""<&>\u2028\u2029\u0001\b\f\n\r\t\/\"\\é😀""#).to_compact();
    assert_eq!(text, "\"\\u003c\\u0026\\u003e\\u2028\\u2029\\u0001\\b\\f\\n\\r\\t/\\\"\\\\é😀\"");
    assert_eq!(parse(r#""\ud83d\ude00""#).as_str(), Some("😀"));
    assert_eq!(Value::parse(b"\"a\xffb\"").unwrap().as_str(), Some("a\u{fffd}b"));
}

#[test]
fn fields_fold_case_and_members_of_maps_do_not() {
    let value = parse(r#"{"Name":"a","NAME":"b","nAmE":null,"ta\u017fK":1,"name2":2}"#);
    let object = value.as_object().unwrap();
    assert_eq!(object.field("name"), Some(&Value::from("b")));
    assert_eq!(object.get("name"), None);
    assert_eq!(object.field("task"), Some(&Value::from(1_i64)));
    assert_eq!(object.fields("name").count(), 3);
}

#[test]
fn maps_are_sorted_bytewise_and_the_last_duplicate_counts() {
    let value = parse(r#"{"ipam":1,"ipMasq":2,"b":{"z":1,"a":[{"y":1,"x":2}]},"ipam":3}"#);
    assert_eq!(value.sorted().to_compact(), r#"{"b":{"a":[{"x":2,"y":1}],"z":1},"ipMasq":2,"ipam":3}"#);
}

#[test]
fn pretty_text_has_four_spaces() {
    let value = parse(r#"{"a":[1,{"b":{}}],"c":[]}"#);
    let expected =
        "{\n    \"a\": [\n        1,\n        {\n            \"b\": {}\n        }\n    ],\n    \"c\": []\n}";
    assert_eq!(value.to_pretty(), expected);
}

#[test]
fn syntax_errors_have_a_position() {
    for (text, error) in [
        ("", "EOF while parsing a value at line 1 column 0"),
        ("{\"a\":1,}", "trailing comma at line 1 column 8"),
        ("{\n\"a\" 1}", "expected `:` at line 2 column 5"),
        ("{} x", "trailing characters at line 1 column 4"),
        ("01", "invalid number at line 1 column 2"),
        ("\"\n\"", "control character (\\u0000-\\u001F) found while parsing a string at line 2 column 0"),
        ("\u{feff}{}", "expected value at line 1 column 1"),
        (r#""\ud83d x""#, "unexpected end of hex escape at line 1 column 8"),
    ] {
        assert_eq!(Value::parse(text.as_bytes()).unwrap_err().to_string(), error, "{text:?}");
    }
    assert!(Value::parse("[".repeat(100_000).as_bytes()).is_err());
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u32>().prop_map(Value::from),
        ".{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::btree_map("[a-cA-C<]{0,3}", inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn written_text_parses_to_the_same_value(value in values()) {
        prop_assert_eq!(&Value::parse(value.to_compact().as_bytes()).unwrap(), &value);
        prop_assert_eq!(&Value::parse(value.to_pretty().as_bytes()).unwrap(), &value);
        // serde_json reads the same text, so that the reader and the writer do not share a mistake.
        prop_assert!(serde_json::from_str::<serde_json::Value>(&value.to_compact()).is_ok());
    }

    #[test]
    fn any_bytes_are_parsed_or_rejected(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let is_parsed = Value::parse(&bytes).is_ok();
        if let Ok(text) = std::str::from_utf8(&bytes) {
            prop_assert_eq!(is_parsed, serde_json::from_str::<serde_json::Value>(text).is_ok());
        }
    }
}
