use super::*;

#[test]
fn starts_at_once_and_then_slows_down() {
    let start = Instant::now();
    let mut pace = Pace::new(start);
    assert_eq!(pace.next(), (start, Reason::Start));
    pace.finished(start, start, false);
    assert_eq!(pace.next(), (start + RESYNC, Reason::Resync));
    pace.request_settled(Reason::Hint, start);
    assert_eq!(pace.next(), (start + SETTLE, Reason::Hint));
    pace.request(Reason::Claim, start);
    assert_eq!(pace.next(), (start, Reason::Claim));
}

#[test]
fn repeats_failures_ever_more_slowly_until_one_round_is_clean() {
    let start = Instant::now();
    let mut pace = Pace::new(start);
    pace.finished(start, start, true);
    assert_eq!(pace.next(), (start + RETRY.0, Reason::Retry));
    for _ in 0..20 {
        pace.finished(start, start, true);
    }
    assert_eq!(pace.next(), (start + RETRY.1, Reason::Retry));
    pace.finished(start, start, false);
    pace.failed(start);
    assert_eq!(pace.next(), (start + RETRY.0, Reason::Retry));
}

#[test]
fn leaves_time_for_others_when_rounds_are_long() {
    let start = Instant::now();
    let mut pace = Pace::new(start);
    let end = start + Duration::from_millis(100);
    pace.finished(start, end, false);
    pace.request(Reason::Hint, end);
    assert_eq!(pace.next(), (end + Duration::from_millis(400), Reason::Hint));
}
