use super::*;

#[test]
fn placeholders_are_replaced_in_every_word() {
    let node = Node {
        key: "10.5.1.0-24".to_owned(),
        public_addresses: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
        ..Node::default()
    };
    let flags = ["connectivity".to_owned(), "test".to_owned()];
    let words = words("ssh -o BatchMode=yes root@{node} flannelctl", &node, &flags);
    assert_eq!(words.join(" "), "ssh -o BatchMode=yes root@192.0.2.1 flannelctl connectivity test");
    assert_eq!(super::words("on {subnet}", &node, &[])[1], "10.5.1.0-24");
}
