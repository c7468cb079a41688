use super::*;
use std::collections::BTreeSet;

fn table() -> String {
    let mut text = String::from("| check | severity | what it means | what mends it |\n|---|---|---|---|\n");
    for Check { id, severity, meaning, mend } in CHECKS {
        text.push_str(&format!("| `{id}` | {severity} | {meaning} | {mend} |\n"));
    }
    text
}

#[test]
fn the_documentation_has_them_all() {
    let page = include_str!("../../../../docs/doctor.md");
    assert!(page.contains(&table()), "docs/doctor.md must hold this table:\n{}", table());
}

#[test]
fn ids_are_stable_names() {
    let ids: BTreeSet<&str> = CHECKS.iter().map(|check| check.id).collect();
    assert_eq!(ids.len(), CHECKS.len(), "an id is used twice");
    for id in ids {
        assert!(
            id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'),
            "{id}"
        );
    }
}

/// No check without a fault that it was seen to find.
#[test]
fn each_is_proved_on_a_real_node() {
    let tests = [
        include_str!("../../../../integration/tests/doctor.rs"),
        include_str!("../../../../integration/tests/doctor_store.rs"),
    ];
    for Check { id, .. } in CHECKS {
        let quoted = format!("\"{id}\"");
        assert!(tests.iter().any(|text| text.contains(&quoted)), "no end-to-end test finds {id}");
    }
}
