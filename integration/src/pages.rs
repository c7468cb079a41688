//! The pages for users as sources of commands: what they tell people to do is what the tests do.
//!
//! The [register](register) says of every block of every page which test follows it, or why none can; a test of this
//! crate compares the two. [`walk`] hands a test its blocks, and fails it if it leaves one out. So a command that is
//! added to a page and that nobody runs is noticed.

use anyhow::{Context, Result, bail, ensure};
use std::collections::VecDeque;
use std::fs;
use std::path::Path;

mod host;
mod register;
mod terminal;

pub use host::{Host, Started};
pub use terminal::Terminal;

use register::{Fate, PAGES};

/// What a page sets apart: commands, or the text of a file.
#[derive(Clone, Debug)]
pub struct Block {
    page: &'static str,
    line: usize,
    text: String,
}

impl Block {
    /// All of it, as a shell or a file takes it.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its commands, of which there must be so many.
    pub fn commands<const N: usize>(&self) -> Result<[String; N]> {
        let text = self.text.replace("\\\n", " ");
        let commands: Vec<String> = text.lines().map(str::to_owned).collect();
        commands.try_into().map_err(|found: Vec<String>| {
            anyhow::anyhow!("{self} has {} commands, of which its test knows {N}", found.len())
        })
    }

    /// Commands, marked by `$`, and what each of them says.
    pub fn examples(&self) -> Result<Vec<(&str, String)>> {
        let mut examples: Vec<(&str, String)> = Vec::new();
        for line in self.text.lines() {
            match (line.strip_prefix("$ "), examples.last_mut()) {
                (Some(command), _) => examples.push((command, String::new())),
                (None, Some((_, said))) => said.extend([line, "\n"]),
                (None, None) => bail!("{self} begins with no command: {line:?}"),
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

/// The blocks of a page: indented by four columns after an empty line, or between fences.
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

/// The blocks that a test has to follow, in the order of the pages.
pub struct Walk {
    test: &'static str,
    blocks: VecDeque<Block>,
}

/// Lets a test follow the blocks that the register gives it. It must take each of them.
pub fn walk<T>(test: &'static str, follow: impl FnOnce(&mut Walk) -> Result<T>) -> Result<T> {
    let ours = entries()?.into_iter().filter(|(_, fate)| matches!(fate, Fate::By(by) if *by == test));
    let mut walk = Walk { test, blocks: ours.map(|(block, _)| block).collect() };
    ensure!(!walk.blocks.is_empty(), "integration/src/pages/register.rs gives no block to {test}");
    let outcome = follow(&mut walk)?;
    match walk.blocks.front() {
        None => Ok(outcome),
        Some(left) => bail!("{test} has not followed {left}"),
    }
}

impl Walk {
    /// The next block, which begins like this.
    pub fn next(&mut self, beginning: &str) -> Result<Block> {
        let block = self.blocks.pop_front();
        let block = block.with_context(|| format!("{} has no block {beginning:?} any more", self.test))?;
        ensure!(block.text.starts_with(beginning), "{block} does not begin with {beginning:?}");
        eprintln!("{block}");
        Ok(block)
    }
}

/// A block of a page, whoever follows it.
pub fn block(page: &str, beginning: &str) -> Result<Block> {
    all_blocks()
        .find(|block| block.page == page && block.text.starts_with(beginning))
        .with_context(|| format!("{page} has no block that begins with {beginning:?}"))
}

fn all_blocks() -> impl Iterator<Item = Block> {
    PAGES.iter().flat_map(|page| parse(page.name, page.text))
}

/// Each block of the pages with what the register says of it. Fails where the two do not agree.
fn entries() -> Result<Vec<(Block, Fate)>> {
    let mut entries = Vec::new();
    for page in PAGES {
        let mut register = page.blocks.iter();
        for block in parse(page.name, page.text) {
            match register.next() {
                Some((_, Fate::Not(""))) => bail!("no test follows {block}, for no reason: {MEND}"),
                Some((beginning, fate)) if block.text.starts_with(beginning) => entries.push((block, *fate)),
                Some((beginning, _)) => bail!("{block} stands where the register has {beginning:?}: {MEND}"),
                None => bail!("no test follows {block}: {MEND}"),
            }
        }
        if let Some((beginning, _)) = register.next() {
            bail!("{} has no block {beginning:?}: {MEND}", page.name);
        }
    }
    Ok(entries)
}

/// What to do about a block that is not known.
const MEND: &str =
    "let an end-to-end test follow every block, and enter it in integration/src/pages/register.rs";

impl Block {
    /// Writes another text into the page.
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
