use super::*;
use crate::family::Family;
use crate::store::Grant;

const NOW: Duration = Duration::from_secs(100);

fn attrs(node: u8) -> LeaseAttrs {
    LeaseAttrs { public_ip: Some([192, 0, 2, node].into()), ..LeaseAttrs::default() }
}

fn subnets(third: u8) -> Subnets {
    Subnets::parse_key(&format!("10.5.{third}.0-24")).unwrap()
}

fn assignment(third: u8, attrs: Option<LeaseAttrs>, revision: i64) -> Assignment {
    Assignment {
        subnets: subnets(third),
        attrs,
        revision: Revision::new(revision),
        place: "the test".to_owned(),
        advice: "Fix it.",
    }
}

/// The store assigns nothing.
fn nothing() -> Assignment {
    Assignment { subnets: Subnets { v4: None, v6: None }, ..assignment(1, None, 1) }
}

fn unassigned() -> Problem {
    Problem::Unassigned { place: "the test".to_owned(), family: Family::V4, advice: "Fix it." }
}

fn wanted(node: u8) -> Wanted {
    let networks = DualStack { v4: Some("10.5.0.0/16".parse().unwrap()), v6: None };
    Wanted { attrs: attrs(node), networks }
}

fn view(third: u8, seen: i64, record: Option<(LeaseAttrs, i64)>) -> OwnRecord {
    let record = record.map(|(attrs, revision)| (attrs, Revision::new(revision), None::<Grant>));
    OwnRecord {
        subnets: subnets(third),
        seen: Revision::new(seen),
        record,
        listings: 1,
        overlaps: Vec::new(),
    }
}

fn held(revision: i64) -> Held {
    Held { revision: Revision::new(revision), grant: None, remaining: None }
}

/// A lease of 10.5.1.0/24 that is published at revision 2.
fn published() -> Assigned {
    let mut assigned = Assigned::new(None, 1);
    assigned.want(wanted(1));
    assigned.read(Ok(assignment(1, None, 1)), NOW);
    assigned.updated(attrs(1), Ok(held(2)), NOW);
    assert_eq!(assigned.next(NOW), Step::Wait(None));
    assigned
}

#[test]
fn waits_for_its_assignment_and_publishes_once() {
    let mut assigned = Assigned::new(None, 1);
    assert_eq!(assigned.next(NOW), Step::Wait(None), "nothing is known to publish");
    assigned.want(wanted(1));
    assert_eq!(assigned.next(NOW), Step::ReadAssignment);
    assigned.read(Ok(nothing()), NOW);
    assert_eq!((assigned.state.own(), assigned.state.lost()), (None, None));
    assert_eq!(assigned.state.problem(), Some(&unassigned()));
    let Step::Wait(Some(until)) = assigned.next(NOW) else { panic!("{assigned:?}") };
    assert!(until > NOW);
    assert_eq!(assigned.next(until), Step::ReadAssignment);
    assigned.state.wake(NOW);
    assert_eq!(assigned.next(NOW), Step::ReadAssignment);

    assigned.read(Ok(assignment(1, None, 1)), NOW);
    assert_eq!(assigned.state.problem(), None);
    let step = Step::Update { subnets: subnets(1), attrs: attrs(1), held: held(1) };
    assert_eq!(assigned.next(NOW), step);
    assigned.updated(attrs(1), Ok(held(2)), NOW);
    assert_eq!(assigned.next(NOW), Step::Wait(None));
    let own = assigned.state.own().unwrap();
    assert_eq!((own.subnets, own.revision, own.confirmed), (subnets(1), Revision::new(2), true));
}

#[test]
fn what_an_earlier_run_published_is_kept_or_replaced_without_a_conflict() {
    for (before, is_written) in [(attrs(1), false), (attrs(9), true)] {
        let mut assigned = Assigned::new(None, 1);
        assigned.want(wanted(1));
        assigned.read(Ok(assignment(1, Some(before), 7)), NOW);
        assert_eq!(assigned.state.problem(), None);
        assert_eq!(matches!(assigned.next(NOW), Step::Update { .. }), is_written);
    }
}

#[test]
fn a_remembered_lease_serves_while_the_store_is_unreachable() {
    let mut assigned = Assigned::new(Some((subnets(1), attrs(1))), 1);
    assigned.want(wanted(1));
    assert_eq!(assigned.state.own(), None);
    assigned.read(Err("no route".to_owned()), NOW);
    assert!(assigned.state.own().is_some_and(|own| own.subnets == subnets(1) && !own.confirmed));
    assert!(matches!(assigned.state.problem(), Some(Problem::StoreAway(_))));
    // The assignment was removed meanwhile.
    assigned.read(Ok(nothing()), NOW);
    assert_eq!((assigned.state.own(), assigned.state.lost()), (None, Some(subnets(1))));
}

