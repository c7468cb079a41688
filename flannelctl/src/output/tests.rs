use insta::assert_snapshot;
use serde_json::json;

use super::yaml;
use super::{Cell, Style, Table};

fn example() -> Table {
    let mut table = Table::new(&["SUBNET", "STATE"], &["MAC"]);
    table.push(vec![
        Cell::lines(["10.5.1.0/24", "fd00:1::/64"]),
        Cell::from("fine").styled(Style::Good),
        Cell::from("aa:bb"),
    ]);
    table.push(vec![Cell::from(""), Cell::lines([] as [&str; 0]), Cell::from("cc:dd")]);
    table
}

#[test]
fn columns_fit_their_content_and_cells_have_several_lines() {
    assert_snapshot!(example().render(false, false), @r"
    SUBNET       STATE
    10.5.1.0/24  fine
    fd00:1::/64
    -            -
    ");
    assert_snapshot!(example().render(true, false), @r"
    SUBNET       STATE  MAC
    10.5.1.0/24  fine   aa:bb
    fd00:1::/64
    -            -      cc:dd
    ");
    assert_snapshot!(example().without_titles().render(false, false), @r"
    10.5.1.0/24  fine
    fd00:1::/64
    -            -
    ");
}

#[test]
fn colours_do_not_shift_columns() {
    let plain = example().render(true, false);
    let coloured = example().render(true, true);
    assert!(coloured.contains("\u{1b}[32mfine\u{1b}[0m"), "{coloured}");
    assert_eq!(coloured.replace("\u{1b}[32m", "").replace("\u{1b}[0m", ""), plain);
}

#[test]
fn the_last_column_is_wrapped_at_80() {
    let mut table = Table::new(&["ID", "REASON"], &[]);
    table.push(vec![Cell::from("one"), Cell::from("word ".repeat(30).trim_end())]);
    let text = table.render(false, false);
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert_eq!(text.matches("word").count(), 30);
    assert!(table.render(true, false).lines().any(|line| line.len() > 80));
}

#[test]
fn yaml_has_the_data_of_json() {
    let value = json!({
        "plain": "vxlan", "path": "/run/flannel", "address": "10.5.1.0", "mac": "aa:bb:cc:00:11:22",
        "word": "no", "number": "12", "empty": "", "lines": "a\nb \"c\"", "date": "2026-01-01",
        "list": ["one", 2, {"a": 1, "b": [true, null]}, [], ["x"]], "none": [], "object": {"inner": {}},
        "key: with colon": 1.5,
    });
    assert_snapshot!(yaml::document(&value), @r#"
    address: "10.5.1.0"
    date: "2026-01-01"
    empty: ""
    "key: with colon": 1.5
    lines: "a\nb \"c\""
    list:
    - one
    - 2
    - a: 1
      b:
      - true
      - null
    - []
    -
      - x
    mac: "aa:bb:cc:00:11:22"
    none: []
    number: "12"
    object:
      inner: {}
    path: /run/flannel
    plain: vxlan
    word: "no"
    "#);
    assert_eq!(yaml::document(&json!([])), "[]\n");
    assert_eq!(yaml::document(&json!("x")), "x\n");
}
