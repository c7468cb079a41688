//! The command-line grammar of Go's `flag` package, which existing unit files and manifests are written
//! for, and its number syntax.

use super::table::flags;
use super::{CliError, Warning};
use crate::flag::{Flag, Kind};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::ops::RangeInclusive;
use strsim::osa_distance;

/// The origin of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    CommandLine,
    Environment,
    Default,
}

/// A flag with its value as text.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) flag: &'static Flag,
    pub(super) origin: Origin,
    pub(super) text: String,
}

impl Setting {
    /// Returns the name that the user wrote: `--etcd-prefix` or `FLANNELD_ETCD_PREFIX`.
    pub(super) fn name(&self) -> String {
        match self.origin {
            Origin::Environment => self.flag.variable(),
            Origin::CommandLine | Origin::Default => self.flag.dashed(),
        }
    }

    /// The text is not shown: a password, or a list of endpoints that contains one.
    pub(super) fn is_secret(&self) -> bool {
        self.flag.kind == Kind::Secret || (self.flag.name == "etcd-endpoints" && self.text.contains('@'))
    }

    /// Returns the error that this value breaks `rule`. `example` is a valid value.
    pub(super) fn wrong(&self, rule: &str, example: &str) -> CliError {
        let (name, value) = (self.name(), if self.is_secret() { HIDDEN } else { &self.text });
        CliError::usage(format!("{name} is {value:?}, but must be {rule}; for example {name}={example}"))
    }

    /// The value of a [`Kind::Switch`].
    pub(super) fn switch(&self) -> Result<bool, CliError> {
        match self.text.as_str() {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
            "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
            _ => Err(self.wrong("true or false", "true")),
        }
    }

    /// The value of a [`Kind::Integer`] or [`Kind::Level`].
    pub(super) fn integer(&self, range: RangeInclusive<i64>, rule: &str) -> Result<i64, CliError> {
        let number = match self.flag.kind {
            Kind::Level => self.text.parse().ok(),
            _ => parse_integer(&self.text),
        };
        number.filter(|number| range.contains(number)).ok_or_else(|| self.wrong(rule, self.flag.default))
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = if self.is_secret() { HIDDEN } else { &self.text };
        write!(f, "{}={text}", self.name())
    }
}

pub(super) const HIDDEN: &str = "[hidden]";

/// The given flags, and the words after the last of them.
#[derive(Debug, Default)]
pub(super) struct Given {
    settings: BTreeMap<&'static str, Vec<Setting>>,
    /// About the word that ended the flags. Compatibility: Go ignores it and the flags after it.
    pub(super) ignored: Option<Warning>,
}

/// Parses a command line (without the program name). `None` is a request for help: `-h` or `-help`.
pub(super) fn parse(mut args: impl Iterator<Item = OsString>) -> Result<Option<Given>, CliError> {
    let mut given = Given::default();
    let mut previous: Option<&'static Flag> = None;
    while let Some(word) = args.next() {
        let word = readable(word)?;
        let Some(body) = flag_body(&word) else {
            given.ignored = ignored(word, previous, args);
            break;
        };
        let (name, value) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (body, None),
        };
        if name.is_empty() || name.starts_with('-') {
            // Without the value: it may be secret.
            let (shown, _) = word.split_once('=').unwrap_or((&word, ""));
            return Err(CliError::usage(format!(
                "{shown:?} is not a flag: use -name or --name, and a value after '='"
            )));
        }
        let Some(flag) = flags().find(|flag| flag.name == name) else {
            if matches!(name, "h" | "help") {
                return Ok(None);
            }
            let fix = match nearest(name) {
                Some(nearest) => format!("did you mean --{nearest}?"),
                None => "flanneld --help lists all flags".to_owned(),
            };
            return Err(CliError::usage(format!("unknown flag --{name}: {fix}")));
        };
        let text = match (value, flag.kind) {
            (Some(value), _) => value,
            (None, Kind::Switch) => "true".to_owned(),
            (None, _) => match args.next() {
                Some(next) => readable(next)?,
                None => {
                    let Flag { name, value, .. } = flag;
                    return Err(CliError::usage(format!("--{name} needs a value: --{name}={value}")));
                }
            },
        };
        let setting = Setting { flag, origin: Origin::CommandLine, text };
        let settings = given.settings.entry(flag.name).or_default();
        if flag.kind != Kind::List {
            settings.clear();
        }
        settings.push(setting);
        previous = Some(flag);
    }
    Ok(Some(given))
}

