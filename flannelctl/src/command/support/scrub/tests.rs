use super::*;

#[test]
fn text_that_resembles_a_secret_is_removed() {
    let scrubber = Scrubber::default();
    for (text, expected) in [
        (
            r#"{"Type":"wireguard","PSK":"abc+/=","MTU":1}"#,
            r#"{"Type":"wireguard","PSK":"[removed]","MTU":1}"#,
        ),
        (r#"{"text":"{\"PSK\": \"abc\"}"}"#, r#"{"text":"{\"PSK\": \"[removed]\"}"}"#),
        ("FLANNELD_ETCD_PASSWORD=hunter2 X=1\n", "FLANNELD_ETCD_PASSWORD=[removed] X=1\n"),
        ("flanneld --etcd-password hunter2 --v=1\n", "flanneld --etcd-password [removed] --v=1\n"),
        ("Authorization: Bearer abcdef\n", "Authorization: Bearer [removed]\n"),
        ("    client-key-data: LS0tLS1C\n", "    client-key-data: [removed]\n"),
        ("PresharedKey = abc/+=\n", "PresharedKey = [removed]\n"),
        ("  token: abcdef\n", "  token: [removed]\n"),
        (
            "http://root:hunter2@etcd:2379,http://etcd2:2379/x\n",
            "http://[removed]@etcd:2379,http://etcd2:2379/x\n",
        ),
        ("password\n", "password\n"),
        ("setting=\"PASSWORD\" reason=\"x\"\n", "setting=\"PASSWORD\" reason=\"x\"\n"),
        ("10.5.1.0/24 via 10.5.1.0 dev flannel.1\n", "10.5.1.0/24 via 10.5.1.0 dev flannel.1\n"),
        ("a\n-----BEGIN EC PRIVATE KEY-----\nMHcC\n-----END EC PRIVATE KEY-----\nb\n", "a\n[removed]\nb\n"),
        (r#"{"a":"-----BEGIN PRIVATE KEY-----\nMHcC\n-----END PRIVATE KEY-----"}"#, "[removed]\n"),
        ("password==\npassword: ,\n", "password==\npassword: ,\n"),
    ] {
        assert_eq!(scrubber.clean(text), expected);
    }
}

#[test]
fn known_secrets_are_removed_everywhere() {
    let mut scrubber = Scrubber::default();
    scrubber.learn_config(r#"{"Backend":{"Type":"ipsec","PSK":"geheim"}}"#);
    scrubber.learn("abc");
    assert_eq!(scrubber.clean("it says geheim, and abc\n"), "it says [removed], and abc\n");
    scrubber.learn("say \"friend\"");
    assert_eq!(scrubber.clean(r#"{"text":"say \"friend\"!"}"#), r#"{"text":"[removed]!"}"#);
}
