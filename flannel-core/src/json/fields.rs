//! Members of an object with unparsed values: for config and records, whose values are strict, whose errors name the key,
//! and which keep embedded JSON as it was written.

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

use super::folds_to;

/// Not the expected JSON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseJsonError {
    /// Nothing but white space.
    #[error("the JSON text is empty; write at least {{}}")]
    Empty,
    /// Starts with U+FEFF, which JSON does not allow (RFC 8259 section 8.1).
    #[error("the JSON text starts with a byte order mark; save it as UTF-8 without one")]
    ByteOrderMark,
    /// Violates the grammar, or has text after the value.
    #[error("not valid JSON")]
    Syntax(#[source] JsonSyntaxError),
    /// A value of another kind.
    #[error("the JSON text is {0}, but must be an object: {{ … }}")]
    NotAnObject(Kind),
}

/// A syntax error with its line and column.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct JsonSyntaxError(String);

impl From<serde_json::Error> for JsonSyntaxError {
    fn from(error: serde_json::Error) -> Self {
        Self(error.to_string())
    }
}

/// A member with an invalid value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} is {value}: {rule}")]
pub struct FieldError {
    /// The key, with the keys of the objects around it (`Backend.VNI`).
    pub key: String,
    /// The value as it was written, or its kind if it is secret or long.
    pub value: String,
    /// What it must be, and how to correct it.
    pub rule: String,
}

/// The kinds of JSON values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool,
    /// A number.
    Number,
    /// Reads a string.
    String,
    /// An array.
    Array,
    /// An object.
    Object,
}

impl Kind {
    /// Returns the kind of a value.
    #[must_use]
    pub fn of(value: &RawValue) -> Self {
        match value.get().as_bytes().first() {
            Some(b'n') => Self::Null,
            Some(b't' | b'f') => Self::Bool,
            Some(b'"') => Self::String,
            Some(b'[') => Self::Array,
            Some(b'{') => Self::Object,
            _ => Self::Number,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Null => "null",
            Self::Bool => "a boolean",
            Self::Number => "a number",
            Self::String => "a string",
            Self::Array => "an array",
            Self::Object => "an object",
        })
    }
}

/// An object as it was written: members in their order, including duplicates, with unparsed values.
///
/// The typed readers ignore the case of a key, check every occurrence, return the last one and treat `null` as absent,
/// as Go does for plain fields. [`Fields::last`] is for fields with other rules.
#[derive(Clone, Debug, Default)]
pub struct Fields<'a> {
    path: String,
    /// Unescaped keys with their values as written.
    members: Vec<(Cow<'a, str>, &'a RawValue)>,
}

impl<'a> Fields<'a> {
    /// Parses a text. A top-level `null` is an empty object, as for a Go struct.
    pub fn parse(text: &'a str) -> Result<Self, ParseJsonError> {
        let value = parse_value(text)?;
        Self::of(value).map_err(|kind| match kind {
            Ok(kind) => ParseJsonError::NotAnObject(kind),
            Err(error) => ParseJsonError::Syntax(error.into()),
        })
    }

    /// Parses the value of the member `key`. Errors name its members `key.…`.
    pub fn from_value(key: &str, value: &'a RawValue) -> Result<Self, FieldError> {
        let object = Self::of(value).map_err(|_| FieldError {
            key: key.to_owned(),
            // Not the text, which may contain secrets.
            value: Kind::of(value).to_string(),
            rule: "must be an object: { … }".to_owned(),
        })?;
        Ok(Self { path: format!("{key}."), ..object })
    }

    fn of(value: &'a RawValue) -> Result<Self, Result<Kind, serde_json::Error>> {
        match Kind::of(value) {
            Kind::Null => Ok(Self::default()),
            Kind::Object => {
                let Members(members) = serde_json::from_str(value.get()).map_err(Err)?;
                Ok(Self { path: String::new(), members })
            }
            kind => Err(Ok(kind)),
        }
    }

