use std::path::Path;

use super::{documents, production_lines};

fn check(name: &str, text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    super::check(name, text, &mut errors);
    errors
}

#[track_caller]
fn refused(name: &str, text: &str, error: &str) {
    let errors = check(name, text);
    assert!(errors.iter().any(|found| found.contains(error)), "{error:?} is not among {errors:?}");
}

#[track_caller]
fn accepted(name: &str, text: &str) {
    assert_eq!(check(name, text), Vec::<String>::new());
}

const MANIFEST: &str = "[package]
name = \"flannel-core\"
version.workspace = true
edition.workspace = true
rust-version.workspace = true
license.workspace = true
publish.workspace = true

[lints]
workspace = true

[dependencies]
ipnet.workspace = true
serde = { workspace = true, features = [\"rc\"] }
";

#[test]
fn manifests_inherit() {
    accepted("flannel-core/Cargo.toml", MANIFEST);
    refused("flannel-core/Cargo.toml", &MANIFEST.replace("[lints]\nworkspace = true", ""), "[lints]");
    refused(
        "flannel-core/Cargo.toml",
        &MANIFEST.replace("edition.workspace = true", "edition = \"2024\""),
        "`edition.workspace = true` is missing",
    );
    refused(
        "flannel-core/Cargo.toml",
        &MANIFEST.replace("ipnet.workspace = true", "ipnet = \"2\""),
        "Cargo.toml:13: the version of ipnet belongs in the root",
    );
}

#[test]
fn core_stays_pure() {
    let tokio = format!("{MANIFEST}tokio.workspace = true\n");
    refused("flannel-core/Cargo.toml", &tokio, "may not depend on tokio");
    accepted("flanneld/Cargo.toml", &tokio);
}

#[test]
fn source_rules() {
    accepted("a/src/b.rs", "#[ignore = \"needs netns\"]\nfn a() {}\n");
    refused("a/src/b.rs", "    #[ignore]\n", "a/src/b.rs:1: only `#[ignore");
    refused("a/src/b.rs", "#[ignore = \"flaky\"]\n", "only `#[ignore");
    refused("a/src/b.rs", "#[allow(dead_code)]\n", "instead of allow");
    refused("a/src/b/mod.rs", "", "foo.rs with children");
    refused("a/src/lib.rs", "fn a() {}\n", "forbid(unsafe_code)");
    accepted("flanneld/src/lib.rs", "fn a() {}\n");
}

#[test]
fn paths_of_one_machine_are_refused() {
    refused("README.md", concat!("<<<<", "<<< HEAD\n"), "README.md:1: a merge conflict");
    refused("README.md", concat!("see /wo", "rk/notes\n"), "README.md:1: a path of one machine");
    refused(
        "Cargo.lock",
        "source = \"registry+https://mirror.example/index\"\n",
        "crates come from crates.io",
    );
    accepted("Cargo.lock", "source = \"registry+https://github.com/rust-lang/crates.io-index\"\n");
}

#[test]
fn old_words_are_refused() {
    refused("a/src/b.rs", concat!("fn a_me", "nd() {}\n"), "a/src/b.rs:1: `");
    refused("docs/a.md", concat!("Quar", "rels are logged.\n"), "see the glossary");
    accepted("docs/contributing.md", concat!("| tor", "ture | stress |\n"));
    accepted("a/src/b.rs", "// recommended\n");
}

#[test]
fn long_files_are_refused() {
    let long = "x\n".repeat(501);
    refused("a/src/b.rs", &long, "a/src/b.rs: 501 lines");
    accepted("a/src/b/tests.rs", &long);
    accepted("a/src/b.rs", &"x\n".repeat(500));
}

#[test]
fn only_their_own_files_name_backends() {
    let text = "fn a() {\n    Backend::Vxlan(options)\n}\n";
    refused("a/src/b.rs", text, "a/src/b.rs: names a backend or kind of link in lines 2");
    accepted("a/src/b/tests.rs", text);
    accepted("flannel-core/src/backend/vxlan.rs", text);
    accepted("flannel-core/src/backend.rs", text);
}

#[test]
fn production_lines_are_counted() {
    let sources =
        [("xtask/src/a.rs", "//! A\n\nfn a() {\n    // b\n}\n"), ("xtask/src/a/tests.rs", "fn a() {}\n")];
    let sources = sources.map(|(name, text)| (name.to_owned(), text.to_owned())).into();
    assert_eq!(production_lines(&sources), "2 in all: xtask 2");
}

#[test]
fn targets_of_documents_exist() {
    let read = |path: &Path| match path.to_str()? {
        "docs/b.md" => Some("# Title\n\n## What happens, when\n".to_owned()),
        "flanneld/src/a.rs" => Some("// fn c\npub(crate) struct A<T> {\npub fn b() {\n".to_owned()),
        "integration/tests/repair.rs" | "integration/tests/a/b.rs" => {
            Some("#[test]\nfn storm() {\n".to_owned())
        }
        _ => None,
    };
    let errors = |text: &str| {
        let mut errors = Vec::new();
        let is_directory = |path: &Path| path == Path::new("flanneld/src");
        documents::check("docs/a.md", text, read, is_directory, &mut errors);
        errors
    };
    let good = "# A\n[b](b.md) [w](b.md#what-happens-when) [a](#a) [x](https://example.org/x)\n`repair::storm` `a::b::storm` `core::fmt`\n";
    assert_eq!(errors(good), Vec::<String>::new());
    assert_eq!(errors("[c](c.md)\n"), ["docs/a.md:1: the link to c.md is broken: no such file"]);
    assert_eq!(errors("[b](b.md#else)\n"), ["docs/a.md:1: the link to b.md#else is broken: no such heading"]);
    assert_eq!(errors("\n`repair::calm`\n"), ["docs/a.md:2: there is no test repair::calm"]);
    assert_eq!(errors("`a::b::calm`\n"), ["docs/a.md:1: there is no test a::b::calm"]);
    let good = "`flanneld/src/`, `flanneld/src/NAME.rs`, `A` in `flanneld/src/a.rs` and `A::b` (`flanneld/src/a.rs`)\n";
    assert_eq!(errors(good), Vec::<String>::new());
    assert_eq!(errors("`flanneld/src/a/`\n"), ["docs/a.md:1: there is no directory flanneld/src/a/"]);
    assert_eq!(errors("`flanneld/src/b.rs`\n"), ["docs/a.md:1: there is no file flanneld/src/b.rs"]);
    assert_eq!(errors("`c` in `flanneld/src/a.rs`\n"), ["docs/a.md:1: flanneld/src/a.rs has no item c"]);
}
