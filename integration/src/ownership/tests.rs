use super::check;
use crate::etcd::{Event, PREFIX};

fn history(steps: &[(&str, &str)]) -> Vec<Event> {
    let event = |(revision, (key, owner)): (i64, &(&str, &str))| Event {
        revision,
        key: format!("{PREFIX}/subnets/{key}"),
        value: (!owner.is_empty()).then(|| format!(r#"{{"PublicIP":"{owner}","PublicIPv6":null}}"#)),
    };
    (1..).zip(steps).map(event).collect()
}

#[test]
fn good_histories_pass() {
    for steps in [
        &[("10.42.1.0-24", "1"), ("10.42.2.0-24", "2"), ("10.42.1.0-24", "1")][..],
        &[("10.42.1.0-24", "1"), ("10.42.1.0-24", ""), ("10.42.1.0-24", "2")],
        &[("10.42.1.0-24", "1"), ("10.42.1.0-24", ""), ("10.42.1.0-25", "1"), ("10.42.1.128-25", "2")],
    ] {
        check(&history(steps)).expect("a good history");
    }
}

#[test]
fn bad_histories_are_told() {
    for (steps, complaint) in [
        (&[("10.42.1.0-24", "1"), ("10.42.1.0-24", "2")][..], "without having been free"),
        (&[("10.42.1.0-24", "1"), ("10.42.0.0-20", "2")], "overlaps"),
        (&[("10.42.1.0-24&fd00::-64", "1"), ("10.42.2.0-24&fd00::-72", "2")], "overlaps"),
        (&[("10.42.1.0-24", "1"), ("10.42.2.0-24", "1")], "1 has 10.42.1.0-24"),
        // What is bad for one revision only is bad.
        (&[("10.42.1.0-24", "1"), ("10.42.1.0-25", "2"), ("10.42.1.0-25", "")], "revision 2"),
    ] {
        let error = check(&history(steps)).expect_err("a bad history");
        assert!(format!("{error:#}").contains(complaint), "{error:#}");
    }
}
