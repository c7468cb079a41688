use super::*;
use crate::store::{ConfigRecord, Listing, Record};
use std::collections::BTreeMap;

const CONFIG: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#;
const MARGIN: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// A store as far as one claim sees it.
struct Model {
    config: Option<String>,
    config_revision: i64,
    revision: i64,
    records: BTreeMap<String, Record>,
    lifetime: Duration,
}

impl Model {
    fn new(config: &str) -> Self {
        Self {
            config: Some(config.to_owned()),
            config_revision: 1,
            revision: 1,
            records: BTreeMap::new(),
            lifetime: DAY,
        }
    }

    fn put(&mut self, key: &str, attrs: &LeaseAttrs, grant: Option<i64>) -> Revision {
        self.revision += 1;
        let revision = Revision::new(self.revision);
        let record = Record {
            key: key.to_owned(),
            value: attrs.to_json().into_bytes(),
            revision,
            grant: grant.map(Grant),
            fault: None,
            node: None,
        };
        self.records.insert(key.to_owned(), record);
        revision
    }

    fn set_config(&mut self, config: &str) {
        self.revision += 1;
        self.config = Some(config.to_owned());
        self.config_revision = self.revision;
    }

    fn listing(&self) -> Listing {
        Listing {
            revision: Revision::new(self.revision),
            config: self
                .config
                .clone()
                .map(|text| ConfigRecord { text, revision: Revision::new(self.config_revision) }),
            records: self.records.values().cloned().collect(),
            ..Listing::default()
        }
    }

    fn held(&self, key: &str) -> Held {
        let record = &self.records[key];
        Held {
            revision: record.revision,
            grant: record.grant,
            remaining: record.grant.map(|_| self.lifetime),
        }
    }

    /// Does one step as a store would, and reports it. Answers with what was done.
    fn perform(&mut self, claim: &mut Claim, now: Duration) -> Step {
        let step = claim.next(now);
        match step.clone() {
            Step::Wait(_) | Step::ReadAssignment => {}
            Step::List => claim.listed(&self.listing(), now),
            Step::Create { subnets, attrs, guard } => {
                let key = subnets.to_string();
                let unchanged = guard.config == Revision::new(self.config_revision)
                    && guard.records.is_none_or(|seen| {
                        self.records.values().all(|record| !seen.is_before(record.revision))
                    });
                if unchanged && !self.records.contains_key(&key) {
                    self.put(&key, &attrs, Some(7));
                    claim.created(attrs, Ok(self.held(&key)), now);
                } else {
                    claim.created(attrs, Err(Failure::Raced), now);
                }
            }
            Step::Update { subnets, attrs, held } => {
                let key = subnets.to_string();
                if self.records.get(&key).is_some_and(|record| record.revision == held.revision) {
                    self.put(&key, &attrs, held.grant.map(|grant| grant.0));
                    let outcome = Ok(Held { remaining: None, ..self.held(&key) });
                    claim.updated(attrs, outcome, now);
                } else {
                    claim.updated(attrs, Err(Failure::Raced), now);
                }
            }
            Step::Renew { subnets, .. } => {
                let key = subnets.to_string();
                let outcome =
                    if self.records.contains_key(&key) { Ok(self.held(&key)) } else { Err(Failure::Raced) };
                claim.renewed(outcome, now);
            }
            Step::Delete { subnets, revision } => {
                let key = subnets.to_string();
                let matches = self.records.get(&key).is_some_and(|record| record.revision == revision);
                if matches {
                    self.revision += 1;
                    self.records.remove(&key);
                }
                claim.deleted(if matches { Ok(()) } else { Err(Failure::Raced) }, now);
            }
        }
        step
    }

    /// Goes on until the claim waits for something, letting short waits pass; answers with the steps.
    fn settle(&mut self, claim: &mut Claim, now: &mut Duration) -> Vec<Step> {
        let mut steps = Vec::new();
        for _ in 0..200 {
            match self.perform(claim, *now) {
                Step::Wait(Some(until)) if until <= *now + Duration::from_secs(10) => *now = until,
                Step::Wait(_) => return steps,
                step => steps.push(step),
            }
        }
        panic!("the claim does not settle: {claim:?}");
    }

    fn tell(&self, claim: &mut Claim, key: &str, now: Duration) {
        let record = self
            .records
            .get(key)
            .map(|record| (LeaseAttrs::parse(&record.value).unwrap(), record.revision, record.grant));
        let view = OwnRecord {
            subnets: Subnets::parse_key(key).unwrap(),
            seen: Revision::new(self.revision),
            record,
            listings: 1,
            overlaps: Vec::new(),
        };
        claim.seen(&view, now);
    }
}

fn attrs(public_ip: &str) -> LeaseAttrs {
    LeaseAttrs {
        public_ip: Some(public_ip.parse().unwrap()),
        backend_type: "host-gw".to_owned(),
        ..LeaseAttrs::default()
    }
}