    /// Returns all values of `key` in any case, in order.
    pub fn all<'s>(&'s self, key: &'s str) -> impl Iterator<Item = &'a RawValue> + 's {
        self.members.iter().filter(move |(name, _)| folds_to(name, key)).map(|(_, value)| *value)
    }

    /// Returns the last value of `key` in any case, including `null`.
    #[must_use]
    pub fn last(&self, key: &str) -> Option<&'a RawValue> {
        self.all(key).last()
    }

    /// Reads a boolean.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, FieldError> {
        self.read(key, |value| match value.get() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err("must be true or false, without quotes"),
        })
    }

    /// Reads a string.
    pub fn string(&self, key: &str) -> Result<Option<String>, FieldError> {
        self.read(key, |value| string(value).ok_or("must be a string in double quotes"))
    }

    /// Reads a secret string: errors only contain the kind of its value.
    pub fn secret(&self, key: &str) -> Result<Option<String>, FieldError> {
        self.string(key).map_err(|error| FieldError {
            value: self.last(key).map_or_else(String::new, |value| Kind::of(value).to_string()),
            ..error
        })
    }

    /// Reads an integer without sign, fraction or exponent.
    pub fn unsigned(&self, key: &str) -> Result<Option<u64>, FieldError> {
        // Rust accepts a leading `+`, which JSON does not have.
        self.read(key, |value| {
            value
                .get()
                .parse()
                .map_err(|_| "must be a whole number without sign, quotes, fraction or exponent")
        })
    }

    /// Reads an object. Several occurrences are merged, as for a Go struct.
    pub fn object(&self, key: &str) -> Result<Option<Self>, FieldError> {
        let path = self.path_of(key);
        let mut merged: Option<Self> = None;
        for value in self.all(key).filter(|value| Kind::of(value) != Kind::Null) {
            let next = Self::from_value(&path, value)?;
            match &mut merged {
                Some(object) => object.members.extend(next.members),
                None => merged = Some(next),
            }
        }
        Ok(merged)
    }

    /// Returns an error about `key`, whose value is described by `value`.
    #[must_use]
    pub fn error(&self, key: &str, value: impl Into<String>, rule: impl Into<String>) -> FieldError {
        FieldError { key: self.path_of(key), value: value.into(), rule: rule.into() }
    }

    /// Returns the name of the member `key` in errors, with the keys of the enclosing objects.
    #[must_use]
    fn path_of(&self, key: &str) -> String {
        format!("{}{key}", self.path)
    }

    /// Reads every occurrence of `key` that is not `null` and returns the last one.
    pub fn read<T, R: Into<String>>(
        &self,
        key: &str,
        mut reader: impl FnMut(&'a RawValue) -> Result<T, R>,
    ) -> Result<Option<T>, FieldError> {
        let mut last = None;
        for value in self.all(key).filter(|value| Kind::of(value) != Kind::Null) {
            last = Some(reader(value).map_err(|rule| self.rejected(key, value, rule))?);
        }
        Ok(last)
    }

    /// Reads every occurrence of `key`, including `null`, and returns the last one.
    pub fn read_all<T, R: Into<String>>(
        &self,
        key: &str,
        mut reader: impl FnMut(&'a RawValue) -> Result<Option<T>, R>,
    ) -> Result<Option<T>, FieldError> {
        let mut last = None;
        for value in self.all(key) {
            last = reader(value).map_err(|rule| self.rejected(key, value, rule))?;
        }
        Ok(last)
    }

    /// Returns the error about a value. A long one is replaced by its kind.
    fn rejected(&self, key: &str, value: &RawValue, rule: impl Into<String>) -> FieldError {
        let text = value.get();
        let shown = if text.len() <= 200 { text.to_owned() } else { Kind::of(value).to_string() };
        self.error(key, shown, rule)
    }
}

/// Parses a text that consists of one value.
pub(crate) fn parse_value(text: &str) -> Result<&RawValue, ParseJsonError> {
    if text.starts_with('\u{feff}') {
        return Err(ParseJsonError::ByteOrderMark);
    }
    if text.trim_matches([' ', '\t', '\r', '\n']).is_empty() {
        return Err(ParseJsonError::Empty);
    }
    serde_json::from_str(text).map_err(|error| ParseJsonError::Syntax(error.into()))
}

/// Returns the text of a string.
#[must_use]
pub fn string(value: &RawValue) -> Option<String> {
    (Kind::of(value) == Kind::String).then(|| serde_json::from_str(value.get()).ok())?
}

/// Removes white space between tokens and escapes what Go escapes in embedded raw JSON. Existing escapes are kept.
#[must_use]
pub fn compact(value: &RawValue) -> String {
    let mut out = String::with_capacity(value.get().len());
    let mut in_string = false;
    let mut escaped = false;
    for c in value.get().chars() {
        if in_string {
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
        } else if matches!(c, ' ' | '\t' | '\r' | '\n') {
            continue;
        } else {
            in_string = c == '"';
        }
        push_escaped(&mut out, c.encode_utf8(&mut [0; 4]));
    }
    out
}

/// Appends JSON text. Escapes the characters that are safe in JSON but not in HTML or JavaScript; they only occur in strings.
pub(super) fn push_escaped(out: &mut String, text: &str) {
    for c in text.chars() {
        if matches!(c, '<' | '>' | '&' | '\u{2028}' | '\u{2029}') {
            out.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            out.push(c);
        }
    }
}

/// The members of an object, deserialized in order.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some((Key(key), value)) = map.next_entry()? {
                    members.push((key, value));
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Collect)
    }
}

/// A key, borrowed from the text unless it has escapes.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests;
