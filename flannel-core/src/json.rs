//! JSON as Go's `encoding/json` reads and writes it: the format of the CNI protocol and of the files of Go flannel.
//!
//! Compatibility: members of structs are found by case-folded name ([`Object::field`]), members of maps by exact
//! name ([`Object::get`]); the last of several duplicates counts; invalid UTF-8 becomes U+FFFD; numbers in maps are IEEE
//! doubles.

use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter};
use serde_json::value::RawValue;
use serde_json::{Number, Serializer};
use std::fmt;

mod fields;
mod go_struct;

#[cfg(test)]
pub(crate) use fields::parse_value;
pub use fields::{FieldError, Fields, JsonSyntaxError, Kind, ParseJsonError, compact, string};
pub use go_struct::GoStruct;

/// A JSON value.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value {
    /// `null`
    #[default]
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number.
    Number(Number),
    /// A string.
    String(String),
    /// An array.
    Array(Vec<Value>),
    /// An object.
    Object(Object),
}

/// An object: its members in the order of the text, including duplicates.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Object(Vec<(String, Value)>);

/// A member or element of a wrong type; the text is Go's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("json: cannot unmarshal {found} into Go struct field {field} of type {wanted}")]
pub struct TypeError {
    /// The type that was found, in Go's words.
    pub found: String,
    /// The name of the struct and the path of the member.
    pub field: String,
    /// Go's name of the expected type.
    pub wanted: &'static str,
}

impl Value {
    /// Parses a text that consists of one value and white space.
    ///
    /// # Errors
    ///
    /// The first syntax error.
    pub fn parse(text: &[u8]) -> Result<Self, JsonSyntaxError> {
        Ok(serde_json::from_str(&String::from_utf8_lossy(text))?)
    }

    /// Returns Go's word for the type: `object`, `array`, `string`, `number`, `bool`, `null`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Number(_) => "number",
            Self::String(_) => "string",
            Self::Array(_) => "array",
            Self::Object(_) => "object",
        }
    }

    /// Returns the text of a string.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(text) = self { Some(text) } else { None }
    }

    /// Returns the elements of an array.
    #[must_use]
    pub fn as_array(&self) -> Option<&[Self]> {
        if let Self::Array(elements) = self { Some(elements) } else { None }
    }

    /// Returns the members of an object.
    #[must_use]
    pub const fn as_object(&self) -> Option<&Object> {
        if let Self::Object(object) = self { Some(object) } else { None }
    }

    /// Returns the value of a boolean.
    #[must_use]
    pub const fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(value) = self { Some(*value) } else { None }
    }

    /// Returns the value of a number whose literal is an integer without fraction or exponent.
    #[must_use]
    pub fn as_integer<T: std::str::FromStr>(&self) -> Option<T> {
        if let Self::Number(number) = self { number.to_string().parse().ok() } else { None }
    }

    /// Returns the error for a value that is not of the Go type `wanted`.
    #[must_use]
    pub fn type_error(&self, field: &str, wanted: &'static str) -> TypeError {
        // Go prints the literal of a number that is not an integer.
        let found = match self {
            Self::Number(number) if wanted.trim_start_matches('u').starts_with("int") => {
                format!("number {number}")
            }
            other => other.kind().to_owned(),
        };
        TypeError { found, field: field.to_owned(), wanted }
    }

    /// Sorts the members of all objects by name and removes duplicates, as Go writes a map.
    #[must_use]
    pub fn sorted(self) -> Self {
        match self {
            Self::Array(elements) => Self::Array(elements.into_iter().map(Self::sorted).collect()),
            Self::Object(object) => Self::Object(object.sorted()),
            other => other,
        }
    }

    /// Returns the text without white space.
    #[must_use]
    pub fn to_compact(&self) -> String {
        self.write(CompactFormatter)
    }

    /// Returns the text indented by four spaces, as CNI plugins print it.
    #[must_use]
    pub fn to_pretty(&self) -> String {
        self.write(PrettyFormatter::with_indent(b"    "))
    }

    fn write(&self, formatter: impl Formatter) -> String {
        let mut text = Vec::with_capacity(1 << 10);
        self.serialize(&mut Serializer::with_formatter(&mut text, formatter))
            .expect("memory takes every value, and numbers are valid JSON");
        let text = String::from_utf8(text).expect("serde_json writes UTF-8");
        // Few texts have characters to escape; 0xe2 begins the line separators.
        if !text.bytes().any(|byte| matches!(byte, b'<' | b'>' | b'&' | 0xe2)) {
            return text;
        }
        let mut out = String::with_capacity(text.len());
        fields::push_escaped(&mut out, &text);
        out
    }
}

