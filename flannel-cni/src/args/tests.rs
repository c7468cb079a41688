use super::*;

fn ip(args: &str) -> Result<Option<&str>, String> {
    value(args, "IP").map_err(|error| error.msg)
}

#[test]
fn arguments_are_read_as_by_go() {
    assert_eq!(ip(""), Ok(None));
    assert_eq!(ip("IP=1.2.3.4"), Ok(Some("1.2.3.4")));
    assert_eq!(ip("IgnoreUnknown=1;K8S_POD_NAME=x;IP=1.2.3.4"), Ok(Some("1.2.3.4")));
    assert_eq!(ip("K8S_POD_NAME=x;IgnoreUnknown=TRUE"), Ok(None));
    for (args, error) in [
        ("IP=1.2.3.4;", "ARGS: invalid pair \"\""),
        ("IP", "ARGS: invalid pair \"IP\""),
        ("A=b=c", "ARGS: invalid pair \"A=b=c\""),
        ("FOO=BAR", "ARGS: unknown args [\"FOO=BAR\"]"),
        ("ip=1;MAC=2;IgnoreUnknown=0", "ARGS: unknown args [\"ip=1\" \"MAC=2\"]"),
        (
            "IgnoreUnknown=x",
            "ARGS: error parsing value of pair \"IgnoreUnknown=x\": boolean unmarshal error: invalid input x",
        ),
    ] {
        assert_eq!(ip(args), Err(error.to_owned()), "{args}");
    }
}
