//! The imports between the files of a crate: `use` statements and paths in code, resolved to the file that defines
//! the module they name.
//!
//! A path counts for the module that it names, not for the module that an item is re-exported from. Code under
//! `#[cfg(test)]` is left out.

use anyhow::{Result, anyhow};
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use std::collections::BTreeMap;
use std::str::FromStr as _;

/// The names of a path, or of a module from the root of the crate.
type Path = Vec<String>;

/// An import of one file by another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Import {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) line: usize,
    /// The path in the code.
    pub(super) path: String,
}

/// Returns the imports between the files of the crate with this root file. A module and its descendants may refer to
/// each other, so imports between them are left out.
pub(super) fn of_crate(root: &str, sources: &BTreeMap<String, String>) -> Result<Vec<Import>> {
    let directory = root.rsplit_once('/').map_or("", |(directory, _)| directory);
    let (files, aliases) = (BTreeMap::new(), BTreeMap::new());
    let mut modules = Modules { sources, directory, files, aliases, uses: Vec::new() };
    modules.read(root.to_owned(), &[])?;
    Ok(modules.imports())
}

/// A path as it is written in a module.
struct Use {
    module: Path,
    line: usize,
    path: Path,
}

/// The module tree of a crate.
struct Modules<'a> {
    sources: &'a BTreeMap<String, String>,
    /// The directory of the root file.
    directory: &'a str,
    /// The file of each module.
    files: BTreeMap<Path, String>,
    /// The paths of imported names, by module and name.
    aliases: BTreeMap<(Path, String), Path>,
    uses: Vec<Use>,
}

