use super::*;
use proptest::prelude::*;

const POLICY: BackoffPolicy =
    BackoffPolicy { first: Duration::from_millis(100), cap: Duration::from_secs(5) };

fn delays(policy: BackoffPolicy, seed: u64) -> impl Iterator<Item = Duration> {
    let mut delays = policy.delays(seed);
    std::iter::from_fn(move || Some(delays.delay()))
}

#[test]
fn delays_double_up_to_the_cap() {
    let ceilings = [100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000];
    for (delay, ceiling) in delays(POLICY, 7).zip(ceilings) {
        let ceiling = Duration::from_millis(ceiling);
        assert!((ceiling / 2..=ceiling).contains(&delay), "{delay:?} of {ceiling:?}");
    }
}

#[test]
fn a_success_starts_the_series_again() {
    let mut delays = POLICY.delays(7);
    assert!((0..6).map(|_| delays.delay()).last() > Some(POLICY.first));
    delays.reset();
    assert!(delays.delay() <= POLICY.first);
}

#[test]
fn seeds_spread_nodes() {
    let delays: std::collections::BTreeSet<_> = (0..100).map(|seed| POLICY.delays(seed).delay()).collect();
    assert!(delays.len() > 90);
    assert!(self::delays(POLICY, 3).take(5).eq(self::delays(POLICY, 3).take(5)));
}

proptest! {
    #[test]
    fn never_above_the_cap(first in 0_u64..10_000, cap in 0_u64..10_000, seed: u64) {
        let policy = BackoffPolicy { first: Duration::from_millis(first), cap: Duration::from_millis(cap) };
        prop_assert!(delays(policy, seed).take(40).all(|delay| delay <= policy.cap));
    }
}