#[test]
fn a_removed_or_changed_assignment_is_reported() {
    let mut assigned = published();
    assigned.seen(&view(1, 3, None), NOW);
    let Step::Wait(Some(until)) = assigned.next(NOW) else { panic!("{assigned:?}") };
    assert_eq!(assigned.next(until), Step::ReadAssignment);
    assigned.read(Ok(nothing()), until);
    assert_eq!((assigned.state.own(), assigned.state.lost()), (None, Some(subnets(1))));
    assert_eq!(assigned.state.problem(), Some(&unassigned()));

    assigned.read(Ok(assignment(2, None, 4)), until);
    assert_eq!((assigned.state.own().unwrap().subnets, assigned.state.lost()), (subnets(2), None));
    assert!(matches!(assigned.next(until), Step::Update { subnets: key, .. } if key == subnets(2)));
}

#[test]
fn an_edited_record_is_written_again() {
    let mut assigned = published();
    assigned.read(Ok(assignment(1, Some(attrs(9)), 3)), NOW);
    let problem = assigned.state.problem().unwrap().to_string();
    assert!(problem.contains("published 192.0.2.9 in the record 10.5.1.0-24"), "{problem}");
    let update = |revision| Step::Update { subnets: subnets(1), attrs: attrs(1), held: held(revision) };
    assert_eq!(assigned.next(NOW), update(3));
    // Something else of the node changes meanwhile.
    assigned.updated(attrs(1), Err(Failure::Raced), NOW);
    assigned.read(Ok(assignment(1, Some(attrs(9)), 4)), NOW);
    assert_eq!(assigned.next(NOW), update(4));
    assigned.updated(attrs(1), Ok(held(5)), NOW);
    assert_eq!((assigned.state.problem(), assigned.next(NOW)), (None, Step::Wait(None)));
    // Much later.
    assigned.read(Ok(assignment(1, Some(attrs(8)), 6)), NOW + CALM);
    assert_eq!(assigned.next(NOW + CALM), update(6));
}

/// A second daemon: it writes again what was written over.
fn contended() -> Assigned {
    let mut assigned = published();
    assigned.read(Ok(assignment(1, Some(attrs(9)), 3)), NOW);
    assigned.updated(attrs(1), Ok(held(4)), NOW);
    assigned
}

#[test]
fn a_conflicting_writer_is_named_and_not_overwritten() {
    let mut assigned = contended();
    assigned.seen(&view(1, 5, Some((attrs(9), 5))), NOW);
    assert_eq!(assigned.next(NOW), Step::ReadAssignment);
    assigned.read(Ok(assignment(1, Some(attrs(9)), 5)), NOW);
    assert!(
        assigned
            .state
            .problem()
            .unwrap()
            .to_string()
            .contains("conflicting daemon: it has published 192.0.2.9 in the record 10.5.1.0-24")
    );
    assert_eq!(assigned.next(NOW), Step::Wait(None));
    // Again and again: nothing is written.
    for revision in 6..20 {
        assigned.seen(&view(1, revision, Some((attrs(9), revision))), NOW);
        assigned.read(Ok(assignment(1, Some(attrs(9)), revision)), NOW);
        assert_eq!(assigned.next(NOW), Step::Wait(None), "at revision {revision}");
        assert!(assigned.state.problem().is_some(), "at revision {revision}");
    }
    // The other writer gives up.
    assigned.read(Ok(assignment(1, Some(attrs(1)), 20)), NOW);
    assert_eq!((assigned.state.problem(), assigned.next(NOW)), (None, Step::Wait(None)));
}

#[test]
fn new_attributes_are_published_even_after_a_conflict() {
    let mut assigned = contended();
    assigned.read(Ok(assignment(1, Some(attrs(9)), 5)), NOW);
    assigned.want(wanted(1));
    assert_eq!(assigned.next(NOW), Step::Wait(None), "these are not new");
    assigned.want(wanted(2));
    assert_eq!(assigned.next(NOW), Step::Update { subnets: subnets(1), attrs: attrs(2), held: held(5) });
}

#[test]
fn removed_attributes_are_published_again() {
    let mut assigned = published();
    assigned.read(Ok(assignment(1, None, 3)), NOW);
    assert_eq!(assigned.state.problem(), None);
    assert!(matches!(assigned.next(NOW), Step::Update { .. }));
}