impl Modules<'_> {
    fn read(&mut self, file: String, module: &[String]) -> Result<()> {
        let Some(text) = self.sources.get(&file) else { return Ok(()) };
        let tokens =
            TokenStream::from_str(text).map_err(|error| anyhow!("could not parse {file}: {error}"))?;
        self.files.insert(module.to_vec(), file);
        self.scan(tokens, module)
    }

    fn scan(&mut self, tokens: TokenStream, module: &[String]) -> Result<()> {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut rest = tokens.as_slice();
        while let Some((first, tail)) = rest.split_first() {
            rest = match first {
                TokenTree::Punct(punct) if punct.as_char() == '#' && is_test_only(tail) => skip_item(tail),
                TokenTree::Ident(ident) if ident == "mod" => self.module(tail, module)?,
                TokenTree::Ident(ident) if ident == "use" => self.path(tail, &[], module, true),
                TokenTree::Ident(_) => self.path(rest, &[], module, false),
                TokenTree::Group(group) => {
                    self.scan(group.stream(), module)?;
                    tail
                }
                _ => tail,
            };
        }
        Ok(())
    }

    /// Reads the module that `mod` declares. Returns the tokens after it.
    fn module<'t>(&mut self, tokens: &'t [TokenTree], parent: &[String]) -> Result<&'t [TokenTree]> {
        let [TokenTree::Ident(name), body, rest @ ..] = tokens else { return Ok(tokens) };
        let module = joined(parent, &name.to_string());
        if let TokenTree::Group(group) = body {
            self.files.insert(module.clone(), self.file(parent).to_owned());
            self.scan(group.stream(), &module)?;
        } else {
            self.read(format!("{}/{}.rs", self.directory, module.join("/")), &module)?;
        }
        Ok(rest)
    }

    /// Records the path that the tokens begin with; in a `use` statement all paths of the tree, and the names that they
    /// define. Returns the tokens after it.
    fn path<'t>(
        &mut self,
        tokens: &'t [TokenTree],
        prefix: &[String],
        module: &[String],
        is_use: bool,
    ) -> &'t [TokenTree] {
        let (mut path, mut rest) = (prefix.to_vec(), tokens);
        loop {
            match rest {
                [TokenTree::Ident(name), tail @ ..] => {
                    rest = tail;
                    if name != "self" || path.is_empty() {
                        path.push(name.to_string());
                    }
                }
                [TokenTree::Group(group), tail @ ..] if is_use => {
                    let trees: Vec<TokenTree> = group.stream().into_iter().collect();
                    for tree in trees.split(|token| is_punct(token, ',')) {
                        self.path(tree, &path, module, true);
                    }
                    return tail;
                }
                _ => break,
            }
            match rest {
                [first, second, tail @ ..] if is_punct(first, ':') && is_punct(second, ':') => rest = tail,
                _ => break,
            }
        }
        let (Some(first), Some(last)) = (tokens.first(), path.last()) else { return rest };
        if is_use {
            let name = match rest {
                [TokenTree::Ident(word), TokenTree::Ident(alias), ..] if word == "as" => alias.to_string(),
                _ => last.clone(),
            };
            self.aliases.insert((module.to_vec(), name), path.clone());
        }
        if is_use || path.len() > 1 {
            self.uses.push(Use { module: module.to_vec(), line: first.span().start().line, path });
        }
        rest
    }

    fn imports(&self) -> Vec<Import> {
        let mut imports = Vec::new();
        for Use { module, line, path } in &self.uses {
            let Some(target) = self.resolve(module, path, 0) else { continue };
            let (from, to) = (self.file(module), self.file(&target));
            if from != to && !self.is_below(from, to) && !self.is_below(to, from) {
                let (from, to, path) = (from.to_owned(), to.to_owned(), path.join("::"));
                imports.push(Import { from, to, line: *line, path });
            }
        }
        imports
    }

    /// The file that defines the innermost module of a path from the root of the crate.
    fn file(&self, path: &[String]) -> &str {
        (0..=path.len()).rev().find_map(|length| self.files.get(&path[..length])).map_or("", String::as_str)
    }

    /// Whether a file is a descendant of another in the module tree.
    fn is_below(&self, file: &str, other: &str) -> bool {
        let directory = other.strip_suffix(".rs").unwrap_or(other);
        other == self.file(&[]) || file.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
    }

    /// The path from the root of the crate, if it leads into the crate.
    fn resolve(&self, module: &Path, path: &[String], depth: usize) -> Option<Path> {
        let (first, rest) = path.split_first()?;
        let start = match first.as_str() {
            "crate" => Vec::new(),
            "self" => module.clone(),
            "super" => {
                let parent = module.split_last()?.1.to_vec();
                match rest.first().map(String::as_str) {
                    Some("super") => return self.resolve(&parent, rest, depth),
                    _ => parent,
                }
            }
            name if self.files.contains_key(&joined(module, name)) => joined(module, name),
            // Names of other crates may be their own alias: `use anyhow::anyhow`.
            _ if depth > 3 => return None,
            name => {
                let alias = self.aliases.get(&(module.clone(), name.to_owned()))?;
                self.resolve(module, alias, depth + 1)?
            }
        };
        Some([&start, rest].concat())
    }
}

fn joined(module: &[String], name: &str) -> Path {
    [module, &[name.to_owned()]].concat()
}

fn is_punct(token: &TokenTree, expected: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == expected)
}

/// Whether an attribute, without its `#`, is a `cfg` that only holds in tests.
fn is_test_only(attribute: &[TokenTree]) -> bool {
    let Some(TokenTree::Group(group)) = attribute.iter().find(|token| !is_punct(token, '!')) else {
        return false;
    };
    let text = group.stream().to_string().replace(' ', "");
    text.starts_with("cfg(")
        && !text.contains("not(")
        && text.split(|c: char| !c.is_alphanumeric()).any(|word| word == "test")
}

/// Returns the tokens after the item that an attribute, without its `#`, belongs to. The attribute of a field also hides
/// the fields after it, an inner attribute everything that follows.
fn skip_item(attribute: &[TokenTree]) -> &[TokenTree] {
    if attribute.first().is_some_and(|token| is_punct(token, '!')) {
        return &[];
    }
    let is_end = |token: &TokenTree| match token {
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        token => is_punct(token, ';'),
    };
    let end = attribute.iter().position(is_end).map_or(attribute.len(), |end| end + 1);
    &attribute[end..]
}
