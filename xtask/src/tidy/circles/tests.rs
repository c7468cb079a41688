use std::collections::BTreeMap;

use super::of_crate;

/// The circles of a crate with these files; `src/lib.rs` declares the modules `a`, `b` and `c`.
fn circles(files: &[(&str, &str)]) -> Vec<String> {
    let root = ("src/lib.rs", "mod a;\nmod b;\nmod c;\npub use a::A;");
    let sources: BTreeMap<String, String> =
        files.iter().chain([&root]).map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    of_crate("src/lib.rs", &sources).unwrap().iter().map(ToString::to_string).collect()
}

#[track_caller]
fn circle(files: &[(&str, &str)], lines: &[&str]) {
    let expected = lines.iter().fold("circle of imports:".to_owned(), |text, line| text + "\n    " + line);
    assert_eq!(circles(files), [expected]);
}

#[track_caller]
fn no_circle(files: &[(&str, &str)]) {
    assert_eq!(circles(files), Vec::<String>::new());
}

#[test]
fn two_files_import_each_other() {
    circle(
        &[("src/a.rs", "use crate::b::B;\npub struct A;"), ("src/b.rs", "\nuse super::a::A as Other;")],
        &["src/a.rs:1: crate::b::B -> src/b.rs", "src/b.rs:2: super::a::A -> src/a.rs"],
    );
}

#[test]
fn three_files_import_each_other_through_groups() {
    circle(
        &[
            ("src/a.rs", "use crate::{self as root, b::{self, B}};"),
            ("src/b.rs", "use std::fmt;\nfn f() {\n    g(&[crate::c::g(1)])\n}"),
            ("src/c.rs", "macro_rules! m { () => { $crate::a::A } }"),
        ],
        &[
            "src/a.rs:1: crate::b -> src/b.rs",
            "src/b.rs:3: crate::c::g -> src/c.rs",
            "src/c.rs:1: crate::a::A -> src/a.rs",
        ],
    );
}

#[test]
fn siblings_import_each_other() {
    circle(
        &[
            ("src/a.rs", "mod x;\nmod y;\npub use x::X;"),
            ("src/a/x.rs", "use super::y::Y;"),
            ("src/a/y.rs", "use super::{X, x};"),
        ],
        &["src/a/x.rs:1: super::y::Y -> src/a/y.rs", "src/a/y.rs:1: super::x -> src/a/x.rs"],
    );
}

#[test]
fn nephew_and_uncle_import_each_other() {
    circle(
        &[
            ("src/a.rs", "mod x;\nmod y { use super::x; }\nuse self::x::X;"),
            ("src/a/x.rs", "use crate::b;\nuse super::A;"),
            ("src/b.rs", "use crate::a;\nfn f() { a::x::g() }"),
        ],
        &["src/a/x.rs:1: crate::b -> src/b.rs", "src/b.rs:2: a::x::g -> src/a/x.rs"],
    );
}

#[test]
fn parents_and_descendants_refer_to_each_other() {
    no_circle(&[
        ("src/a.rs", "mod x;\nuse x::X;\nuse crate::Error;"),
        ("src/a/x.rs", "mod y;\nuse super::A;\nuse y::Y;\nuse crate::A;"),
        ("src/a/x/y.rs", "use crate::a::A;\nuse super::super::x::X;"),
    ]);
}

#[test]
fn only_code_that_is_built_counts() {
    let text = "//! [`crate::a`]
/// See [`crate::a::A`].
pub(crate) struct B<'a> {
    text: &'a str,
    #[cfg(test)]
    spare: Option<crate::a::A>,
}
// crate::a::A
#[cfg(test)]
use crate::a::{A, C};
#[cfg(test)]
fn f<K, V>() -> crate::a::A { \"crate::a\" }
#[cfg(all(test, unix))]
mod tests { use crate::a; }
const TEXT: &str = \"crate::a::A\";
use a::outside;";
    no_circle(&[("src/a.rs", "use crate::b::B;"), ("src/b.rs", text)]);
    let after = format!("{text}\n#[cfg(not(test))]\nuse crate::a;");
    assert_eq!(circles(&[("src/a.rs", "use crate::b::B;"), ("src/b.rs", &after)]).len(), 1);
}
