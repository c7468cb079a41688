//! Members of an object with their values unread: for config and records, where values are strict, errors name
//! the key, and embedded JSON is kept as it was written.

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

use super::folds_to;

/// A text that is not the JSON that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseJsonError {
    /// Nothing but white space.
    #[error("the JSON text is empty; write at least {{}}")]
    Empty,
    /// Starts with U+FEFF, which JSON does not allow (RFC 8259 section 8.1).
    #[error("the JSON text starts with a byte order mark; save it as UTF-8 without one")]
    ByteOrderMark,
    /// Does not follow the grammar, or has something after its end.
    #[error("not valid JSON")]
    Syntax(#[source] JsonSyntaxError),
    /// Another kind of value at the top.
    #[error("the JSON text is {0}, but must be an object: {{ … }}")]
    NotAnObject(Kind),
}

/// What is wrong with a text, and at which line and column.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct JsonSyntaxError(String);

impl From<serde_json::Error> for JsonSyntaxError {
    fn from(error: serde_json::Error) -> Self {
        Self(error.to_string())
    }
}

/// A member whose value cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} is {value}: {rule}")]
pub struct FieldError {
    /// The key, with the keys of the objects around it (`Backend.VNI`).
    pub key: String,
    /// The value as it was written, or its kind where it is secret or long.
    pub value: String,
    /// What it must be, and what would be right.
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
    /// A string.
    String,
    /// An array.
    Array,
    /// An object.
    Object,
}

impl Kind {
    /// The kind of a value.
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

/// One `key: value` of an object.
#[derive(Clone, Debug)]
pub struct Member<'a> {
    /// The key, unescaped.
    pub key: Cow<'a, str>,
    /// The value as it was written.
    pub value: &'a RawValue,
}

/// An object as it was written: members in their order, duplicates kept, values unread.
///
/// The typed readers treat a key in any case as the same key, check every occurrence, let the last one win and
/// take `null` as "not given", as Go does for plain fields. [`Fields::last`] and [`Fields::exact`] are for fields with
/// other rules.
#[derive(Clone, Debug, Default)]
pub struct Fields<'a> {
    path: String,
    members: Vec<Member<'a>>,
}

impl<'a> Fields<'a> {
    /// Reads a whole text. A top-level `null` is an empty object, as for a Go struct.
    pub fn parse(text: &'a str) -> Result<Self, ParseJsonError> {
        let value = parse_value(text)?;
        Self::of(value).map_err(|kind| match kind {
            Ok(kind) => ParseJsonError::NotAnObject(kind),
            Err(error) => ParseJsonError::Syntax(error.into()),
        })
    }

    /// Reads the value of the member `key` of some object. The keys of the result are called `key.…` in errors.
    pub fn from_value(key: &str, value: &'a RawValue) -> Result<Self, FieldError> {
        let object = Self::of(value).map_err(|_| FieldError {
            key: key.to_owned(),
            // Not the text, which may hold secrets.
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

    /// All members in their order.
    #[must_use]
    pub fn members(&self) -> &[Member<'a>] {
        &self.members
    }

    /// All values under `key` in any case, in their order.
    pub fn all<'s>(&'s self, key: &'s str) -> impl Iterator<Item = &'a RawValue> + 's {
        self.members.iter().filter(move |member| folds_to(&member.key, key)).map(|member| member.value)
    }

    /// The last value under `key` in any case, `null` included.
    #[must_use]
    pub fn last(&self, key: &str) -> Option<&'a RawValue> {
        self.all(key).last()
    }

    /// The last value under exactly `key`, `null` included: the rule for Go maps.
    #[must_use]
    pub fn exact(&self, key: &str) -> Option<&'a RawValue> {
        self.members.iter().rev().find(|member| member.key == key).map(|member| member.value)
    }

