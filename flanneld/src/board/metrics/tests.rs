use super::*;
use crate::testing::board::Fixture;
use regex::Regex;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The samples of a page by metric. Panics where it breaks a rule of the format.
fn parse(page: &str) -> BTreeMap<String, Vec<(String, f64)>> {
    let sample = Regex::new(r#"^([a-z_]+)((?:\{(?:[a-z_]+="[^"\\]*",?)+\})?) (\S+)$"#).unwrap();
    let mut metrics: BTreeMap<String, Vec<(String, f64)>> = BTreeMap::new();
    let (mut name, mut kind) = ("", "");
    let mut seen = BTreeSet::new();
    for line in page.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            name = help.split_once(' ').unwrap().0;
            assert!(metrics.insert(name.to_owned(), Vec::new()).is_none(), "{name} twice");
        } else if let Some(text) = line.strip_prefix("# TYPE ") {
            let (typed, text) = text.split_once(' ').unwrap();
            assert_eq!(typed, name);
            kind = text;
            assert_eq!(kind == COUNTER, name.ends_with("_total"), "{name} is a {kind}");
        } else {
            let parts = sample.captures(line).unwrap_or_else(|| panic!("not a sample: {line}"));
            let suffix = parts[1].strip_prefix(name).unwrap_or_else(|| panic!("{line} below {name}"));
            assert!(suffix.is_empty() || kind == HISTOGRAM, "{line}");
            assert!(seen.insert(format!("{}{}", &parts[1], &parts[2])), "{line} twice");
            let value = parts[3].parse().unwrap_or_else(|_| panic!("not a number: {line}"));
            metrics.get_mut(name).unwrap().push((format!("{suffix}{}", &parts[2]), value));
        }
    }
    metrics
}

fn value(metrics: &BTreeMap<String, Vec<(String, f64)>>, name: &str, labels: &str) -> f64 {
    let found = metrics[name].iter().find(|(text, _)| text == labels);
    found.unwrap_or_else(|| panic!("no {name}{labels}: {:?}", metrics[name])).1
}

#[tokio::test]
async fn a_page_contains_what_the_tasks_publish() {
    let fixture = Fixture::busy();
    let metrics = parse(&page(&fixture.board));
    for (name, labels, expected) in [
        ("flannel_ready", "", 1.0),
        ("flannel_peers", "", 5000.0),
        ("flannel_degraded_conditions", r#"{about="claim"}"#, 1.0),
        ("flannel_degraded_conditions", r#"{about="lease"}"#, 2.0),
        ("flannel_degraded_conditions", r#"{about="public_address"}"#, 1.0),
        ("flannel_degraded_conditions", r#"{about="host"}"#, 1.0),
        ("flannel_degraded_conditions", r#"{about="readiness_report"}"#, 1.0),
        ("flannel_degraded_conditions", r#"{about="kernel"}"#, 0.0),
        ("flannel_rounds_total", r#"{reason="hint"}"#, 1.0),
        ("flannel_rounds_total", r#"{reason="lease-change"}"#, 1.0),
        ("flannel_round_duration_seconds", r#"_bucket{le="0.005"}"#, 1.0),
        ("flannel_round_duration_seconds", r#"_bucket{le="5"}"#, 2.0),
        ("flannel_round_duration_seconds", r#"_bucket{le="+Inf"}"#, 3.0),
        ("flannel_round_duration_seconds", "_count", 3.0),
        ("flannel_ops_total", r#"{kind="route",action="set",result="success"}"#, 43.0),
        ("flannel_ops_total", r#"{kind="route",action="set",result="failure"}"#, 1.0),
        ("flannel_repairs_total", r#"{cause="hint"}"#, 2.0),
        ("flannel_subnets_capacity", r#"{family="ipv4"}"#, 255.0),
        ("flannel_subnets_allocated", r#"{family="ipv4"}"#, 3.0),
        ("flannel_firewall_mode", r#"{mode="nftables"}"#, 1.0),
        ("flannel_firewall_repairs_total", "", 2.0),
        ("flannel_lease_renew_margin_seconds", "", 3600.0),
        ("flannel_store_up", "", 0.0),
    ] {
        let found = value(&metrics, name, labels);
        assert!((found - expected).abs() < 1e-9, "{name}{labels} is {found}, not {expected}");
    }
    let remaining = value(&metrics, "flannel_lease_remaining_seconds", "");
    assert!((7000.0..=7200.0).contains(&remaining), "{remaining}");
    assert!(value(&metrics, "process_resident_memory_bytes", "") > 1e6);
    assert!(value(&metrics, "process_open_fds", "") > 2.0);
}

/// The same metrics from the first moment on, so that a rule never lacks what it compares.
#[tokio::test]
async fn a_daemon_that_starts_has_the_same_metrics() {
    let fixture = Fixture::new();
    let started = page(&fixture.board);
    let (started, busy) = (parse(&started), parse(&page(&Fixture::busy().board)));
    assert_eq!(started.keys().collect::<Vec<_>>(), busy.keys().collect::<Vec<_>>());
    assert!(started["flannel_lease_remaining_seconds"].is_empty(), "not known yet");
    assert!(value(&started, "flannel_ready", "") < 0.5);
    let samples = busy.values().map(Vec::len).sum::<usize>();
    assert!(samples < 360, "{samples} samples: labels must be bounded");
}

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The metrics that expressions of Prometheus name, without what is added to histograms.
fn named(text: &str, known: &BTreeSet<String>) -> BTreeSet<String> {
    let name = Regex::new(r"\b(?:flannel|process)_[a-z_]+").unwrap();
    name.find_iter(text)
        .map(|found| {
            let found = found.as_str();
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| found.strip_suffix(end));
            base.filter(|base| known.contains(*base)).unwrap_or(found).to_owned()
        })
        .collect()
}

#[tokio::test]
async fn documentation_alerts_and_dashboard_name_metrics_that_exist() {
    let page = page(&Fixture::busy().board);
    let known: BTreeSet<String> = parse(&page).into_keys().collect();
    let row = Regex::new(r"(?m)^\| `([a-z_]+)").unwrap();
    let documented: BTreeSet<String> =
        row.captures_iter(&document("metrics.md")).map(|row| row[1].to_owned()).collect();
    assert_eq!(documented, known, "docs/metrics.md has one row for each metric");

    let alerts = named(&document("alerts.yaml"), &known);
    assert!(alerts.len() > 8 && alerts.is_subset(&known), "{:?}", alerts.difference(&known));

    let dashboard: Value = serde_json::from_str(&document("grafana-dashboard.json")).unwrap();
    let mut expressions = Vec::new();
    collect(&dashboard, "expr", &mut expressions);
    let used = named(&expressions.join("\n"), &known);
    assert!(used.len() > 20 && used.is_subset(&known), "{:?}", used.difference(&known));
}

/// The texts of all members of this name.
fn collect(value: &Value, name: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (key, value) in members {
                match value {
                    Value::String(text) if key == name => found.push(text.clone()),
                    value => collect(value, name, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, name, found)),
        _ => {}
    }
}
