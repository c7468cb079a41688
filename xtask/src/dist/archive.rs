//! Reproducible tar and gzip.

use anyhow::{Context, Result};
use flate2::GzBuilder;
use std::io::Write as _;
use tar::{Builder, EntryType, Header};

use super::target::Profile;
use super::tree::{Node, Tree};

/// The compression level.
#[derive(Clone, Copy)]
pub(crate) struct Compression(flate2::Compression);

impl Compression {
    pub(crate) fn of(profile: Profile) -> Self {
        Self(match profile {
            Profile::Dev => flate2::Compression::fast(),
            Profile::Release => flate2::Compression::best(),
        })
    }

    pub(crate) fn level(self) -> u32 {
        self.0.level()
    }

    pub(crate) fn gzip(self, content: &[u8]) -> Result<Vec<u8>> {
        let mut encoder = GzBuilder::new().write(Vec::new(), self.0);
        encoder.write_all(content).context("could not compress")?;
        encoder.finish().context("could not compress")
    }
}

/// Creates a tar archive of a tree, owned by root.
pub(crate) fn tar(tree: &Tree, epoch: u64) -> Result<Vec<u8>> {
    let mut builder = Builder::new(Vec::new());
    for (path, entry) in tree.entries() {
        let mut header = header(entry.mode, entry.content().len(), epoch)?;
        let added = match &entry.node {
            Node::Directory => {
                header.set_entry_type(EntryType::Directory);
                builder.append_data(&mut header, format!("{path}/"), &[][..])
            }
            Node::File(content) => builder.append_data(&mut header, path, content.as_slice()),
            Node::Link(to) => {
                header.set_entry_type(EntryType::Symlink);
                builder.append_link(&mut header, path, to)
            }
        };
        added.with_context(|| format!("could not pack {path}"))?;
    }
    builder.into_inner().context("could not finish an archive")
}

fn header(mode: u16, size: usize, epoch: u64) -> Result<Header> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(u32::from(mode));
    header.set_size(size as u64);
    header.set_mtime(epoch);
    header.set_uid(0);
    header.set_gid(0);
    header.set_username("root").context("could not set an owner")?;
    header.set_groupname("root").context("could not set an owner")?;
    Ok(header)
}
