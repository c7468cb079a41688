//! A header: tagged values, and an index of where they are.

use anyhow::{Context, Result};
use std::collections::BTreeMap;

/// The values of a header by tag.
#[derive(Default)]
pub(super) struct Header(BTreeMap<u32, Value>);

struct Value {
    kind: u32,
    /// How many there are.
    count: usize,
    bytes: Vec<u8>,
    alignment: usize,
}

/// Which of the two headers it is: each says so by an entry that spans all others, and by which rpm sees that
/// nothing was added later.
#[derive(Clone, Copy)]
pub(super) enum Region {
    Signatures,
    Immutable,
}

const MAGIC: [u8; 8] = [0x8e, 0xad, 0xe8, 1, 0, 0, 0, 0];
const ENTRY_SIZE: usize = 16;

const INT16: u32 = 3;
const INT32: u32 = 4;
const STRING: u32 = 6;
const BINARY: u32 = 7;
const STRINGS: u32 = 8;
const TRANSLATED: u32 = 9;

impl Header {
    pub(super) fn string(&mut self, tag: u32, text: &str) {
        self.texts(tag, STRING, &[text]);
    }

    /// A text in the first language of the table, which is the only one.
    pub(super) fn translated(&mut self, tag: u32, text: &str) {
        self.texts(tag, TRANSLATED, &[text]);
    }

    pub(super) fn strings(&mut self, tag: u32, texts: &[impl AsRef<str>]) {
        self.texts(tag, STRINGS, texts);
    }

    fn texts(&mut self, tag: u32, kind: u32, texts: &[impl AsRef<str>]) {
        let bytes = texts.iter().flat_map(|text| text.as_ref().bytes().chain([0])).collect();
        self.0.insert(tag, Value { kind, count: texts.len(), bytes, alignment: 1 });
    }

    pub(super) fn int16(&mut self, tag: u32, numbers: &[u16]) {
        let bytes = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
        self.0.insert(tag, Value { kind: INT16, count: numbers.len(), bytes, alignment: 2 });
    }

    pub(super) fn int32(&mut self, tag: u32, numbers: &[u32]) {
        let bytes = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
        self.0.insert(tag, Value { kind: INT32, count: numbers.len(), bytes, alignment: 4 });
    }

    pub(super) fn bytes(&self, region: Region) -> Result<Vec<u8>> {
        let region: u32 = match region {
            Region::Signatures => 62,
            Region::Immutable => 63,
        };
        let mut index = Vec::new();
        let mut store = Vec::new();
        for (tag, value) in &self.0 {
            store.resize(store.len().next_multiple_of(value.alignment), 0);
            index.extend(entry(*tag, value.kind, word(store.len())?, word(value.count)?));
            store.extend(&value.bytes);
        }
        let entries = self.0.len() + 1;
        // The region's own value is an entry like those of the index; its offset leads back over all of them.
        let at = word(store.len())?;
        let span = word(entries * ENTRY_SIZE)?;
        store.extend(entry(region, BINARY, span.wrapping_neg(), word(ENTRY_SIZE)?));

        let mut header = MAGIC.to_vec();
        header.extend(word(entries)?.to_be_bytes());
        header.extend(word(store.len())?.to_be_bytes());
        header.extend(entry(region, BINARY, at, word(ENTRY_SIZE)?));
        header.extend(index);
        header.extend(store);
        Ok(header)
    }
}

fn entry(tag: u32, kind: u32, offset: u32, count: u32) -> impl Iterator<Item = u8> {
    [tag, kind, offset, count].into_iter().flat_map(u32::to_be_bytes)
}

fn word(number: usize) -> Result<u32> {
    u32::try_from(number).context("too large for a header")
}
