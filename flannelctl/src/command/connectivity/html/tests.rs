use super::super::report::tests::example;
use super::*;

#[test]
fn page_is_self_contained() {
    let mut report = example();
    report.nodes[2].error = Some("<script>alert(1)</script>".to_owned());
    let page = page(&report);
    for foreign in ["http://", "https://", "<script", "<link", "<img", "@import", "url("] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    assert!(page.contains("&lt;script&gt;"));
    for part in ["<svg ", "class=\"edge bad\"", "class=\"edge warn\"", "1404", "LOST", "</html>"] {
        assert!(page.contains(part), "{part}");
    }
    assert_eq!(page.matches("<circle").count(), 3);
}
