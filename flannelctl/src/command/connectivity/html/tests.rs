use super::super::report::tests::{example, grid};
use super::*;

#[test]
fn page_is_self_contained() {
    let mut report = example();
    report.nodes[2].error = Some("<script>alert(1)</script>".to_owned());
    let page = page(&report);
    for foreign in ["http://", "https://", "<link", "<img", "@import", "url(", "src="] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    assert_eq!(page.matches("<script").count(), 1, "a text of a node became a script");
    assert!(page.contains("&lt;script&gt;"));
    for part in ["<svg ", "class=\"edge bad\"", "class=\"edge warn\"", "1404", "LOST", "</html>"] {
        assert!(page.contains(part), "{part}");
    }
    assert_eq!(page.matches("<circle").count(), 3);
}

#[test]
fn size_of_the_network_determines_the_parts() {
    let alone = page(&grid(1));
    assert!(alone.contains("no other nodes") && !alone.contains("<table"), "{alone}");
    let few = page(&grid(12));
    assert!(few.contains("<svg ") && few.contains("No problems."), "{few}");
    let many = page(&grid(150));
    assert!(!many.contains("<svg ") && many.matches("<td").count() == 150 * 150);
    // From one node: a list instead of a matrix with one row.
    let mut report = grid(150);
    report.paths.retain(|path| path.from == "10.5.7.0-24");
    let one = page(&report);
    assert!(!one.contains("class=\"matrix\"") && one.matches("<tr><td>").count() == 149);
}

#[test]
fn largest_networks_have_a_page_of_moderate_size() {
    let started = std::time::Instant::now();
    let page = page(&grid(500));
    assert!(page.len() < 10 << 20, "{} bytes", page.len());
    assert!(started.elapsed().as_secs() < 60, "took {:?}", started.elapsed());
}

#[test]
fn worst_nodes_and_paths_come_first() {
    let mut report = grid(20);
    for path in &mut report.paths {
        match (path.from.as_str(), path.to.as_str()) {
            ("10.5.9.0-24", _) => path.received = 0,
            ("10.5.3.0-24", "10.5.4.0-24") => path.largest_packet_bytes = Some(1000),
            _ => {}
        }
    }
    let page = page(&report);
    let position = |part: &str| page.find(part).unwrap_or_else(|| panic!("no {part}"));
    assert!(position("LOST</td>") < position("≤1000</td>"));
    for (rank, number) in [(0, 9), (1, 3), (2, 4)] {
        let row = format!("<tr data-rank=\"{rank}\"><th scope=\"row\"><b>{number}</b>");
        assert!(page.contains(&row), "{row}");
    }
}