#[test]
fn an_update_without_an_answer_is_no_conflict() {
    let mut assigned = published();
    assigned.want(wanted(2));
    assigned.updated(attrs(2), Err(Failure::Unanswered("timed out".to_owned())), NOW);
    assigned.want(wanted(3));
    // It was written after all.
    assigned.read(Ok(assignment(1, Some(attrs(2)), 3)), NOW);
    assert_eq!(assigned.state.problem(), None);
    assert_eq!(assigned.next(NOW), Step::Update { subnets: subnets(1), attrs: attrs(3), held: held(3) });
    assigned.updated(attrs(3), Err(Failure::Raced), NOW);
    let Step::Wait(Some(until)) = assigned.next(NOW) else { panic!("{assigned:?}") };
    assert_eq!(assigned.next(until), Step::ReadAssignment);
}

#[test]
fn updates_that_fail_again_and_again_are_spread_out() {
    let mut assigned = published();
    assigned.want(wanted(2));
    let (mut now, mut attempts) = (NOW, 0);
    while now < NOW + Duration::from_secs(60) {
        match assigned.next(now) {
            Step::Wait(until) => now = until.unwrap(),
            Step::Update { .. } => {
                attempts += 1;
                assigned.updated(attrs(2), Err(Failure::Unanswered("denied".to_owned())), now);
            }
            Step::ReadAssignment => assigned.read(Ok(assignment(1, Some(attrs(1)), 2)), now),
            step => panic!("{step:?}"),
        }
    }
    assert!((10..40).contains(&attempts), "{attempts} in a minute");
}

#[test]
fn its_own_write_and_late_views_are_no_news() {
    let mut assigned = published();
    assigned.seen(&view(1, 2, Some((attrs(1), 2))), NOW);
    assigned.seen(&view(1, 1, None), NOW);
    assigned.seen(&view(2, 9, None), NOW);
    assert_eq!(assigned.next(NOW), Step::Wait(None));
}

#[test]
fn a_store_restored_from_a_backup_is_no_conflict() {
    let mut assigned = published();
    assigned.read(Ok(assignment(1, Some(attrs(9)), 1)), NOW);
    assert_eq!(assigned.state.problem(), None);
    assert!(matches!(assigned.next(NOW), Step::Update { .. }));
}

#[test]
fn a_subnet_outside_of_the_network_is_not_published() {
    let mut assigned = Assigned::new(None, 1);
    assigned.want(wanted(1));
    let outside = Assignment { subnets: Subnets::parse_key("10.6.1.0-24").unwrap(), ..nothing() };
    assigned.read(Ok(outside.clone()), NOW);
    assert_eq!(
        assigned.state.problem().unwrap().to_string(),
        "the test assigns 10.6.1.0/24, which is outside of the IPv4 network 10.5.0.0/16 of the network config. Fix it."
    );
    let Step::Wait(Some(_)) = assigned.next(NOW) else { panic!("{assigned:?}") };
    // The network is corrected.
    let networks = DualStack { v4: Some("10.0.0.0/8".parse().unwrap()), v6: None };
    assigned.want(Wanted { networks, ..wanted(1) });
    assert_eq!(assigned.next(NOW), Step::ReadAssignment);
    assigned.read(Ok(outside), NOW);
    assert_eq!(assigned.state.problem(), None);
    assert!(matches!(assigned.next(NOW), Step::Update { .. }));
}

#[test]
fn only_enabled_families_are_used_and_all_of_them() {
    let dual =
        Assignment { subnets: Subnets::parse_key("10.5.1.0-24&fd00:0:0:1::-64").unwrap(), ..nothing() };
    let mut assigned = Assigned::new(None, 1);
    assigned.want(wanted(1));
    assigned.read(Ok(dual.clone()), NOW);
    assert_eq!(assigned.state.own().unwrap().subnets, subnets(1));

    let networks = DualStack { v6: Some("fd00::/48".parse().unwrap()), ..wanted(1).networks };
    assigned.want(Wanted { networks, ..wanted(1) });
    assigned.read(Ok(dual.clone()), NOW);
    assert_eq!(assigned.state.own().unwrap().subnets, dual.subnets);
    assigned.read(Ok(assignment(1, None, 5)), NOW);
    let missing = Problem::Unassigned { place: "the test".to_owned(), family: Family::V6, advice: "Fix it." };
    assert_eq!((assigned.state.own(), assigned.state.problem()), (None, Some(&missing)));
}

#[test]
fn a_listing_older_than_our_record_is_checked() {
    let mut assigned = published();
    assigned.seen(&view(1, 1, None), NOW);
    assert_eq!(assigned.next(NOW), Step::Wait(None), "late");
    assigned.seen(&OwnRecord { listings: 2, ..view(1, 1, None) }, NOW);
    assert_eq!(assigned.next(NOW), Step::ReadAssignment, "a store restored from a backup");
}
