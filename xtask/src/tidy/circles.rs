//! No two files of a crate import each other, directly or in a circle.

use anyhow::Result;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use super::imports::{self, Import};

/// A circle of imports: each file imports the next one, the last one imports the first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Circle(Vec<Import>);

/// Returns the circles of all crates.
pub(super) fn all(sources: &BTreeMap<String, String>) -> Result<BTreeSet<Circle>> {
    let mut circles = BTreeSet::new();
    for root in sources.keys().filter(|name| is_root(name)) {
        circles.extend(of_crate(root, sources)?);
    }
    Ok(circles)
}

/// Whether a file is the root of a library or program: `CRATE/src/{lib,main}.rs` or `CRATE/src/bin/NAME.rs`.
fn is_root(name: &str) -> bool {
    match name.split('/').collect::<Vec<_>>().as_slice() {
        [_, "src", file] => ["lib.rs", "main.rs"].contains(file),
        [_, "src", "bin", file] => file.ends_with(".rs"),
        _ => false,
    }
}

/// Returns a shortest circle through each file of a crate that is part of one.
pub(super) fn of_crate(root: &str, sources: &BTreeMap<String, String>) -> Result<BTreeSet<Circle>> {
    let mut imports: BTreeMap<String, BTreeMap<String, Import>> = BTreeMap::new();
    for import in imports::of_crate(root, sources)? {
        imports.entry(import.from.clone()).or_default().entry(import.to.clone()).or_insert(import);
    }
    Ok(imports.keys().filter_map(|file| shortest(file, &imports)).collect())
}

fn shortest(file: &str, imports: &BTreeMap<String, BTreeMap<String, Import>>) -> Option<Circle> {
    // The import by which each file was reached first.
    let mut reached: BTreeMap<&str, &Import> = BTreeMap::new();
    let mut queue = VecDeque::from([file]);
    while let Some(from) = queue.pop_front() {
        for import in imports.get(from).into_iter().flat_map(BTreeMap::values) {
            if !reached.contains_key(import.to.as_str()) {
                reached.insert(&import.to, import);
                queue.push_back(&import.to);
            }
        }
    }
    let mut circle = vec![(*reached.get(file)?).clone()];
    while let Some(last) = circle.last()
        && last.from != file
    {
        circle.push((*reached.get(last.from.as_str())?).clone());
    }
    circle.reverse();
    // The same circle is found from each of its files.
    let first = circle.iter().enumerate().min_by_key(|(_, import)| import.from.clone())?.0;
    circle.rotate_left(first);
    Some(Circle(circle))
}

impl fmt::Display for Circle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "circle of imports:")?;
        for Import { from, to, line, path } in &self.0 {
            write!(f, "\n    {from}:{line}: {path} -> {to}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