fn readable(word: OsString) -> Result<String, CliError> {
    word.into_string().map_err(|word| {
        // Without the value: it may be secret.
        let word = word.to_string_lossy();
        let shown = word.split('=').next().filter(|name| name.starts_with('-')).unwrap_or("a word");
        CliError::usage(format!("{shown:?} is not valid UTF-8"))
    })
}

/// Returns the word without its one or two dashes; `None` if it ends the flags.
fn flag_body(word: &str) -> Option<&str> {
    let body = word.strip_prefix('-').filter(|body| !body.is_empty() && *body != "-")?;
    Some(body.strip_prefix('-').unwrap_or(body))
}

fn ignored(
    word: String,
    previous: Option<&'static Flag>,
    rest: impl Iterator<Item = OsString>,
) -> Option<Warning> {
    // Without their values, which may be secret.
    let flags: Vec<String> = rest
        .filter_map(|word| {
            let word = word.to_string_lossy();
            flag_body(&word)?;
            word.split('=').next().map(str::to_owned)
        })
        .collect();
    let boolean = matches!(word.to_ascii_lowercase().as_str(), "true" | "false" | "t" | "f" | "1" | "0");
    let value_of = previous.filter(|flag| boolean && flag.kind == Kind::Switch).map(|flag| flag.name);
    if word == "--" && flags.is_empty() {
        return None;
    }
    // Possibly the end of a password that the shell split at a space.
    let word = if previous.is_some_and(|flag| flag.kind == Kind::Secret) { HIDDEN.to_owned() } else { word };
    let mut reason = "not a flag; ends the command line".to_owned();
    if !flags.is_empty() {
        reason = format!("{reason}, so these are ignored: {}", flags.join(" "));
    }
    if let Some(flag) = value_of {
        reason = format!("{reason}; use --{flag}={word}");
    }
    Some(Warning { setting: word, reason })
}

impl Given {
    /// Adds the variables of flags that are not on the command line. A list is one element there.
    pub(super) fn add_environment(&mut self, env: impl Fn(&str) -> Option<String>) {
        for flag in flags() {
            if self.settings.contains_key(flag.name) {
                continue;
            }
            if let Some(text) = env(&flag.variable()).filter(|text| !text.is_empty()) {
                self.settings.insert(flag.name, vec![Setting { flag, origin: Origin::Environment, text }]);
            }
        }
    }

    /// Returns the settings of a flag, in order; none if it has its default.
    pub(super) fn all(&self, name: &str) -> &[Setting] {
        self.settings.get(name).map_or(&[], Vec::as_slice)
    }

    /// Returns all settings, in the order of flag names.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Setting> {
        self.settings.values().flatten()
    }
}

/// An integer as Go's `strconv.ParseInt(text, 0, 64)` reads it.
pub(super) fn parse_integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    };
    let prefix = digits.get(..2).map(str::to_ascii_lowercase);
    let (radix, number) = match prefix.as_deref() {
        Some("0x") => (16, &digits[2..]),
        Some("0o") => (8, &digits[2..]),
        Some("0b") => (2, &digits[2..]),
        // "0" and "0_" included: Go then reads octal digits.
        _ if digits.len() > 1 && digits.starts_with('0') => (8, &digits[1..]),
        _ => (10, digits),
    };
    // An underscore stands between two digits; a prefix counts as a digit.
    let prefixed = number.len() < digits.len();
    let body = if prefixed { number.strip_prefix('_').unwrap_or(number) } else { number };
    if body.is_empty() || body.starts_with('_') || body.ends_with('_') || body.contains("__") {
        return None;
    }
    let plain = body.replace('_', "");
    if !plain.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    let magnitude = i128::from(u64::from_str_radix(&plain, radix).ok()?);
    i64::try_from(if negative { -magnitude } else { magnitude }).ok()
}

/// Returns the flag that was probably meant.
fn nearest(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase().replace('_', "-");
    let begun: Vec<&Flag> = flags().filter(|flag| flag.name.starts_with(&name)).collect();
    if let [only] = begun[..] {
        return Some(only.name);
    }
    flags()
        .map(|flag| (osa_distance(&name, flag.name), flag.name))
        .min()
        .filter(|(distance, flag)| *distance <= (flag.len().min(name.len()) / 3).min(4))
        .map(|(_, flag)| flag)
}
