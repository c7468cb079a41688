//! Runs the commands of the documentation as they are written.
//!
//! The [register](register) names the test of every code block of every document, or the reason why it has none; a unit test
//! compares it with the documents. [`walk`] passes a test its blocks and fails if the test skips one. A command without
//! a test is therefore an error.

use anyhow::{Context, Result, bail, ensure};
use std::collections::VecDeque;
use std::fs;
use std::path::Path;

mod host;
mod register;
mod terminal;

pub use host::{Host, Started};
pub use terminal::Terminal;

use register::{Coverage, PAGES};

/// A code block of a document: commands, or the content of a file.
#[derive(Clone, Debug)]
pub struct Block {
    page: &'static str,
    line: usize,
    text: String,
}

impl Block {
    /// Returns the complete text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the commands of the block. Fails unless there are `N`.
    pub fn commands<const N: usize>(&self) -> Result<[String; N]> {
        let text = self.text.replace("\\\n", " ");
        let commands: Vec<String> = text.lines().map(str::to_owned).collect();
        commands.try_into().map_err(|found: Vec<String>| {
            anyhow::anyhow!("{self} has {} commands, its test expects {N}", found.len())
        })
    }

    /// Returns the commands, marked by `$`, each with its output.
    pub fn examples(&self) -> Result<Vec<(&str, String)>> {
        let mut examples: Vec<(&str, String)> = Vec::new();
        for line in self.text.lines() {
            match (line.strip_prefix("$ "), examples.last_mut()) {
                (Some(command), _) => examples.push((command, String::new())),
                (None, Some((_, output))) => output.extend([line, "\n"]),
                (None, None) => bail!("{self} does not begin with a command: {line:?}"),
            }
        }
        Ok(examples)
    }
}

impl std::fmt::Display for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let first = self.text.lines().next().unwrap_or_default();
        write!(f, "{}:{}: the block `{first}`", self.page, self.line)
    }
}

/// Returns the blocks of a document: indented by four columns after an empty line, or fenced.
fn parse(page: &'static str, text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let (mut fenced, mut open, mut after_blank) = (false, false, true);
    for (index, line) in text.lines().enumerate() {
        if line.starts_with("```") {
            (fenced, open, after_blank) = (!fenced, false, true);
            continue;
        }
        let code = if fenced { Some(line) } else { line.strip_prefix("    ") };
        match code {
            Some(code) if open => blocks.iter_mut().next_back().into_iter().for_each(|block| {
                block.text.extend([code, "\n"]);
            }),
            Some(code) if after_blank => {
                blocks.push(Block { page, line: index + 1, text: format!("{code}\n") });
                open = true;
            }
            _ => open = false,
        }
        after_blank = line.trim().is_empty();
    }
    blocks
}

/// The blocks that a test must run, in order.
pub struct Walk {
    test: &'static str,
    blocks: VecDeque<Block>,
}

/// Runs `follow` with the blocks that the register assigns to `test`. Fails if it skips one.
pub fn walk<T>(test: &'static str, follow: impl FnOnce(&mut Walk) -> Result<T>) -> Result<T> {
    let assigned =
        entries()?.into_iter().filter(|(_, coverage)| matches!(coverage, Coverage::Test(by) if *by == test));
    let mut walk = Walk { test, blocks: assigned.map(|(block, _)| block).collect() };
    ensure!(!walk.blocks.is_empty(), "integration/src/pages/register.rs assigns no block to {test}");
    let outcome = follow(&mut walk)?;
    match walk.blocks.front() {
        None => Ok(outcome),
        Some(left) => bail!("{test} did not run {left}"),
    }
}

impl Walk {
    /// Returns the next block. Fails unless it begins with `beginning`.
    pub fn next(&mut self, beginning: &str) -> Result<Block> {
        let block = self.blocks.pop_front();
        let block = block.with_context(|| format!("{} has no further block {beginning:?}", self.test))?;
        ensure!(block.text.starts_with(beginning), "{block} does not begin with {beginning:?}");
        eprintln!("{block}");
        Ok(block)
    }
}

/// Returns the first block of a document that begins with `beginning`.
pub fn block(page: &str, beginning: &str) -> Result<Block> {
    all_blocks()
        .find(|block| block.page == page && block.text.starts_with(beginning))
        .with_context(|| format!("{page} has no block that begins with {beginning:?}"))
}

fn all_blocks() -> impl Iterator<Item = Block> {
    PAGES.iter().flat_map(|page| parse(page.name, page.text))
}

/// Returns each block of the documents with its entry in the register. Fails if they do not match.
fn entries() -> Result<Vec<(Block, Coverage)>> {
    let mut entries = Vec::new();
    for page in PAGES {
        let mut register = page.blocks.iter();
        for block in parse(page.name, page.text) {
            match register.next() {
                Some((_, Coverage::Untested(""))) => bail!("{block} has no test and no reason: {FIX}"),
                Some((beginning, coverage)) if block.text.starts_with(beginning) => {
                    entries.push((block, *coverage))
                }
                Some((beginning, _)) => bail!("{block} is where the register expects {beginning:?}: {FIX}"),
                None => bail!("{block} has no test: {FIX}"),
            }
        }
        if let Some((beginning, _)) = register.next() {
            bail!("{} has no block {beginning:?}: {FIX}", page.name);
        }
    }
    Ok(entries)
}

const FIX: &str = "run every block in an end-to-end test, and add it to integration/src/pages/register.rs";

impl Block {
    /// Replaces the block in the document.
    fn rewrite(&self, text: &str) -> Result<()> {
        let indented = |text: &str| text.lines().map(|line| format!("    {line}\n")).collect::<String>();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(self.page);
        let page = fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
        let page = page.replacen(&indented(&self.text), &indented(text), 1);
        fs::write(&path, page).with_context(|| format!("could not write {}", path.display()))
    }
}

#[cfg(test)]
mod tests;
