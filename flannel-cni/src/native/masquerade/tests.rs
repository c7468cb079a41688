use super::*;
#[test]
fn lines_are_those_of_go() {
    let request = Request::sample(r#"{"name":"cbr0"}"#, "cid1", "");
    let masquerade = Masquerade::new(&request);
    let check = |nets: &[&str], expected: &str| {
        let nets: Vec<IpNet> = nets.iter().map(|net| net.parse().unwrap()).collect();
        let lines = masquerade.chain_lines(&nets, &nets) + &masquerade.entry_lines(&nets);
        assert_eq!(lines.replace(r#"-m comment --comment "name: \"cbr0\" id: \"cid1\"""#, "#"), expected);
    };
    check(
        &["10.244.1.2/24"],
        "-A CNI-4c7c118642e0d78610143dd0 -d 10.244.1.0/24 # -j ACCEPT\n\
         -A CNI-4c7c118642e0d78610143dd0 ! -d 224.0.0.0/4 # -j MASQUERADE\n\
         -A POSTROUTING -s 10.244.1.2 # -j CNI-4c7c118642e0d78610143dd0\n",
    );
    // Two addresses in one subnet and one in another: packets within any of them are accepted.
    check(
        &["fd00:1::2/64", "fd00:1::3/64", "fd00:2::2/64"],
        "-A CNI-4c7c118642e0d78610143dd0 -d fd00:1::/64 # -j ACCEPT\n\
         -A CNI-4c7c118642e0d78610143dd0 -d fd00:2::/64 # -j ACCEPT\n\
         -A CNI-4c7c118642e0d78610143dd0 ! -d ff00::/8 # -j MASQUERADE\n\
         -A POSTROUTING -s fd00:1::2 # -j CNI-4c7c118642e0d78610143dd0\n\
         -A POSTROUTING -s fd00:1::3 # -j CNI-4c7c118642e0d78610143dd0\n\
         -A POSTROUTING -s fd00:2::2 # -j CNI-4c7c118642e0d78610143dd0\n",
    );
}
