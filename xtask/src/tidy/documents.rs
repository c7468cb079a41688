//! Rules of documents: the targets of links, and the files, items and tests that they mention, exist.

use std::path::Path;

/// Checks one Markdown file. `read` returns the text of a file of the repository, `is_directory` whether a path is one of
/// its directories.
pub(super) fn check(
    name: &str,
    text: &str,
    read: impl Fn(&Path) -> Option<String>,
    is_directory: impl Fn(&Path) -> bool,
    errors: &mut Vec<String>,
) {
    for (number, line) in text.lines().enumerate() {
        let mut report = |what: String| errors.push(format!("{name}:{}: {what}", number + 1));
        for target in links(line) {
            if let Err(reason) = link(name, text, target, &read) {
                report(format!("the link to {target} is broken: {reason}"));
            }
        }
        for (file, test) in tests(line) {
            let source =
                read(&Path::new("integration/tests").join(format!("{}.rs", file.replace("::", "/"))));
            // Other modules have paths of the same form.
            if source.is_some_and(|source| !source.contains(&format!("fn {test}()"))) {
                report(format!("there is no test {file}::{test}"));
            }
        }
        for (item, path) in paths(line) {
            match path.strip_suffix('/') {
                Some(directory) if is_directory(Path::new(directory)) => {}
                Some(_) => report(format!("there is no directory {path}")),
                None => match (read(Path::new(path)), item) {
                    (None, _) => report(format!("there is no file {path}")),
                    (Some(source), Some(item)) if !defines(&source, item) => {
                        report(format!("{path} has no item {item}"));
                    }
                    _ => {}
                },
            }
        }
    }
}

/// Directories whose files documents mention by their path from the root.
const ROOTS: [&str; 7] =
    ["flannel-cni/", "flannel-core/", "flannelctl/", "flanneld/", "integration/", "xtask/", "docs/"];

/// Paths in `` `path` ``, without those that contain the placeholder NAME; with the item of `` `item` in `path` `` or
/// `` `item` (`path`) ``.
fn paths(line: &str) -> impl Iterator<Item = (Option<&str>, &str)> {
    let pieces: Vec<&str> = line.split('`').collect();
    (1..pieces.len()).step_by(2).filter_map(move |index| {
        let path = pieces[index];
        let is_path = ROOTS.iter().any(|root| path.starts_with(root))
            && !path.contains("NAME")
            && !path.contains([' ', '*', ':']);
        let item = (index > 2 && [" in ", " ("].contains(&pieces[index - 1])).then(|| pieces[index - 2]);
        is_path.then_some((item, path))
    })
}

/// Whether a source file defines an item: `name`, or `Type::name` by its last part.
fn defines(source: &str, item: &str) -> bool {
    let name = item.rsplit("::").next().unwrap_or(item);
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    source.lines().filter(|line| !line.trim_start().starts_with("//")).any(|line| {
        let words: Vec<&str> = line.split(|c| !is_word(c)).filter(|word| !word.is_empty()).collect();
        const KEYWORDS: [&str; 9] =
            ["const", "enum", "fn", "macro_rules", "mod", "static", "struct", "trait", "type"];
        words.windows(2).any(|pair| KEYWORDS.contains(&pair[0]) && pair[1] == name)
    })
}

/// Targets of `[text](target)`.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target)
}

fn link(
    name: &str,
    text: &str,
    target: &str,
    read: &impl Fn(&Path) -> Option<String>,
) -> Result<(), &'static str> {
    if target.contains("://") || target.starts_with("mailto:") {
        return Ok(());
    }
    let (path, heading) =
        target.split_once('#').map_or((target, None), |(path, heading)| (path, Some(heading)));
    let other = match path {
        "" => Some(text.to_owned()),
        path => read(&Path::new(name).parent().unwrap_or(Path::new("")).join(path)),
    };
    let Some(other) = other else { return Err("no such file") };
    match heading {
        Some(heading) if !headings(&other).any(|anchor| anchor == heading) => Err("no such heading"),
        _ => Ok(()),
    }
}

/// The anchors that a forge makes of headings.
fn headings(text: &str) -> impl Iterator<Item = String> {
    text.lines().filter(|line| line.starts_with('#')).map(|line| {
        line.trim_start_matches('#')
            .trim()
            .chars()
            .filter_map(|c| match c {
                ' ' => Some('-'),
                c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c.to_ascii_lowercase()),
                _ => None,
            })
            .collect()
    })
}

/// What looks like `` `file::test` `` or `` `directory::file::test` ``.
fn tests(line: &str) -> impl Iterator<Item = (&str, &str)> {
    let word = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    line.split('`')
        .skip(1)
        .step_by(2)
        .filter(move |code| code.split("::").all(word))
        .filter_map(|code| code.rsplit_once("::"))
}
