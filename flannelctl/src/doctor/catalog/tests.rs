use super::*;
use std::collections::BTreeSet;

fn table() -> String {
    let mut text = String::from("| check | severity | problem | fix |\n|---|---|---|---|\n");
    for Check { id, severity, problem, fix } in CHECKS {
        let severity = severity.name();
        text.push_str(&format!("| `{id}` | {severity} | {problem} | {fix} |\n"));
    }
    text
}

#[test]
fn documentation_lists_all_checks() {
    let page = include_str!("../../../../docs/doctor.md");
    assert!(page.contains(&table()), "docs/doctor.md must contain this table:\n{}", table());
}

#[test]
fn ids_are_unique_names() {
    let ids: BTreeSet<&str> = CHECKS.iter().map(|check| check.id).collect();
    assert_eq!(ids.len(), CHECKS.len(), "an id is used twice");
    for id in ids {
        assert!(
            id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'),
            "{id}"
        );
    }
}

/// An end-to-end test shows each check.
#[test]
fn each_check_has_an_end_to_end_test() {
    let tests = [
        include_str!("../../../../integration/tests/advertisement.rs"),
        include_str!("../../../../integration/tests/conflict.rs"),
        include_str!("../../../../integration/tests/doctor.rs"),
        include_str!("../../../../integration/tests/doctor_runtime.rs"),
        include_str!("../../../../integration/tests/doctor_store.rs"),
        include_str!("../../../../integration/tests/containerd/doctor.rs"),
        include_str!("../../../../integration/tests/kubernetes/doctor.rs"),
    ];
    for Check { id, .. } in CHECKS {
        let quoted = format!("\"{id}\"");
        assert!(tests.iter().any(|text| text.contains(&quoted)), "no end-to-end test finds {id}");
    }
}