impl Serialize for Value {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Number(number) => RawValue::from_string(go_float(number))
                .map_err(serde::ser::Error::custom)?
                .serialize(serializer),
            Self::String(text) => serializer.serialize_str(text),
            Self::Array(elements) => serializer.collect_seq(elements),
            Self::Object(object) => serializer.collect_map(object.iter()),
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

/// Collects a value with all members of its objects, including duplicates.
struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(element) = elements.next_element()? {
            array.push(element);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Vec::new();
        while let Some(member) = members.next_entry()? {
            object.push(member);
        }
        Ok(Value::Object(Object(object)))
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::String(text)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Number(value.into())
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::from(i64::from(value))
    }
}

impl From<Object> for Value {
    fn from(object: Object) -> Self {
        Self::Object(object)
    }
}

impl<T: Into<Self>> From<Vec<T>> for Value {
    fn from(elements: Vec<T>) -> Self {
        Self::Array(elements.into_iter().map(Into::into).collect())
    }
}

impl<T: Into<Self>> From<Option<T>> for Value {
    /// `None` is `null`.
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// Writes a number as Go writes a float64.
fn go_float(number: &Number) -> String {
    let Some(float) = number.as_f64() else { return number.to_string() };
    match float.abs() {
        0.0 => float.to_string(),
        // Unlike Rust, Go writes the sign of a positive exponent.
        1e21.. => format!("{float:e}").replace('e', "e+"),
        ..1e-6 => format!("{float:e}"),
        _ => float.to_string(),
    }
}

impl Object {
    /// Returns an object without members.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Returns the last member with exactly this name, as in a Go map.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().rev().find(|(member, _)| member == name).map(|(_, value)| value)
    }

    /// Returns the last member with this name in any case, as in a Go struct, where `null` does not change a field.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Value> {
        self.fields(name).filter(|value| **value != Value::Null).last()
    }

    /// Returns all members with this name in any case, including `null`, in the order of the text.
    pub fn fields<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = &'a Value> + use<'a, 'n> {
        self.0.iter().filter(move |(member, _)| folds_to(member, name)).map(|(_, value)| value)
    }

    /// Returns the string with this name in any case; empty if it is absent or of another type.
    #[must_use]
    pub fn text(&self, name: &str) -> &str {
        self.field(name).and_then(Value::as_str).unwrap_or_default()
    }

    /// Returns the object with this name in any case.
    #[must_use]
    pub fn object(&self, name: &str) -> Option<&Self> {
        self.field(name).and_then(Value::as_object)
    }

    /// Whether the member with this name in any case is `true`.
    #[must_use]
    pub fn is_true(&self, name: &str) -> bool {
        self.field(name).and_then(Value::as_bool).unwrap_or_default()
    }

    /// Sorts the members by name and removes duplicates; see [`Value::sorted`].
    #[must_use]
    pub fn sorted(self) -> Self {
        let members: std::collections::BTreeMap<_, _> = self.0.into_iter().collect();
        members.into_iter().map(|(name, value)| (name, value.sorted())).collect()
    }

    /// Sets a member, replacing those with exactly this name.
    pub fn insert(&mut self, name: &str, value: impl Into<Value>) {
        self.remove(name);
        self.0.push((name.to_owned(), value.into()));
    }

    /// Removes the members with exactly this name.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(member, _)| member != name);
    }

    /// Iterates over names and values in the order of the text.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Whether the object has no members.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<N: Into<String>, V: Into<Value>> FromIterator<(N, V)> for Object {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(members: I) -> Self {
        Self(members.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// Returns the name of a unit variant in JSON.
///
/// # Panics
/// If the value is not written as a string.
#[must_use]
pub fn name(variant: &impl Serialize) -> String {
    let Ok(serde_json::Value::String(name)) = serde_json::to_value(variant) else {
        panic!("only unit variants have a name")
    };
    name
}

/// Compares with an ASCII name by simple case folding. Two letters outside of ASCII fold to ASCII (Unicode CaseFolding.txt).
fn folds_to(member: &str, name: &str) -> bool {
    let fold = |c: char| match c {
        '\u{212a}' => 'k',
        '\u{17f}' => 's',
        other => other.to_ascii_lowercase(),
    };
    member.chars().map(fold).eq(name.chars().map(fold))
}

/// Writes a string in quotes, with Go's escapes.
pub(crate) fn write_string(out: &mut String, text: &str) {
    out.push_str(&Value::from(text).to_compact());
}

#[cfg(test)]
mod tests;
