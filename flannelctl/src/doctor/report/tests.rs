use super::super::catalog::{CHECKSUM_OFFLOAD, ROUTE_MISSING, RP_FILTER};
use super::*;

fn report() -> Report {
    let mut report = Report::default();
    let seen = vec!["rp_filter of all is 1, of flannel.1 0; 1 is strict".to_owned()];
    report.find(
        &RP_FILTER,
        "flannel.1",
        "packets on flannel.1 whose answer would leave by another interface are dropped",
        seen,
        "sysctl -w net/ipv4/conf/all/rp_filter=2 net/ipv4/conf/flannel.1/rp_filter=2",
    );
    report.find(
        &ROUTE_MISSING,
        "10.42.2.0/24",
        "there is no route to 10.42.2.0/24",
        vec!["flanneld would run: route replace 10.42.2.0/24 via 10.42.2.0 dev flannel.1 onlink".to_owned()],
        "systemctl start flanneld",
    );
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
             there is no route to 10.42.2.0/24
             seen: flanneld would run: route replace 10.42.2.0/24 via 10.42.2.0 dev
                   flannel.1 onlink
             mend: systemctl start flanneld

    WARNING  rp-filter  flannel.1
             packets on flannel.1 whose answer would leave by another interface are
             dropped
             seen: rp_filter of all is 1, of flannel.1 0; 1 is strict
             mend: sysctl -w net/ipv4/conf/all/rp_filter=2
                   net/ipv4/conf/flannel.1/rp_filter=2

    not checked: checksum-offload: ethtool is not installed
    1 error, 1 warning in 57 checks, 1 not possible here
    ");
    assert!(text.lines().all(|line| line.chars().count() <= 80));
    insta::assert_snapshot!(Report::default().paragraphs(1), @"nothing wrong: 1 check");
}

#[test]
fn for_programs() {
    insta::assert_snapshot!(serde_json::to_string_pretty(&report().findings[0]).unwrap(), @r#"
    {
      "id": "route-missing",
      "severity": "error",
      "subject": "10.42.2.0/24",
      "problem": "there is no route to 10.42.2.0/24",
      "evidence": [
        "flanneld would run: route replace 10.42.2.0/24 via 10.42.2.0 dev flannel.1 onlink"
      ],
      "mend": "systemctl start flanneld"
    }
    "#);
}

/// What a running daemon has mended meanwhile is no finding, and what has come meanwhile may be mended next.
#[test]
fn only_what_lasts_counts() {
    let mut later = report();
    later.findings.retain(|finding| finding.id != "route-missing");
    later.find(&ROUTE_MISSING, "10.42.3.0/24", "new", Vec::new(), "");
    let ids: Vec<String> =
        report().confirmed_by(later).findings.iter().map(|finding| finding.subject.clone()).collect();
    assert_eq!(ids, ["flannel.1"]);
}

#[test]
fn only_what_is_asked_for() {
    let mut report = report();
    report.only(&["rp-filter".to_owned()]);
    assert_eq!((report.findings.len(), report.skipped.len()), (1, 0));
    assert!(report.has_findings());
}
