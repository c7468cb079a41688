use super::*;

fn landmark(key: &str, revision: i64, lease: i64) -> Landmark {
    Landmark { key: key.into(), revision, lease }
}

#[test]
fn the_latest_standing_record_is_chosen() {
    let mut landmarks = Landmarks::default();
    landmarks.replace([landmark("a", 3, 1), landmark("b", 7, 2), landmark("c", 9, 0)].into_iter());
    assert_eq!(landmarks.at(9), Some(landmark("b", 7, 2)), "a reservation is no landmark");
    landmarks.put(landmark("a", 10, 1));
    assert_eq!(landmarks.at(10), Some(landmark("a", 10, 1)));
    assert_eq!(landmarks.at(9), Some(landmark("b", 7, 2)));
    landmarks.delete(b"b");
    assert_eq!(landmarks.at(9), None);
    landmarks.put(landmark("a", 11, 0));
    assert_eq!(landmarks.at(99), None, "a record that became a reservation is none any more");
}

#[test]
fn few_are_kept() {
    let mut landmarks = Landmarks::default();
    landmarks.replace((1..100).map(|n| landmark(&n.to_string(), n, n)));
    assert_eq!(landmarks.0.len(), KEPT);
    assert_eq!(landmarks.at(99), Some(landmark("99", 99, 99)));
}