    /// A boolean.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, FieldError> {
        self.read(key, |value| match value.get() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err("must be true or false, without quotes"),
        })
    }

    /// A string.
    pub fn string(&self, key: &str) -> Result<Option<String>, FieldError> {
        self.read(key, |value| string(value).ok_or("must be a string in double quotes"))
    }

    /// A string that must not be shown: errors tell its kind only.
    pub fn secret(&self, key: &str) -> Result<Option<String>, FieldError> {
        self.string(key).map_err(|error| FieldError {
            value: self.last(key).map_or_else(String::new, |value| Kind::of(value).to_string()),
            ..error
        })
    }

    /// An integer without sign, fraction or exponent.
    pub fn unsigned(&self, key: &str) -> Result<Option<u64>, FieldError> {
        // Rust reads a leading `+` as well, but JSON has none.
        self.read(key, |value| {
            value
                .get()
                .parse()
                .map_err(|_| "must be a whole number without sign, quotes, fraction or exponent")
        })
    }

    /// An integer without fraction or exponent.
    pub fn integer(&self, key: &str) -> Result<Option<i64>, FieldError> {
        self.read(key, |value| {
            value.get().parse().map_err(|_| "must be a whole number, without quotes, fraction or exponent")
        })
    }

    /// An object. Several occurrences are merged, as for a Go struct.
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

    /// The elements of an array.
    pub fn array(&self, key: &str) -> Result<Option<Vec<&'a RawValue>>, FieldError> {
        self.read(key, |value| array(value).ok_or("must be an array: [ … ]"))
    }

    /// An error about the value of `key`.
    #[must_use]
    pub fn error(&self, key: &str, value: &RawValue, rule: impl Into<String>) -> FieldError {
        FieldError::new(&self.path_of(key), value, rule)
    }

    /// How errors call the member `key`: with the keys of the objects around it.
    #[must_use]
    pub fn path_of(&self, key: &str) -> String {
        format!("{}{key}", self.path)
    }

    /// Reads every occurrence of `key` that is not `null` and answers with the last.
    pub fn read<T, R: Into<String>>(
        &self,
        key: &str,
        mut reader: impl FnMut(&'a RawValue) -> Result<T, R>,
    ) -> Result<Option<T>, FieldError> {
        let mut last = None;
        for value in self.all(key).filter(|value| Kind::of(value) != Kind::Null) {
            last = Some(reader(value).map_err(|rule| self.error(key, value, rule))?);
        }
        Ok(last)
    }
}

impl FieldError {
    /// An error about `value` under `key`. A long value is replaced by its kind.
    #[must_use]
    pub fn new(key: &str, value: &RawValue, rule: impl Into<String>) -> Self {
        let text = value.get();
        let value = if text.len() <= 200 { text.to_owned() } else { Kind::of(value).to_string() };
        Self { key: key.to_owned(), value, rule: rule.into() }
    }
}

/// Reads one value of any kind that fills the whole text.
pub fn parse_value(text: &str) -> Result<&RawValue, ParseJsonError> {
    if text.starts_with('\u{feff}') {
        return Err(ParseJsonError::ByteOrderMark);
    }
    if text.trim_matches([' ', '\t', '\r', '\n']).is_empty() {
        return Err(ParseJsonError::Empty);
    }
    serde_json::from_str(text).map_err(|error| ParseJsonError::Syntax(error.into()))
}

/// The text of a string value.
#[must_use]
pub fn string(value: &RawValue) -> Option<String> {
    (Kind::of(value) == Kind::String).then(|| serde_json::from_str(value.get()).ok())?
}

/// The elements of an array value.
#[must_use]
pub fn array(value: &RawValue) -> Option<Vec<&RawValue>> {
    (Kind::of(value) == Kind::Array).then(|| serde_json::from_str(value.get()).ok())?
}

/// Removes white space between the tokens of a value and escapes what Go escapes in embedded raw JSON. Escapes
/// in the text are kept.
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

/// The members of an object, as serde hands them over.
struct Members<'a>(Vec<Member<'a>>);

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
                while let Some(Key(key)) = map.next_key()? {
                    members.push(Member { key, value: map.next_value()? });
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
