use super::*;

fn parse(members: &str) -> Result<Option<Vlans>, String> {
    let text = format!(r#"{{"name":"n","type":"bridge"{members}}}"#);
    let object = Value::parse(text.as_bytes()).unwrap().as_object().unwrap().clone();
    Vlans::parse(&object).map_err(|error| error.msg)
}

fn vlans(access: u16, trunk: &[u16], keep_default: bool) -> Vlans {
    Vlans { access: Some(access).filter(|vlan| *vlan != 0), trunk: trunk.to_vec(), keep_default }
}

#[test]
fn ranges_and_single_vlans_are_one_list() {
    assert_eq!(parse(""), Ok(None));
    assert_eq!(parse(r#","vlan":0"#), Ok(None));
    assert_eq!(parse(r#","VLAN":100"#), Ok(Some(vlans(100, &[], false))));
    assert_eq!(parse(r#","vlanTrunk":[]"#), Ok(Some(vlans(0, &[], false))));
    assert_eq!(
        parse(
            r#","vlan":1,"vlanTrunk":[{"minID":7,"maxID":9},{"id":8,"minID":3,"maxID":3},{"ID":2}],"preserveDefaultVlan":true"#
        ),
        Ok(Some(vlans(1, &[2, 3, 7, 8, 9], true)))
    );
}

#[test]
fn the_errors_are_those_of_go() {
    for (members, text) in [
        (r#","vlan":4095"#, "invalid VLAN ID 4095 (must be between 0 and 4094)"),
        (r#","vlan":-1"#, "invalid VLAN ID -1 (must be between 0 and 4094)"),
        (r#","vlanTrunk":[{"id":4095}]"#, "incorrect trunk id parameter"),
        (r#","vlanTrunk":[{"id":0}]"#, "incorrect trunk id parameter"),
        (r#","vlanTrunk":[{"minID":0,"maxID":3}]"#, "incorrect trunk minID parameter"),
        (r#","vlanTrunk":[{"minID":1,"maxID":70000}]"#, "incorrect trunk maxID parameter"),
        (r#","vlanTrunk":[{"minID":4,"maxID":3}]"#, "minID is greater than maxID in trunk parameter"),
        (
            r#","vlanTrunk":[{"minID":4}]"#,
            "minID and maxID should be configured simultaneously, maxID is missing",
        ),
        (
            r#","vlanTrunk":[{"maxID":4}]"#,
            "minID and maxID should be configured simultaneously, minID is missing",
        ),
        (
            r#","vlanTrunk":[5]"#,
            "failed to load netconf: json: cannot unmarshal number into Go struct field NetConf.vlanTrunk of type bridge.VlanTrunk",
        ),
    ] {
        assert_eq!(parse(members), Err(text.to_owned()), "{members}");
    }
}

#[test]
fn a_port_is_in_its_vlans_and_no_other() {
    use Membership::{Access, Tagged};
    let check = |vlans: &Vlans, present: &[(u16, Membership)], expected: &[(u16, Membership)]| {
        assert_eq!(vlans.wanted(present), expected, "{vlans:?} {present:?}");
    };
    let new = &[(1, Access)];
    check(&vlans(5, &[], false), new, &[(5, Access)]);
    check(&vlans(5, &[], true), new, &[(1, Access), (5, Access)]);
    check(&vlans(0, &[7, 8], false), new, &[(1, Access), (7, Tagged), (8, Tagged)]);
    check(&vlans(0, &[7], false), &[(3, Access)], &[(1, Access), (7, Tagged)]);
    check(&vlans(0, &[1, 7], true), new, &[(1, Access), (7, Tagged)]);
    // A bridge that only filters by VLAN, and a port that is up to date.
    check(&vlans(0, &[], false), new, new);
    check(&vlans(5, &[6], false), &[(5, Access), (6, Tagged)], &[(5, Access), (6, Tagged)]);
    assert!(vlans(5, &[6], false).are_of(&[(6, Tagged), (5, Access)]));
    assert!(!vlans(5, &[6], false).are_of(&[(6, Tagged), (5, Tagged)]));
}