fn claim(public_ip: &str, wish: Option<&str>) -> Claim {
    let mut claim = Claim::new(MARGIN, wish.map(|key| Subnets::parse_key(key).unwrap()), None, 42);
    claim.want(attrs(public_ip));
    claim
}

fn own(claim: &Claim) -> String {
    claim.state.own().map_or("-".to_owned(), |own| own.subnets.to_string())
}

#[test]
fn waits_until_it_knows_how_the_node_is_reached() {
    let claim = Claim::new(MARGIN, None, None, 1);
    assert_eq!(claim.next(Duration::ZERO), Step::Wait(None));
}

#[test]
fn takes_a_free_subnet_and_renews_before_its_end() {
    let mut store = Model::new(CONFIG);
    let mut claim = claim("1.1.1.1", Some("10.5.9.0-24"));
    let mut now = Duration::ZERO;
    store.settle(&mut claim, &mut now);
    assert_eq!(own(&claim), "10.5.9.0-24");
    assert_eq!(claim.next(now), Step::Wait(Some(now + DAY - MARGIN)));
    now += DAY - MARGIN;
    assert!(matches!(store.perform(&mut claim, now), Step::Renew { .. }));
    assert_eq!(claim.next(now), Step::Wait(Some(now + DAY - MARGIN)));
}

#[test]
fn a_restart_keeps_the_subnet_and_writes_nothing_when_nothing_changed() {
    let mut store = Model::new(CONFIG);
    store.put("10.5.3.0-24", &attrs("1.1.1.1"), Some(7));
    let mut claim = claim("1.1.1.1", None);
    let steps = store.settle(&mut claim, &mut Duration::from_secs(1));
    assert!(matches!(steps[..], [Step::List, Step::Renew { .. }]), "{steps:?}");
    assert_eq!(own(&claim), "10.5.3.0-24");
}

#[test]
fn a_changed_record_is_updated_under_the_same_subnet_and_grant() {
    let mut store = Model::new(CONFIG);
    let old = LeaseAttrs { backend_type: "vxlan".to_owned(), ..attrs("1.1.1.1") };
    store.put("10.5.3.0-24", &old, Some(99));
    let mut claim = claim("1.1.1.1", None);
    let mut now = Duration::ZERO;
    store.settle(&mut claim, &mut now);
    assert_eq!(store.records["10.5.3.0-24"].value, attrs("1.1.1.1").to_json().into_bytes());
    assert_eq!(store.records["10.5.3.0-24"].grant, Some(Grant(99)));
    // The address of the node changes while it runs.
    claim.want(attrs("1.1.1.77"));
    let steps = store.settle(&mut claim, &mut now);
    assert!(matches!(steps[..], [Step::Update { .. }]), "{steps:?}");
    assert_eq!(own(&claim), "10.5.3.0-24");
}

#[test]
fn a_reservation_stays_one_and_is_never_renewed() {
    let mut store = Model::new(CONFIG);
    let reserved = LeaseAttrs { backend_type: String::new(), ..attrs("1.1.1.1") };
    store.put("10.5.3.0-24", &reserved, None);
    let mut claim = claim("1.1.1.1", Some("10.5.8.0-24"));
    let mut now = Duration::ZERO;
    let steps = store.settle(&mut claim, &mut now);
    assert!(matches!(steps[..], [Step::List, Step::Update { .. }]), "{steps:?}");
    assert_eq!(store.records["10.5.3.0-24"].grant, None);
    assert_eq!(claim.next(now), Step::Wait(None));
}

