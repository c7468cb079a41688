//! Rules of documents: links lead somewhere, and tests that are named exist.

use std::path::Path;

use super::Findings;

/// Looks at one Markdown file. `read` gives the text of a file of the repository.
pub(super) fn look_at(
    name: &str,
    text: &str,
    read: impl Fn(&Path) -> Option<String>,
    findings: &mut Findings,
) {
    for (number, line) in text.lines().enumerate() {
        let mut complain = |what: String| findings.errors.push(format!("{name}:{}: {what}", number + 1));
        for target in links(line) {
            if let Err(reason) = link(name, text, target, &read) {
                complain(format!("the link to {target} is broken: {reason}"));
            }
        }
        for (file, test) in tests(line) {
            let source =
                read(&Path::new("integration/tests").join(format!("{}.rs", file.replace("::", "/"))));
            // Other modules have paths of the same form.
            if source.is_some_and(|source| !source.contains(&format!("fn {test}()"))) {
                complain(format!("there is no test {file}::{test}"));
            }
        }
    }
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
