//! Typed access to the members of an object, with the rules and errors of Go's decoder.

use std::str::FromStr;

use super::{Object, TypeError, Value};

/// An object read as a Go struct: names in any case, the last of several members counts, `null` counts as absent.
#[derive(Clone, Copy, Debug)]
pub struct GoStruct<'a> {
    object: &'a Object,
    path: &'a str,
}

impl<'a> GoStruct<'a> {
    /// Wraps `object`; errors name its members `path.member`.
    #[must_use]
    pub const fn new(object: &'a Object, path: &'a str) -> Self {
        Self { object, path }
    }

    /// Wraps `value`, which must be an object; the error names it `path` and the Go type `wanted`.
    pub fn of(value: &'a Value, path: &'a str, wanted: &'static str) -> Result<Self, TypeError> {
        let object = value.as_object().ok_or_else(|| value.type_error(path, wanted))?;
        Ok(Self { object, path })
    }

    /// Returns the path that errors begin with.
    #[must_use]
    pub const fn path(&self) -> &'a str {
        self.path
    }

    /// Reads a member with `take`, which returns `None` for a value that is not of the Go type `wanted`.
    pub fn read<T>(
        &self,
        name: &str,
        wanted: &'static str,
        take: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, TypeError> {
        let Some(value) = self.object.field(name) else { return Ok(None) };
        take(value).map(Some).ok_or_else(|| value.type_error(&format!("{}.{name}", self.path), wanted))
    }

    /// Reads a string.
    pub fn string(&self, name: &str) -> Result<Option<&'a str>, TypeError> {
        self.read(name, "string", Value::as_str)
    }

    /// Reads a boolean.
    pub fn bool(&self, name: &str) -> Result<Option<bool>, TypeError> {
        self.read(name, "bool", Value::as_bool)
    }

    /// Reads an integer of the Go type `wanted`, without fraction or exponent.
    pub fn integer<T: FromStr>(&self, name: &str, wanted: &'static str) -> Result<Option<T>, TypeError> {
        self.read(name, wanted, Value::as_integer)
    }

    /// Reads an object of the Go type `wanted`.
    pub fn object(&self, name: &str, wanted: &'static str) -> Result<Option<&'a Object>, TypeError> {
        self.read(name, wanted, Value::as_object)
    }

    /// Reads the elements of an array of the Go type `wanted`; empty if it is absent.
    pub fn array(&self, name: &str, wanted: &'static str) -> Result<&'a [Value], TypeError> {
        Ok(self.read(name, wanted, Value::as_array)?.unwrap_or_default())
    }
}