#[test]
fn a_lost_race_is_tried_again_until_it_is_won() {
    let mut store = Model::new(r#"{"Network":"10.5.0.0/22"}"#);
    let mut claim = claim("1.1.1.1", Some("10.5.1.0-24"));
    let mut now = Duration::ZERO;
    assert_eq!(store.perform(&mut claim, now), Step::List);
    store.put("10.5.1.0-24", &attrs("2.2.2.2"), Some(1));
    store.settle(&mut claim, &mut now);
    assert!(["10.5.2.0-24", "10.5.3.0-24"].contains(&own(&claim).as_str()), "{}", own(&claim));
}

#[test]
fn a_changed_config_makes_a_choice_void() {
    let mut store = Model::new(CONFIG);
    let mut claim = claim("1.1.1.1", None);
    let mut now = Duration::ZERO;
    assert_eq!(store.perform(&mut claim, now), Step::List);
    store.set_config(r#"{"Network":"10.9.0.0/16","SubnetLen":26}"#);
    store.settle(&mut claim, &mut now);
    let own = own(&claim);
    assert!(own.starts_with("10.9.") && own.ends_with("-26"), "{own}");
}

#[test]
fn an_expired_lease_that_is_free_is_taken_again() {
    let mut store = Model::new(CONFIG);
    let mut claim = claim("1.1.1.1", None);
    let mut now = Duration::ZERO;
    store.settle(&mut claim, &mut now);
    let before = own(&claim);
    store.records.clear();
    store.revision += 1;
    store.tell(&mut claim, &before, now);
    store.settle(&mut claim, &mut now);
    assert_eq!(own(&claim), before);
    assert!(store.records.contains_key(&before));
}

#[test]
fn an_expired_lease_that_was_taken_is_replaced_by_another() {
    let mut store = Model::new(CONFIG);
    let mut claim = claim("1.1.1.1", None);
    let mut now = Duration::ZERO;
    store.settle(&mut claim, &mut now);
    let before = own(&claim);
    store.put(&before, &attrs("2.2.2.2"), Some(3));
    store.tell(&mut claim, &before, now);
    store.perform(&mut claim, now);
    assert_eq!(claim.state.problem(), Some(&Problem::Taken(Subnets::parse_key(&before).unwrap())));
    assert_eq!(claim.state.lost(), Some(Subnets::parse_key(&before).unwrap()));
    store.settle(&mut claim, &mut now);
    assert_ne!(own(&claim), before);
    assert_eq!((claim.state.problem(), claim.state.lost()), (None, None));
    let theirs = LeaseAttrs::parse(&store.records[&before].value).unwrap();
    assert_eq!(theirs, attrs("2.2.2.2"));
}

#[test]
fn a_subnet_is_lost_also_while_there_is_no_other() {
    const ONE: &str = r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.9.0","SubnetMax":"10.5.9.0","Backend":{"Type":"vxlan"}}"#;
    let key = "10.5.9.0-24";
    let lost = Some(Subnets::parse_key(key).unwrap());
    for restarted in [false, true] {
        let mut store = Model::new(ONE);
        let mut claim = claim("1.1.1.1", restarted.then_some(key));
        let mut now = Duration::ZERO;
        if !restarted {
            store.settle(&mut claim, &mut now);
            assert_eq!((own(&claim).as_str(), claim.state.lost()), (key, None));
        }
        store.put(key, &attrs("2.2.2.2"), Some(3));
        store.tell(&mut claim, key, now);
        store.perform(&mut claim, now);
        assert!(matches!(claim.state.problem(), Some(Problem::Full(_))), "{:?}", claim.state.problem());
        assert_eq!((claim.state.own(), claim.state.lost()), (None, lost));
        store.records.clear();
        now += Duration::from_secs(10);
        store.settle(&mut claim, &mut now);
        assert_eq!((own(&claim).as_str(), claim.state.lost()), (key, None));
    }
}

#[test]
fn a_duplicate_address_is_named_and_not_fought() {
    let mut store = Model::new(CONFIG);
    let mut claim = claim("1.1.1.1", None);
    let mut now = Duration::ZERO;
    store.settle(&mut claim, &mut now);
    let key = own(&claim);
    let theirs = LeaseAttrs { backend_type: "vxlan".to_owned(), ..attrs("1.1.1.1") };
    store.put(&key, &theirs, Some(3));
    store.tell(&mut claim, &key, now);
    assert_eq!(claim.next(now), Step::Wait(None));
    assert_eq!(own(&claim), key);
    let said = claim.state.problem().unwrap().to_string();
    assert!(said.contains("another node uses our public address 1.1.1.1"), "{said}");
    // The other node is fixed and restores the record.
    store.put(&key, &attrs("1.1.1.1"), Some(3));
    store.tell(&mut claim, &key, now);
    assert_eq!(claim.state.problem(), None);
    store.settle(&mut claim, &mut now);
    assert_eq!(own(&claim), key);
}

#[test]
fn a_duplicate_address_is_also_seen_in_a_listing() {
    let (mut store, mut claim, mut now) = held();
    let twin = |data: &str| LeaseAttrs { backend_type: data.to_owned(), ..attrs("1.1.1.1") };
    // Our own change comes second, and its race is lost before a watch tells.
    store.put("10.5.9.0-24", &twin("vxlan"), Some(7));
    claim.want(twin("ipip"));
    let steps = store.settle(&mut claim, &mut now);
    assert!(matches!(steps[..], [Step::Update { .. }, Step::List]), "{steps:?}");
    assert!(
        matches!(claim.state.problem(), Some(Problem::DuplicateAddress { .. })),
        "{:?}",
        claim.state.problem()
    );
    assert_eq!((own(&claim).as_str(), value(&store, "10.5.9.0-24")), ("10.5.9.0-24", twin("vxlan")));
}

#[test]
fn a_renewal_in_the_way_of_go_is_followed() {
    let mut store = Model::new(CONFIG);
    let mut claim = claim("1.1.1.1", None);
    let mut now = Duration::ZERO;
    store.settle(&mut claim, &mut now);
    let key = own(&claim);
    store.put(&key, &attrs("1.1.1.1"), Some(1234));
    store.tell(&mut claim, &key, now);
    let steps = store.settle(&mut claim, &mut now);
    assert!(
        matches!(steps[..], [Step::Renew { held: Held { grant: Some(Grant(1234)), .. }, .. }]),
        "{steps:?}"
    );
}

#[test]
fn a_lease_of_another_range_is_replaced_and_a_reservation_is_not() {
    for (grant, deleted) in [(Some(5), true), (None, false)] {
        let mut store = Model::new(CONFIG);
        store.put("10.9.3.0-24", &attrs("1.1.1.1"), grant);
        let mut claim = claim("1.1.1.1", Some("10.9.3.0-24"));
        store.settle(&mut claim, &mut Duration::from_secs(1));
        assert!(own(&claim).starts_with("10.5."), "{}", own(&claim));
        assert_eq!(!store.records.contains_key("10.9.3.0-24"), deleted);
    }
}

#[test]
fn says_what_it_waits_for_and_goes_on_when_it_is_there() {
    let mut store = Model::new(r#"{"Network":"10.5.0.0/24","SubnetLen":26,"SubnetMax":"10.5.0.64"}"#);
    store.put("10.5.0.64-26", &attrs("2.2.2.2"), Some(1));
    let mut claim = claim("1.1.1.1", None);
    let now = Duration::ZERO;
    store.perform(&mut claim, now);
    assert!(matches!(claim.state.problem(), Some(Problem::Full(_))), "{:?}", claim.state.problem());
    let config = store.config.take();
    claim.state.wake(now);
    store.perform(&mut claim, now);
    assert_eq!(claim.state.problem(), Some(&Problem::NoConfig));
    store.config = Some("{".to_owned());
    claim.state.wake(now);
    store.perform(&mut claim, now);
    assert!(matches!(claim.state.problem(), Some(Problem::BadConfig(_))), "{:?}", claim.state.problem());
    store.config = config;
    store.records.clear();
    claim.state.wake(now);
    store.settle(&mut claim, &mut Duration::from_secs(1));
    assert_eq!(own(&claim), "10.5.0.64-26");
    assert_eq!(claim.state.problem(), None);
}

#[test]
fn a_remembered_lease_serves_while_the_store_is_away_and_only_then() {
    let mut store = Model::new(CONFIG);
    let subnets = Subnets::parse_key("10.5.4.0-24").unwrap();
    let mut claim = Claim::new(MARGIN, None, Some((subnets, attrs("1.1.1.1"))), 42);
    claim.want(attrs("1.1.1.1"));
    assert_eq!(own(&claim), "-");
    claim.state.failed("connection refused".to_owned(), Duration::ZERO);
    assert_eq!(own(&claim), "10.5.4.0-24");
    // The store is back, without our record: it is taken again.
    let mut now = Duration::ZERO;
    store.settle(&mut claim, &mut now);
    assert_eq!(own(&claim), "10.5.4.0-24");
    assert!(claim.state.own().unwrap().confirmed);
}

#[test]
fn a_remembered_lease_is_found_again_although_the_address_of_the_node_changed() {
    let mut store = Model::new(CONFIG);
    store.put("10.5.4.0-24", &attrs("1.1.1.1"), Some(7));
    let subnets = Subnets::parse_key("10.5.4.0-24").unwrap();
    let mut claim = Claim::new(MARGIN, None, Some((subnets, attrs("1.1.1.1"))), 42);
    claim.want(attrs("1.1.1.2"));
    store.settle(&mut claim, &mut Duration::from_secs(1));
    assert_eq!(own(&claim), "10.5.4.0-24");
    assert_eq!(store.records["10.5.4.0-24"].value, attrs("1.1.1.2").to_json().into_bytes());
}

#[test]
fn an_answer_that_got_lost_is_found_in_the_store() {
    let mut store = Model::new(CONFIG);
    let mut claim = claim("1.1.1.1", None);
    let mut now = Duration::ZERO;
    store.perform(&mut claim, now);
    let Step::Create { subnets, attrs, .. } = claim.next(now) else { panic!("{claim:?}") };
    store.put(&subnets.to_string(), &attrs, Some(7));
    claim.created(attrs.clone(), Err(Failure::Unanswered("timed out".to_owned())), now);
    store.settle(&mut claim, &mut now);
    assert_eq!(own(&claim), subnets.to_string());
    assert_eq!(store.records.len(), 1);
}

#[test]
fn an_older_lease_that_overlaps_makes_us_move() {
    let mut store = Model::new(CONFIG);
    let mut claim = claim("1.1.1.1", None);
    let mut now = Duration::ZERO;
    store.settle(&mut claim, &mut now);
    let key = own(&claim);
    let subnets = Subnets::parse_key(&key).unwrap();
    let larger =
        Subnets { v4: Some(ipnet::Ipv4Net::new_assert(subnets.v4.unwrap().network(), 20).trunc()), v6: None };
    store.put(&larger.to_string(), &attrs("2.2.2.2"), Some(2));
    // What came later yields to us; what came before our creation does not.
    for (revision, step) in [(store.revision, "Wait"), (1, "Delete")] {
        let record = store.records.get(&key).map(|record| (attrs("1.1.1.1"), record.revision, record.grant));
        let view = OwnRecord {
            subnets,
            seen: Revision::new(store.revision),
            record,
            listings: 1,
            overlaps: vec![(larger, Revision::new(revision))],
        };
        claim.seen(&view, now);
        let next = format!("{:?}", claim.next(now));
        assert!(next.starts_with(step), "{next}");
    }
    store.settle(&mut claim, &mut now);
    assert!(!claim.state.own().unwrap().subnets.overlap(&larger), "{}", own(&claim));
    assert!(!store.records.contains_key(&key));
}

#[test]
fn a_lease_that_a_wiped_store_has_lost_is_taken_again() {
    let mut store = Model::new(CONFIG);
    store.revision = 1000;
    let mut claim = claim("1.1.1.1", None);
    let mut now = Duration::ZERO;
    store.settle(&mut claim, &mut now);
    let key = own(&claim);
    store.tell(&mut claim, &key, now);
    // Another store under the same address: it counts from the start.
    let mut store = Model::new(CONFIG);
    let view = OwnRecord {
        subnets: Subnets::parse_key(&key).unwrap(),
        seen: Revision::new(1),
        record: None,
        listings: 2,
        overlaps: Vec::new(),
    };
    // The view of the listing itself may have been replaced by a later one.
    claim.seen(&OwnRecord { seen: Revision::new(7), ..view }, now);
    store.settle(&mut claim, &mut now);
    assert_eq!(own(&claim), key);
    assert!(store.records.contains_key(&key));
}

#[test]
fn a_running_node_is_not_moved_by_a_config() {
    let mut store = Model::new(CONFIG);
    let mut claim = claim("1.1.1.1", None);
    let mut now = Duration::ZERO;
    store.settle(&mut claim, &mut now);
    let key = own(&claim);
    store.set_config(r#"{"Network":"10.9.0.0/16"}"#);
    claim.renewed(Err(Failure::Raced), now);
    store.settle(&mut claim, &mut now);
    assert_eq!(own(&claim), key);
    assert!(store.records.contains_key(&key));
}

#[test]
fn an_update_without_an_answer_is_not_taken_for_another_node() {
    let mut store = Model::new(CONFIG);
    let mut claim = claim("1.1.1.1", None);
    let mut now = Duration::ZERO;
    store.settle(&mut claim, &mut now);
    let key = own(&claim);
    claim.want(attrs("1.1.1.2"));
    let Step::Update { attrs: written, .. } = claim.next(now) else { panic!("{claim:?}") };
    store.put(&key, &written, Some(7));
    claim.updated(written, Err(Failure::Unanswered("timed out".to_owned())), now);
    claim.want(attrs("1.1.1.3"));
    store.settle(&mut claim, &mut now);
    assert_eq!(own(&claim), key);
    assert_eq!(store.records[&key].value, attrs("1.1.1.3").to_json().into_bytes());
    assert_eq!(claim.state.problem(), None);
}

#[test]
fn a_duplicate_address_ends_with_an_address_of_our_own() {
    let mut store = Model::new(CONFIG);
    let mut claim = claim("1.1.1.1", None);
    let mut now = Duration::ZERO;
    store.settle(&mut claim, &mut now);
    let key = own(&claim);
    store.put(&key, &LeaseAttrs { backend_type: "vxlan".to_owned(), ..attrs("1.1.1.1") }, Some(3));
    store.tell(&mut claim, &key, now);
    claim.want(attrs("1.1.1.2"));
    store.settle(&mut claim, &mut now);
    assert_ne!(own(&claim), key);
    assert_eq!(claim.state.problem(), None);
    assert_eq!(store.records.len(), 2);
}

#[test]
fn simultaneous_starters_get_subnets_of_their_own() {
    for config in [
        r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.1.0","SubnetMax":"10.5.60.0"}"#,
        r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.1.0","SubnetMax":"10.5.60.0",
            "EnableIPv6":true,"IPv6Network":"fc00::/48","IPv6SubnetMax":"fc00:0:0:3c::"}"#,
    ] {
        let mut store = Model::new(config);
        let mut claims: Vec<Claim> = (1..=48_u8)
            .map(|node| {
                let mut claim = Claim::new(MARGIN, None, None, u64::from(node));
                claim.want(attrs(&format!("1.1.1.{node}")));
                claim
            })
            .collect();
        // Every step of every node falls between the steps of the others.
        let mut now = Duration::ZERO;
        while claims.iter().any(|claim| claim.state.own().is_none()) {
            for claim in &mut claims {
                store.perform(claim, now);
            }
            now += Duration::from_millis(7);
            assert!(now < Duration::from_secs(120), "no end of the race");
        }
        let owned: Vec<Subnets> = claims.iter().map(|claim| claim.state.own().unwrap().subnets).collect();
        for (at, one) in owned.iter().enumerate() {
            assert!(!owned[at + 1..].iter().any(|other| one.overlap(other)), "{owned:?}");
        }
        assert_eq!(store.records.len(), 48);
    }
}

/// A store, and a claim that holds 10.5.9.0/24 in it.
fn held() -> (Model, Claim, Duration) {
    let mut store = Model::new(CONFIG);
    let mut claim = claim("1.1.1.1", Some("10.5.9.0-24"));
    let mut now = Duration::ZERO;
    store.settle(&mut claim, &mut now);
    assert_eq!(own(&claim), "10.5.9.0-24");
    (store, claim, now)
}

fn value(store: &Model, key: &str) -> LeaseAttrs {
    LeaseAttrs::parse(&store.records[key].value).unwrap()
}

#[test]
fn a_store_that_refuses_writes_is_not_stormed_and_does_not_cost_the_lease() {
    let (mut store, mut claim, mut now) = held();
    claim.want(attrs("1.1.1.2"));
    let (mut renewals, mut updates) = (0, 0);
    let end = now + DAY;
    while now < end {
        match claim.next(now) {
            Step::Wait(Some(until)) => now = until.max(now),
            Step::Update { attrs, .. } => {
                updates += 1;
                claim.updated(attrs, Err(Failure::Unanswered("no space".to_owned())), now);
            }
            Step::Renew { .. } => {
                renewals += 1;
                store.perform(&mut claim, now);
            }
            _ => drop(store.perform(&mut claim, now)),
        }
        assert!(claim.state.own().unwrap().expires.unwrap() > now);
    }
    assert_eq!(renewals, 1);
    let most = DAY.as_secs() / 3;
    assert!(updates < most, "{updates}");
}

#[test]
fn a_config_that_is_gone_or_broken_does_not_stop_a_running_node() {
    for config in [None, Some("{")] {
        let (mut store, mut claim, mut now) = held();
        store.config = config.map(str::to_owned);
        claim.want(attrs("1.1.1.2"));
        claim.updated(attrs("1.1.1.2"), Err(Failure::Unanswered("timed out".to_owned())), now);
        store.settle(&mut claim, &mut now);
        assert_eq!(value(&store, "10.5.9.0-24"), attrs("1.1.1.2"));
        assert!(matches!(claim.next(now), Step::Wait(Some(_))), "it is renewed in time");
        // Without our record there is nothing to hold on to; the subnet is kept until there is a config again.
        store.records.clear();
        store.tell(&mut claim, "10.5.9.0-24", now);
        for _ in 0..20 {
            if let Step::Wait(Some(until)) = store.perform(&mut claim, now) {
                now = until;
            }
        }
        assert_eq!(own(&claim), "10.5.9.0-24");
        assert!(matches!(claim.state.problem(), Some(Problem::NoConfig | Problem::BadConfig(_))));
    }
}

#[test]
fn a_subnet_that_another_lease_has_covered_is_lost() {
    let (mut store, mut claim, mut now) = held();
    store.records.clear();
    store.put("10.5.8.0-23", &attrs("2.2.2.2"), Some(3));
    store.tell(&mut claim, "10.5.9.0-24", now);
    for _ in 0..2 {
        if let Step::Wait(Some(until)) = store.perform(&mut claim, now) {
            now = until;
        }
    }
    assert_eq!(claim.state.problem(), Some(&Problem::Taken(Subnets::parse_key("10.5.9.0-24").unwrap())));
    assert_eq!(claim.state.own(), None);
    store.settle(&mut claim, &mut now);
    let other = Subnets::parse_key("10.5.8.0-23").unwrap();
    assert!(!claim.state.own().unwrap().subnets.overlap(&other), "{}", own(&claim));
}

#[test]
fn an_update_that_happens_after_all_is_known_as_ours() {
    let (mut store, mut claim, mut now) = held();
    claim.want(attrs("1.1.1.2"));
    claim.updated(attrs("1.1.1.2"), Err(Failure::Unanswered("timed out".to_owned())), now);
    now += Duration::from_secs(1);
    // The listing does not show it yet.
    assert_eq!(store.perform(&mut claim, now), Step::List);
    claim.want(attrs("1.1.1.3"));
    store.put("10.5.9.0-24", &attrs("1.1.1.2"), Some(7));
    store.tell(&mut claim, "10.5.9.0-24", now);
    let steps = store.settle(&mut claim, &mut now);
    assert!(matches!(steps[..], [Step::Update { .. }]), "{steps:?}");
    assert_eq!((own(&claim).as_str(), claim.state.problem()), ("10.5.9.0-24", None));
    assert_eq!(value(&store, "10.5.9.0-24"), attrs("1.1.1.3"));
}

#[test]
fn a_creation_without_an_answer_is_tried_again_on_the_same_key() {
    let mut store = Model::new(CONFIG);
    let mut claim = claim("1.1.1.1", None);
    let mut now = Duration::ZERO;
    store.perform(&mut claim, now);
    let Step::Create { subnets, attrs, .. } = claim.next(now) else { panic!("{claim:?}") };
    claim.created(attrs.clone(), Err(Failure::Unanswered("timed out".to_owned())), now);
    now += Duration::from_secs(1);
    assert_eq!(store.perform(&mut claim, now), Step::List);
    // It arrives only now.
    store.put(&subnets.to_string(), &attrs, Some(9));
    store.settle(&mut claim, &mut now);
    assert_eq!(own(&claim), subnets.to_string());
    assert_eq!(store.records.len(), 1);
}

#[test]
fn a_late_listing_is_not_taken_for_another_node() {
    let (mut store, mut claim, mut now) = held();
    let before = store.listing();
    store.tell(&mut claim, "10.5.9.0-24", now);
    claim.want(LeaseAttrs { backend_type: "vxlan".to_owned(), ..attrs("1.1.1.1") });
    store.settle(&mut claim, &mut now);
    let record = &before.records[0];
    let view = OwnRecord {
        subnets: Subnets::parse_key("10.5.9.0-24").unwrap(),
        seen: before.revision,
        record: Some((attrs("1.1.1.1"), record.revision, record.grant)),
        listings: 2,
        overlaps: Vec::new(),
    };
    claim.seen(&view, now);
    assert_eq!(claim.state.problem(), None);
    let steps = store.settle(&mut claim, &mut now);
    assert_eq!(steps, [Step::List]);
    assert_eq!(claim.state.problem(), None);
    // The same once more says nothing at all.
    claim.seen(&view, now);
    assert!(matches!(claim.next(now), Step::Wait(_)));
}

#[test]
fn a_store_restored_from_a_backup_gets_our_record_again() {
    let mut store = Model::new(CONFIG);
    store.put("10.5.9.0-24", &LeaseAttrs { backend_type: "vxlan".to_owned(), ..attrs("1.1.1.1") }, Some(7));
    let backup = store.listing();
    let mut claim = claim("1.1.1.1", None);
    let mut now = Duration::ZERO;
    store.revision = 1000;
    store.settle(&mut claim, &mut now);
    assert_eq!(value(&store, "10.5.9.0-24"), attrs("1.1.1.1"));
    store.revision = backup.revision.number();
    store.records = backup.records.into_iter().map(|record| (record.key.clone(), record)).collect();
    claim.renewed(Err(Failure::Raced), now);
    store.settle(&mut claim, &mut now);
    assert_eq!((own(&claim).as_str(), claim.state.problem()), ("10.5.9.0-24", None));
    assert_eq!(value(&store, "10.5.9.0-24"), attrs("1.1.1.1"));
}

#[test]
fn a_record_of_ours_that_cannot_be_read_is_written_anew_but_not_fought_for() {
    let (mut store, mut claim, mut now) = held();
    let mut waits = Vec::new();
    for _ in 0..6 {
        store.put("10.5.9.0-24", &attrs("1.1.1.1"), Some(7));
        store.records.get_mut("10.5.9.0-24").unwrap().value = b"{".to_vec();
        let view = OwnRecord {
            subnets: Subnets::parse_key("10.5.9.0-24").unwrap(),
            seen: Revision::new(store.revision),
            record: None,
            listings: 1,
            overlaps: Vec::new(),
        };
        claim.seen(&view, now);
        let damaged = now;
        let steps = store.settle(&mut claim, &mut now);
        assert!(matches!(steps[..], [Step::List, .., Step::Update { .. }]), "{steps:?}");
        assert_eq!(value(&store, "10.5.9.0-24"), attrs("1.1.1.1"));
        assert_eq!(own(&claim), "10.5.9.0-24");
        store.tell(&mut claim, "10.5.9.0-24", now);
        waits.push(now - damaged);
    }
    assert!(waits[5] > waits[1] * 4, "{waits:?}");
}

#[test]
fn an_older_overlap_is_also_seen_in_a_listing() {
    let (mut store, mut claim, mut now) = held();
    let overlap = Subnets::parse_key("10.5.8.0-23").unwrap();
    store.put("10.5.8.0-23", &attrs("2.2.2.2"), Some(3));
    store.records.get_mut("10.5.8.0-23").unwrap().revision = Revision::new(1);
    let view = OwnRecord {
        subnets: Subnets::parse_key("10.5.9.0-24").unwrap(),
        seen: Revision::new(store.revision),
        record: Some((attrs("1.1.1.1"), store.records["10.5.9.0-24"].revision, Some(Grant(7)))),
        listings: 1,
        overlaps: vec![(overlap, Revision::new(1))],
    };
    claim.seen(&view, now);
    assert!(matches!(claim.next(now), Step::Delete { .. }));
    claim.deleted(Err(Failure::Unanswered("timed out".to_owned())), now);
    store.settle(&mut claim, &mut now);
    assert!(!claim.state.own().unwrap().subnets.overlap(&overlap), "{}", own(&claim));
    assert!(!store.records.contains_key("10.5.9.0-24"));
}

#[test]
fn a_node_whose_record_is_deleted_moves_to_a_reservation_only() {
    for (grant, expected) in [(None, "10.5.20.0-24"), (Some(3), "10.5.9.0-24")] {
        let (mut store, mut claim, mut now) = held();
        store.put("10.5.20.0-24", &attrs("1.1.1.1"), grant);
        store.settle(&mut claim, &mut now);
        assert_eq!(own(&claim), "10.5.9.0-24");
        store.records.remove("10.5.9.0-24");
        store.revision += 1;
        store.tell(&mut claim, "10.5.9.0-24", now);
        store.settle(&mut claim, &mut now);
        assert_eq!(own(&claim), expected);
        assert_eq!(claim.state.problem(), None);
        assert!(store.records.contains_key("10.5.20.0-24"));
    }
}

#[test]
fn a_node_that_gets_a_second_family_keeps_the_subnet_of_the_first() {
    let mut store = Model::new(
        r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/48","Backend":{"Type":"vxlan"}}"#,
    );
    store.put("10.5.77.0-24", &attrs("1.1.1.1"), Some(7));
    let mut claim = claim("1.1.1.1", None);
    store.settle(&mut claim, &mut Duration::from_secs(1));
    assert!(own(&claim).starts_with("10.5.77.0-24&fc00:"), "{}", own(&claim));
    assert_eq!(store.records.len(), 1);
}

#[test]
fn a_remembered_lease_serves_on_when_the_store_comes_back_without_a_config() {
    let mut store = Model::new(CONFIG);
    let subnets = Subnets::parse_key("10.5.4.0-24").unwrap();
    let mut claim = Claim::new(MARGIN, None, Some((subnets, attrs("1.1.1.1"))), 42);
    claim.want(attrs("1.1.1.1"));
    claim.state.failed("connection refused".to_owned(), Duration::ZERO);
    store.config = None;
    store.perform(&mut claim, Duration::from_secs(10));
    assert_eq!(claim.state.problem(), Some(&Problem::NoConfig));
    assert_eq!(own(&claim), "10.5.4.0-24");
    // Of its new owner it is lost, config or not.
    store.put("10.5.4.0-24", &attrs("2.2.2.2"), Some(7));
    store.perform(&mut claim, Duration::from_secs(20));
    assert_eq!(own(&claim), "-");
}

#[test]
fn a_short_lease_is_renewed_in_time_although_attempts_fail() {
    let mut store = Model::new(CONFIG);
    store.lifetime = Duration::from_secs(20);
    let mut claim = claim("1.1.1.1", None);
    let mut now = Duration::ZERO;
    assert_eq!(store.perform(&mut claim, now), Step::List);
    assert!(matches!(store.perform(&mut claim, now), Step::Create { .. }));
    let mut attempts = 0;
    loop {
        match claim.next(now) {
            Step::Wait(Some(until)) => now = until,
            Step::Renew { .. } if now > Duration::from_secs(1) => {
                attempts += 1;
                claim.renewed(Err(Failure::Unanswered("timed out".to_owned())), now);
            }
            _ => drop(store.perform(&mut claim, now)),
        }
        if claim.state.own().unwrap().expires.unwrap() <= now {
            break;
        }
    }
    assert!(attempts > 5, "{attempts}");
    // After its end it is no longer urgent.
    let mut later = 0;
    let end = now + Duration::from_secs(600);
    while now < end {
        match claim.next(now) {
            Step::Wait(Some(until)) => now = until,
            _ => {
                later += 1;
                claim.renewed(Err(Failure::Unanswered("timed out".to_owned())), now);
            }
        }
    }
    assert!(later < 40, "{later}");
}

#[test]
fn a_view_is_news_when_it_says_something() {
    let base = OwnRecord {
        subnets: Subnets::parse_key("10.5.9.0-24").unwrap(),
        seen: Revision::new(5),
        record: Some((attrs("1.1.1.1"), Revision::new(4), Some(Grant(7)))),
        listings: 1,
        overlaps: Vec::new(),
    };
    let change = |change: fn(&mut OwnRecord)| {
        let mut view = base.clone();
        change(&mut view);
        view
    };
    let revision: fn(&mut OwnRecord) = |view| view.seen = Revision::new(9);
    assert!(!change(revision).is_news(Some(&base)));
    assert!(change(revision).is_news(None));
    let news: [fn(&mut OwnRecord); 5] = [
        |view| view.listings = 2,
        |view| view.record = None,
        |view| view.record.as_mut().unwrap().1 = Revision::new(5),
        |view| view.record.as_mut().unwrap().2 = None,
        |view| view.overlaps.push((view.subnets, Revision::new(3))),
    ];
    for news in news {
        assert!(change(news).is_news(Some(&base)), "{:?}", change(news));
    }
    // Ours may have come and gone between the two.
    let missing = change(|view| view.record = None);
    let later = OwnRecord { seen: Revision::new(6), ..missing.clone() };
    assert!(later.is_news(Some(&missing)));
}
