use super::super::catalog::{CHECKSUM_OFFLOAD, ROUTE_MISSING, RP_FILTER};
use super::*;

fn report() -> Report {
    let mut report = Report::default();
    report
        .find(
            &RP_FILTER,
            "flannel.1",
            "packets on flannel.1 with a return path through another interface are dropped",
        )
        .seen("rp_filter of all is 1, of flannel.1 0; 1 is strict")
        .fix("sysctl -w net/ipv4/conf/all/rp_filter=2 net/ipv4/conf/flannel.1/rp_filter=2");
    report
        .find(&ROUTE_MISSING, "10.42.2.0/24", "no route to 10.42.2.0/24")
        .seen("pending: route replace 10.42.2.0/24 via 10.42.2.0 dev flannel.1 onlink");
    report.skip(&CHECKSUM_OFFLOAD, "ethtool is not installed");
    report.skip(&CHECKSUM_OFFLOAD, "ethtool is not installed");
    report.sort();
    report
}

#[test]
fn for_people() {
    let text = report().paragraphs(57);
    insta::assert_snapshot!(text, @r"
    ERROR    route-missing  10.42.2.0/24
             no route to 10.42.2.0/24
             seen: pending: route replace 10.42.2.0/24 via 10.42.2.0 dev flannel.1
                   onlink
             fix:  systemctl restart flanneld

    WARNING  rp-filter  flannel.1
             packets on flannel.1 with a return path through another interface are
             dropped
             seen: rp_filter of all is 1, of flannel.1 0; 1 is strict
             fix:  sysctl -w net/ipv4/conf/all/rp_filter=2
                   net/ipv4/conf/flannel.1/rp_filter=2

    not checked: checksum-offload: ethtool is not installed
    1 error, 1 warning in 57 checks, 1 not possible on this host
    ");
    assert!(text.lines().all(|line| line.chars().count() <= 80));
    insta::assert_snapshot!(Report::default().paragraphs(1), @"no problems found in 1 check");
}

#[test]
fn for_programs() {
    insta::assert_snapshot!(serde_json::to_string_pretty(&report().findings[0]).unwrap(), @r#"
    {
      "id": "route-missing",
      "severity": "error",
      "subject": "10.42.2.0/24",
      "problem": "no route to 10.42.2.0/24",
      "evidence": [
        "pending: route replace 10.42.2.0/24 via 10.42.2.0 dev flannel.1 onlink"
      ],
      "fix": "systemctl restart flanneld"
    }
    "#);
}

/// A running daemon may have repaired the earlier problems, and may repair the new ones.
#[test]
fn only_persistent_problems_are_findings() {
    let mut later = report();
    later.findings.retain(|finding| finding.id != "route-missing");
    later.find(&ROUTE_MISSING, "10.42.3.0/24", "new");
    let ids: Vec<String> =
        report().confirmed_by(later).findings.iter().map(|finding| finding.subject.clone()).collect();
    assert_eq!(ids, ["flannel.1"]);
}

#[test]
fn only_requested_checks_are_shown() {
    let mut report = report();
    report.only(&["rp-filter".to_owned()]);
    assert_eq!((report.findings.len(), report.skipped.len()), (1, 0));
    assert!(!report.findings.is_empty());
}
