//! The imports between the files of a crate: `use` statements and paths in code, resolved to the file that defines
//! the module they name.
//!
//! A path counts for the module that it names, not for the module that an item is re-exported from. Code under
//! `#[cfg(test)]` is left out.

use anyhow::{Context, Result};
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use std::collections::BTreeMap;
use std::str::FromStr as _;

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
    let mut modules = Modules { sources, files: BTreeMap::new(), aliases: BTreeMap::new(), uses: Vec::new() };
    modules.read(root, &directory(root), Vec::new())?;
    Ok(modules.imports())
}

fn directory(file: &str) -> String {
    file.rsplit_once('/').map_or_else(String::new, |(directory, _)| directory.to_owned())
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
    /// The file of each module.
    files: BTreeMap<Path, String>,
    /// The paths of imported names, by module and name.
    aliases: BTreeMap<(Path, String), Path>,
    uses: Vec<Use>,
}

/// The module that code belongs to.
#[derive(Clone)]
struct Scope {
    file: String,
    /// Where the files of child modules are.
    directory: String,
    module: Path,
}

impl Modules<'_> {
    fn read(&mut self, file: &str, directory: &str, module: Path) -> Result<()> {
        let Some(text) = self.sources.get(file) else { return Ok(()) };
        let failed = |error| anyhow::anyhow!("could not parse {file}: {error}");
        let tokens = TokenStream::from_str(text).map_err(failed)?;
        self.files.insert(module.clone(), file.to_owned());
        let scope = Scope { file: file.to_owned(), directory: directory.to_owned(), module };
        self.scan(tokens, &scope).with_context(|| format!("in {file}"))
    }

    fn scan(&mut self, tokens: TokenStream, scope: &Scope) -> Result<()> {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut rest = tokens.as_slice();
        while let Some((first, tail)) = rest.split_first() {
            rest = match first {
                TokenTree::Punct(punct) if punct.as_char() == '#' && is_test_only(tail) => skip_item(tail),
                TokenTree::Ident(ident) if ident == "mod" => self.module(tail, scope)?,
                TokenTree::Ident(ident) if ident == "use" && !is_punct(tail.first(), '<') => {
                    let (tree, tail) = split_at_punct(tail, ';');
                    self.use_tree(tree, Vec::new(), scope);
                    tail
                }
                TokenTree::Ident(_) => self.path(rest, scope),
                TokenTree::Group(group) => {
                    self.scan(group.stream(), scope)?;
                    tail
                }
                _ => tail,
            };
        }
        Ok(())
    }

    /// Reads the module that `mod` declares. Returns the tokens after it.
    fn module<'t>(&mut self, tokens: &'t [TokenTree], scope: &Scope) -> Result<&'t [TokenTree]> {
        let [TokenTree::Ident(name), body, rest @ ..] = tokens else { return Ok(tokens) };
        let name = name.to_string();
        let module = joined(&scope.module, &name);
        let directory = format!("{}/{name}", scope.directory);
        if let TokenTree::Group(group) = body {
            self.files.insert(module.clone(), scope.file.clone());
            self.scan(group.stream(), &Scope { module, directory, ..scope.clone() })?;
        } else {
            self.read(&format!("{directory}.rs"), &directory, module)?;
        }
        Ok(rest)
    }

    /// Records the paths of a `use` statement.
    fn use_tree(&mut self, tokens: &[TokenTree], mut path: Path, scope: &Scope) {
        let mut alias = None;
        for (at, token) in tokens.iter().enumerate() {
            match token {
                TokenTree::Ident(ident) if ident == "as" => {
                    alias = tokens.get(at + 1).map(ToString::to_string);
                    break;
                }
                TokenTree::Ident(ident) if ident == "self" && !path.is_empty() => {}
                TokenTree::Ident(ident) => path.push(ident.to_string()),
                TokenTree::Group(group) => {
                    let tokens: Vec<TokenTree> = group.stream().into_iter().collect();
                    for tree in tokens.split(|token| is_punct(Some(token), ',')) {
                        self.use_tree(tree, path.clone(), scope);
                    }
                    return;
                }
                _ => {}
            }
        }
        let (Some(token), Some(name)) = (tokens.first(), alias.or_else(|| path.last().cloned())) else {
            return;
        };
        let line = token.span().start().line;
        self.aliases.insert((scope.module.clone(), name), path.clone());
        self.uses.push(Use { module: scope.module.clone(), line, path });
    }

    /// Records a path in code. Returns the tokens after it.
    fn path<'t>(&mut self, tokens: &'t [TokenTree], scope: &Scope) -> &'t [TokenTree] {
        let [TokenTree::Ident(first), rest @ ..] = tokens else { return tokens };
        let mut path = vec![first.to_string()];
        let mut rest = rest;
        while let [colon, second, TokenTree::Ident(next), tail @ ..] = rest
            && is_punct(Some(colon), ':')
            && is_punct(Some(second), ':')
        {
            path.push(next.to_string());
            rest = tail;
        }
        if path.len() > 1 {
            self.uses.push(Use { module: scope.module.clone(), line: first.span().start().line, path });
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

fn is_punct(token: Option<&TokenTree>, expected: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == expected)
}

fn split_at_punct(tokens: &[TokenTree], end: char) -> (&[TokenTree], &[TokenTree]) {
    let at = tokens.iter().position(|token| is_punct(Some(token), end)).unwrap_or(tokens.len());
    (&tokens[..at], tokens.get(at + 1..).unwrap_or_default())
}

/// Whether an attribute, without its `#`, is a `cfg` that only holds in tests.
fn is_test_only(attribute: &[TokenTree]) -> bool {
    let Some(TokenTree::Group(group)) = attribute.iter().find(|token| !is_punct(Some(token), '!')) else {
        return false;
    };
    let text = group.stream().to_string().replace(' ', "");
    text.starts_with("cfg(")
        && !text.contains("not(")
        && text.split(|c: char| !c.is_alphanumeric()).any(|word| word == "test")
}

/// Returns the tokens after the item, field or statement that an attribute, without its `#`, belongs to. An inner
/// attribute belongs to everything that follows.
fn skip_item(attribute: &[TokenTree]) -> &[TokenTree] {
    let mut rest = attribute;
    if is_punct(rest.first(), '!') {
        return &[];
    }
    let mut ends_at_brace = false;
    let mut is_value = false;
    while let Some((token, tail)) = rest.split_first() {
        rest = tail;
        match token {
            TokenTree::Ident(word) => match word.to_string().as_str() {
                "fn" | "mod" | "impl" | "struct" | "enum" | "trait" | "macro_rules" => ends_at_brace = true,
                "use" | "static" | "const" | "type" | "let" => is_value = true,
                _ => {}
            },
            TokenTree::Punct(punct) if punct.as_char() == ';' => break,
            TokenTree::Punct(punct) if punct.as_char() == ',' && !ends_at_brace && !is_value => break,
            TokenTree::Group(group)
                if group.delimiter() == Delimiter::Brace && (ends_at_brace || !is_value) =>
            {
                break;
            }
            _ => {}
        }
    }
    rest
}
