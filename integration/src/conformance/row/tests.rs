use super::*;

const TABLE: &str = r#"
$net = {"type": "host-local"}
plugins: bridge portmap
[first]
base: "ipam": $net, "mtu": 1
base portmap: "snat": false
needs: mtu
replaced | !name CNI_ARGS=A=1;B=2 DEL.CNI_NETNS= "mtu": 1e3 -> "x": 1 | ok; a part; no other; check 1 text; ~reason; left it
raw | raw {"name": -> "snat": true | 999 cannot; del 4 | pod ip link; true
"#;

#[test]
fn rows_are_composed_from_their_sections() {
    let table = Table::parse(TABLE).unwrap();
    let [replaced, raw] = &table.rows[..] else { panic!("{} rows", table.rows.len()) };
    assert_eq!(replaced.name, "first: replaced");
    let configs: Vec<&str> = replaced.plugins.iter().map(|(_, config)| config.as_str()).collect();
    assert_eq!(
        configs,
        [
            r#"{"cniVersion":"1.0.0","ipam":{"type": "host-local"},"mtu":1e3,"type":"bridge"}"#,
            r#"{"cniVersion":"1.0.0","snat":false,"type":"portmap","x":1}"#
        ]
    );
    let variable = |command: Option<&str>, name: &str, value: &str| {
        (command.map(str::to_owned), name.to_owned(), value.to_owned())
    };
    assert_eq!(
        replaced.variables,
        [variable(None, "CNI_ARGS", "A=1;B=2"), variable(Some("DEL"), "CNI_NETNS", "")]
    );
    let expected = &replaced.expected;
    assert!(expected.add.is_none() && expected.del.is_none());
    assert_eq!(expected.check, Some(Some(Failure { code: 1, text: "text".to_owned() })));
    assert_eq!(
        (&expected.present[..], &expected.absent[..]),
        (&["a part".to_owned()][..], &["other".to_owned()][..])
    );
    assert_eq!(
        (&expected.deviations[..], &expected.left[..]),
        (&["reason".to_owned()][..], &["it".to_owned()][..])
    );
    assert_eq!(raw.plugins[0].1, r#"{"name":"#);
    assert_eq!(raw.expected.add, Some(Failure { code: 999, text: "cannot".to_owned() }));
    assert_eq!(raw.before, ["pod ip link", "true"]);
}

#[test]
fn mistakes_are_found() {
    for (table, mistake) in [
        ("[a]\nplugins: bridge\nx | | ok", "3 or 4 columns"),
        ("[a]\nplugins: bridge\nx | \"a\": | ok", "not members"),
        ("[a]\nplugins: bridge\nx | \"a\": 1 | maybe", "not the code of an error"),
        ("[a]\nplugins: bridge\nx | \"a\": 1 | ok\nx | \"a\": 2 | ok", "two rows"),
        ("[a]\nplugin: bridge", "no setting"),
        ("[a]\nkernel: magic", "no such feature"),
    ] {
        let error = Table::parse(table).err().map(|error| format!("{error:#}")).unwrap_or_default();
        assert!(error.contains(mistake), "{table}: {error}");
    }
}
