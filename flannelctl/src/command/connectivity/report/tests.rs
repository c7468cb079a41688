use super::*;

/// Three nodes: 1 and 2 reach each other, 1 does not reach 3, and large packets from 2 to 3 are lost.
pub(crate) fn example() -> Report {
    let node = |number: u8| Node {
        key: format!("10.5.{number}.0-24"),
        public_addresses: vec![IpAddr::from([192, 0, 2, number])],
        backend: "vxlan".to_owned(),
        error: (number == 3).then(|| "ssh ended with exit status: 255: no route to host".to_owned()),
    };
    let path = |from: u8, to: u8, received, largest| Path {
        from: format!("10.5.{from}.0-24"),
        to: format!("10.5.{to}.0-24"),
        family: Family::V4,
        target: IpAddr::from([10, 5, to, 0]),
        via: Via::Vtep,
        sent: 5,
        received,
        round_trip_milliseconds: RoundTrip::of(
            (0..received).map(|at| Duration::from_micros(180 + u64::from(at))).collect(),
        ),
        largest_packet_bytes: largest,
        expected_packet_bytes: 1450,
        problem: None,
    };
    let mut report = Report {
        nodes: vec![node(2), node(1), node(3)],
        paths: vec![
            path(2, 3, 5, Some(1404)),
            path(1, 2, 5, Some(1450)),
            path(1, 3, 0, None),
            path(2, 1, 4, Some(1450)),
        ],
        ..Report::default()
    };
    report.sort();
    report
}

/// A network of this many nodes whose paths are all fine.
pub(crate) fn grid(size: u16) -> Report {
    let path = example().paths.remove(0);
    assert!(path.is_fine());
    let key = |number: u16| format!("10.{}.{}.0-24", 5 + number / 256, number % 256);
    let pairs = (1..=size).flat_map(|from| (1..=size).map(move |to| (from, to)));
    let nodes = (1..=size).map(|number| Node { key: key(number), ..Node::default() });
    let paths = pairs.filter(|(from, to)| from != to);
    Report {
        nodes: nodes.collect(),
        paths: paths.map(|(from, to)| Path { from: key(from), to: key(to), ..path.clone() }).collect(),
        ..Report::default()
    }
}

#[test]
fn matrix_fits_a_terminal() {
    let text = example().matrix();
    insta::assert_snapshot!(text, @r"
      1  192.0.2.1  10.5.1.0-24
      2  192.0.2.2  10.5.2.0-24
      3  192.0.2.3  10.5.3.0-24

    IPv4      1     2     3
       1      .  0.18  LOST
       2   -20%     . ≤1404
       3      -     -     .

    round-trip time in milliseconds; LOST: no answer; -20%: packet loss;
    ≤1404: larger packets are lost; -: not measured
    not measured from 10.5.3.0-24: ssh ended with exit status: 255: no route to host
    4 paths: 1 fine, 2 with loss, 1 losing large packets
    ");
    let mut many = example();
    many.nodes =
        (1..=40).map(|number| Node { key: format!("10.5.{number}.0-24"), ..Node::default() }).collect();
    assert!(many.matrix().lines().all(|line| line.chars().count() <= 80), "{}", many.matrix());
}

#[test]
fn json_round_trips() {
    let report = example();
    let text = serde_json::to_string(&report).unwrap();
    assert_eq!(Report::parse(&text).unwrap(), report);
    assert!(
        Report::parse(&text.replacen("\"version\":2", "\"version\":3", 1)).unwrap_err().contains("version 3")
    );
    assert!(Report::parse("{}").is_err());
}

#[test]
fn results_of_several_nodes_are_merged() {
    let whole = example();
    let of = |from: &str| Report {
        paths: whole.paths.iter().filter(|path| path.from.starts_with(from)).cloned().collect(),
        ..whole.clone()
    };
    let mut merged = Report::default();
    let mut outdated = of("10.5.1.");
    outdated.paths[0].received = 0;
    merged.merge([of("10.5.2."), outdated]);
    // Repeated: the later result takes precedence.
    merged.merge([of("10.5.1.")]);
    assert_eq!(merged, whole);
    assert!(merged.has_findings());
}

#[test]
fn times_are_short() {
    for (time, text) in [(0.004, "0.00"), (9.94, "9.94"), (9.96, "10.0"), (99.6, "100"), (1234.5, "1234")] {
        assert_eq!(milliseconds(time), text);
    }
}
