use super::News;
use std::time::Duration;

#[test]
fn reads_a_line() {
    let news =
        News::of("[2026-01-31T01:02:03.250001] Deleted 10.42.1.0/24 via 10.42.1.0 dev flannel.1 ").unwrap();
    assert_eq!(news.at, Duration::from_micros(3_723_250_001));
    assert_eq!(news.text, "Deleted 10.42.1.0/24 via 10.42.1.0 dev flannel.1");
    assert!(News::of("10.42.1.0/24 dev cni0").is_none());
}
