use super::*;
use proptest::prelude::*;

fn seen(text: i64) -> Seen {
    Seen { stamp: None, text: text.to_string() }
}

#[test]
fn changes_come_in_order_and_once() {
    let mut index = Index::new(100);
    index.put("a", seen(1), None);
    index.put_config(Some(seen(1)));
    index.put("b", seen(1), None);
    index.remove("a");
    index.put("a", seen(2), None);
    let put = |key: &str| Touched::Put(key.to_owned());
    let deleted = |key: &str| Touched::Deleted(key.to_owned());
    assert_eq!(index.revision, 105);
    assert_eq!(index.since(100), Some(vec![Touched::Config, put("b"), deleted("a"), put("a")]));
    assert_eq!(index.since(104), Some(vec![put("a")]));
    assert_eq!(index.since(105), Some(vec![]));
    assert_eq!(index.since(106), None, "from a store with a later clock");
    assert_eq!(index.since(99), None, "from before this index");
    index.put_config(None);
    assert_eq!(index.since(105), Some(vec![Touched::Config]));
    index.remove("none");
    assert_eq!(index.revision, 106);
}

#[test]
fn a_grant_lives_as_long_as_the_record() {
    let lease = |seconds| Some(seen(seconds));
    let mut index = Index::new(0);
    index.put("a", seen(1), lease(50));
    let first = index.records["a"].grant();
    index.put("a", seen(2), lease(60));
    assert_eq!(index.records["a"].grant(), first);
    index.put("b", seen(2), lease(55));
    assert_eq!(index.next_expiry(), Some(55_000));
    index.remove("a");
    index.put("a", seen(2), lease(60));
    assert_ne!(index.records["a"].grant(), first);
    index.put("a", seen(2), None);
    assert_eq!(index.records["a"].grant(), None);
}

#[test]
fn forgotten_deletions_outdate_a_watch() {
    let mut index = Index::new(0);
    for n in 0..=DELETIONS {
        index.put(&n.to_string(), seen(1), None);
        index.remove(&n.to_string());
    }
    assert_eq!(index.compacted, 2);
    assert_eq!(index.since(1), None);
    assert_eq!(index.since(2).unwrap().len(), DELETIONS);
}

proptest! {
    #[test]
    fn a_follower_ends_where_the_index_is(
        steps in proptest::collection::vec((0u8..4, 0u8..3, proptest::bool::ANY), 0..60),
    ) {
        let mut index = Index::new(7);
        let mut known: BTreeMap<String, i64> = BTreeMap::new();
        let mut after = index.revision;
        for (key, what, look) in steps {
            match what {
                0 => { index.put(&key.to_string(), seen(1), None); }
                1 => index.remove(&key.to_string()),
                _ => { index.put_config((key > 1).then(|| seen(1))); }
            }
            if look {
                for touched in index.since(after).unwrap() {
                    match touched {
                        Touched::Put(key) => { known.insert(key.clone(), index.records[&key].modified); }
                        Touched::Deleted(key) => { known.remove(&key); }
                        Touched::Config => {}
                    }
                }
                after = index.revision;
                let expected: BTreeMap<String, i64> =
                    index.records.iter().map(|(key, entry)| (key.clone(), entry.modified)).collect();
                prop_assert_eq!(&known, &expected);
            }
        }
        let text = serde_json::to_string(&index).unwrap();
        prop_assert_eq!(serde_json::from_str::<Index>(&text).unwrap(), index);
    }
}
