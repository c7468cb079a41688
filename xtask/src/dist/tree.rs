//! The files of a package, in memory.

use anyhow::{Result, bail};
use std::collections::BTreeMap;

/// Entries by path without a leading slash, so that directories precede their contents.
#[derive(Default)]
pub(crate) struct Tree(BTreeMap<String, Entry>);

pub(crate) struct Entry {
    pub(crate) node: Node,
    /// Permission bits.
    pub(crate) mode: u16,
}

pub(crate) enum Node {
    Directory,
    File(Vec<u8>),
    Link(String),
}

impl Tree {
    pub(crate) fn program(&mut self, path: &str, content: &[u8]) -> Result<()> {
        self.add(path, Node::File(content.to_owned()), 0o755)
    }

    pub(crate) fn file(&mut self, path: &str, content: impl Into<Vec<u8>>) -> Result<()> {
        self.add(path, Node::File(content.into()), 0o644)
    }

    /// Adds a file that only root can read, because it may contain a password.
    pub(crate) fn secret(&mut self, path: &str, content: impl Into<Vec<u8>>) -> Result<()> {
        self.add(path, Node::File(content.into()), 0o640)
    }

    pub(crate) fn link(&mut self, path: &str, to: &str) -> Result<()> {
        self.add(path, Node::Link(to.to_owned()), 0o777)
    }

    /// Adds an entry and the directories above it.
    fn add(&mut self, path: &str, node: Node, mode: u16) -> Result<()> {
        for (at, _) in path.match_indices('/') {
            let parent = Entry { node: Node::Directory, mode: 0o755 };
            self.0.entry(path[..at].to_owned()).or_insert(parent);
        }
        if self.0.insert(path.to_owned(), Entry { node, mode }).is_some() {
            bail!("duplicate path {path}");
        }
        Ok(())
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.0.iter().map(|(path, entry)| (path.as_str(), entry))
    }

    /// Returns the total size of all files.
    pub(crate) fn size(&self) -> usize {
        self.0.values().map(|entry| entry.content().len()).sum()
    }

    /// Returns the same entries below a directory.
    pub(crate) fn below(self, directory: &str) -> Self {
        let top = Entry { node: Node::Directory, mode: 0o755 };
        let entries = self.0.into_iter().map(|(path, entry)| (format!("{directory}/{path}"), entry));
        Self(entries.chain([(directory.to_owned(), top)]).collect())
    }
}

impl Entry {
    /// Returns the content of a file.
    pub(crate) fn content(&self) -> &[u8] {
        match &self.node {
            Node::File(content) => content,
            Node::Directory | Node::Link(_) => &[],
        }
    }
}
