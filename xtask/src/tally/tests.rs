use super::Tally;

#[test]
fn counts_what_libtest_reports() {
    let mut tally = Tally::default();
    for line in [
        "running 3 tests",
        "test lease::key::reads ... ok",
        "test lease::key::writes ... FAILED",
        "test kernel::contract ... ignored, needs netns",
        "test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
        "test result: ok. 41 passed; 0 failed; 0 ignored; 0 measured; 2 filtered out; finished in 0.01s",
    ] {
        tally.libtest_line("flannel-core", line);
    }
    tally.skip(2, "needs root");
    assert!(!tally.good());
    assert_eq!(
        tally.to_string(),
        "failed: flannel-core: lease::key::writes\nskipped 2: needs root\n42 passed, 1 failed, 2 skipped"
    );
}

#[test]
fn adds_up() {
    let mut all = Tally::default();
    all.outcome("format", true);
    let mut more = Tally::default();
    more.outcome("lints", false);
    more.skip(1, "no wireguard");
    all.skip(1, "no wireguard");
    all.add(more);
    assert_eq!(all.to_string(), "failed: lints\nskipped 2: no wireguard\n1 passed, 1 failed, 2 skipped");
}
