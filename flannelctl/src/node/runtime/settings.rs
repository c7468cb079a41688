//! CNI settings of a container runtime, and what its files contain.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// CNI settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Directory of CNI configs; `None` if it is the default of the build.
    pub(crate) configs: Option<PathBuf>,
    /// Directories of CNI plugins; empty if they are the default of the build.
    pub(crate) plugins: Vec<PathBuf>,
    /// Name of the network, if it is not that of the first CNI config.
    pub(crate) network: Option<String>,
    /// Number of CNI configs that each pod gets, 0 for all; `None` if it is the default, 1.
    pub(crate) limit: Option<usize>,
}

/// What configuration files contain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) settings: Settings,
    /// The table of the settings.
    pub(crate) table: String,
    /// Settings that have no effect.
    pub(crate) ignored: Vec<Ignored>,
    /// Socket of the runtime, unless it is the default.
    pub(crate) socket: Option<PathBuf>,
    /// The files, in the order in which they are read.
    pub(crate) files: Vec<PathBuf>,
}

/// A CNI setting in a table that the runtime does not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ignored {
    pub(crate) file: PathBuf,
    pub(crate) table: String,
    pub(crate) key: String,
}

/// The reason why files cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("could not read {}", file.display())]
    Read { file: PathBuf, source: io::Error },
    #[error("{} is not TOML: line {line}: {reason}", file.display())]
    Syntax { file: PathBuf, line: usize, reason: String },
}

/// A parsed file.
pub(super) type File = (PathBuf, Table);

impl Settings {
    /// Whether a CNI config is used, by its position among the valid ones.
    pub(crate) fn admits(&self, position: usize) -> bool {
        match self.limit.unwrap_or(1) {
            0 => true,
            limit => position < limit,
        }
    }
}

/// Reads and parses a file; `None` if it does not exist.
pub(super) fn read(file: &Path) -> Result<Option<File>, FileError> {
    match fs::read(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(FileError::Read { file: file.to_owned(), source }),
        Ok(bytes) => parse(file, &bytes).map(Some),
    }
}

/// Parses the content of a file.
pub(super) fn parse(file: &Path, bytes: &[u8]) -> Result<File, FileError> {
    let syntax = |offset: usize, reason: String| {
        let line = bytes[..offset].iter().filter(|byte| **byte == b'\n').count() + 1;
        FileError::Syntax { file: file.to_owned(), line, reason }
    };
    let text = str::from_utf8(bytes).map_err(|error| syntax(error.valid_up_to(), error.to_string()))?;
    let table = text.parse().map_err(|error: toml::de::Error| {
        syntax(error.span().map_or(0, |span| span.start), error.message().to_owned())
    })?;
    Ok((file.to_owned(), table))
}

/// The files of a pattern in order. Only the last component may contain `*`.
pub(super) fn matching(pattern: &Path) -> Vec<PathBuf> {
    let Some(name) = pattern.file_name().and_then(|name| name.to_str()) else { return Vec::new() };
    let Some((before, after)) = name.split_once('*') else { return vec![pattern.to_owned()] };
    let directory = pattern.parent().unwrap_or(Path::new("/"));
    let names = crate::node::cni::names(directory).into_iter();
    let matching = names.filter(|(name, path)| {
        path.is_file()
            && name.len() >= before.len() + after.len()
            && name.starts_with(before)
            && name.ends_with(after)
    });
    matching.map(|(_, path)| path).collect()
}

/// Returns the keys of a file that the runtime ignores: those with one of these names in another than the right table,
/// if `is_section` holds for the path of the table.
pub(super) fn ignored(
    (file, table): &File,
    keys: &[&str],
    right: &[&str],
    is_section: impl Fn(&[&str]) -> bool,
) -> Vec<Ignored> {
    let mut ignored = Vec::new();
    each_key(table, &mut Vec::new(), &mut |path, key| {
        if keys.contains(&key) && path != right && is_section(path) {
            ignored.push(Ignored { file: file.clone(), table: header(path), key: key.to_owned() });
        }
    });
    ignored
}

/// Calls a function with every key that is not a table, and with the path of its table.
fn each_key<'a>(table: &'a Table, path: &mut Vec<&'a str>, found: &mut impl FnMut(&[&str], &str)) {
    for (key, value) in table {
        match value {
            Value::Table(table) => {
                path.push(key);
                each_key(table, path, found);
                path.pop();
            }
            _ => found(path, key),
        }
    }
}

/// A value at a path.
pub(super) fn at<'a>(table: &'a Table, path: &[&str]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(table.get(*first)?, |value, key| value.get(key))
}

pub(super) fn directory(value: &Value) -> Option<PathBuf> {
    value.as_str().filter(|path| !path.is_empty()).map(PathBuf::from)
}

pub(super) fn directories(value: &Value) -> Vec<PathBuf> {
    value.as_array().into_iter().flatten().filter_map(directory).collect()
}

/// The header of a table.
pub(super) fn header(path: &[&str]) -> String {
    let quoted = |name: &&str| match name.contains('.') {
        true => format!("\"{name}\""),
        false => (*name).to_owned(),
    };
    format!("[{}]", path.iter().map(quoted).collect::<Vec<_>>().join("."))
}
