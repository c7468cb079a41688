//! Versions of the CNI protocol.

use flannel_core::json::{Object, Value};
use std::fmt;

use crate::error::{CniError, Code};

/// A supported version, in ascending order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    V0_1_0,
    V0_2_0,
    V0_3_0,
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

/// The shape of the results of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// `ip4` and `ip6`.
    Legacy,
    /// Lists, with the IP version in each address.
    Listed,
    /// Lists, sorted keys.
    Current,
}

impl Version {
    pub(crate) const ALL: [Self; 7] =
        [Self::V0_1_0, Self::V0_2_0, Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];
    pub(crate) const NEWEST: Self = Self::V1_1_0;

    /// Returns the version of exactly this text; an empty text is 0.1.0.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::V0_1_0);
        }
        Self::ALL.into_iter().find(|version| version.as_str() == text)
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    pub(crate) const fn shape(self) -> Shape {
        match self {
            Self::V0_1_0 | Self::V0_2_0 => Shape::Legacy,
            Self::V0_3_0 | Self::V0_3_1 | Self::V0_4_0 => Shape::Listed,
            Self::V1_0_0 | Self::V1_1_0 => Shape::Current,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Returns the text of `cniVersion`.
pub(crate) fn text_of_config(config: &Object) -> Result<&str, CniError> {
    match config.field("cniVersion") {
        None => Ok(""),
        Some(Value::String(text)) => Ok(text),
        Some(other) => {
            let error = other.type_error(".cniVersion", "string");
            let msg = format!("decoding version from network config: {error}");
            Err(CniError::new(Code::DecodingFailure, msg))
        }
    }
}

/// Returns the version of a config, if it is supported.
pub(crate) fn of_config(config: &Object) -> Result<Version, CniError> {
    let text = text_of_config(config)?;
    Version::parse(text).ok_or_else(|| {
        let supported: Vec<_> = Version::ALL.iter().map(|version| format!("\"{version}\"")).collect();
        CniError::new(Code::IncompatibleVersion, "incompatible CNI versions")
            .with_details(format!("config is {text:?}, plugin supports [{}]", supported.join(" ")))
    })
}

/// Fails if the version of the config does not have a command.
pub(crate) fn require(config: &Object, command: &str, least: Version) -> Result<(), CniError> {
    let wanted = numbers(text_of_config(config)?)?;
    let msg = if wanted < numbers(least.as_str())? {
        format!("config version does not allow {command}")
    } else if wanted > numbers(Version::NEWEST.as_str())? {
        format!("plugin version does not allow {command}")
    } else {
        return Ok(());
    };
    Err(CniError::new(Code::IncompatibleVersion, msg))
}

/// Parses major, minor and patch; missing parts are 0, an empty text is 0.1.0.
fn numbers(text: &str) -> Result<[u32; 3], CniError> {
    let text = if text.is_empty() { "0.1.0" } else { text };
    let error =
        |rule: &str| CniError::new(Code::DecodingFailure, format!("invalid version {text:?}: {rule}"));
    let mut numbers = [0; 3];
    for (at, part) in text.split('.').enumerate() {
        let slot = numbers.get_mut(at).ok_or_else(|| error("too many parts, at most three are allowed"))?;
        *slot = part.parse().map_err(|_| error("its parts must be numbers"))?;
    }
    Ok(numbers)
}

/// Returns the reply to VERSION, in one line.
pub(crate) fn answer() -> String {
    let supported: Vec<Value> = Version::ALL.iter().map(|version| Value::from(version.as_str())).collect();
    let answer: Object = [
        ("cniVersion", Value::from(Version::NEWEST.as_str())),
        ("supportedVersions", Value::Array(supported)),
    ]
    .into_iter()
    .collect();
    format!("{}\n", Value::Object(answer).to_compact())
}

#[cfg(test)]
mod tests;
