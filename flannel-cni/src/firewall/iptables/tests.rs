use super::*;

#[test]
fn words_survive_the_input_of_restore() {
    for (word, quoted) in [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("name: \"a\"", r#""name: \"a\"""#),
        ("back\\slash", r#""back\\slash""#),
        ("", r#""""#),
        ("two\nlines", r#""two lines""#),
    ] {
        assert_eq!(quote(word), quoted);
    }
}

#[test]
fn failures_name_the_rule() {
    let status = std::os::unix::process::ExitStatusExt::from_raw(1 << 8);
    let input = "*nat\n-A X -j NOWHERE\nCOMMIT\n";
    for said in
        ["iptables-restore: line 2 failed", "Error occurred at line: 2\nTry `-h' for more information."]
    {
        let error = failure("iptables-restore", status, said.as_bytes(), input);
        assert!(error.to_string().ends_with("in `-A X -j NOWHERE`"), "{error}");
    }
    let warned = b"# Warning: iptables-legacy tables present, use iptables-legacy to see them\n";
    let error = failure("iptables-restore", status, warned, input);
    assert!(error.to_string().ends_with("no error message"), "{error}");
    let busy = std::os::unix::process::ExitStatusExt::from_raw(4 << 8);
    let error = failure("iptables-restore", busy, b"Another app", input);
    assert!(error.to_string().contains("has held the iptables lock"), "{error}");
}
