//! Versions of the CNI protocol.

use flannel_core::json::{GoStruct, Object, Value};
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

impl Version {
    pub(crate) const ALL: [Self; 7] =
        [Self::V0_1_0, Self::V0_2_0, Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];
    pub(crate) const NEWEST: Self = Self::V1_1_0;

    /// Returns the versions from this one on.
    pub(crate) fn since(oldest: Self) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |version| *version >= oldest)
    }

    /// Returns the version of exactly this text; an empty text is 0.1.0.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::V0_1_0);
        }
        Self::ALL.into_iter().find(|version| version.as_str() == text)
    }

    pub(crate) const fn as_str(self) -> &'static str {
        ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"][self as usize]
    }

    /// Whether results have one address of each family, in `ip4` and `ip6`.
    pub(crate) fn is_legacy(self) -> bool {
        self < Self::V0_3_0
    }

    /// Whether results have sorted keys and no IP version in addresses.
    pub(crate) fn is_current(self) -> bool {
        self >= Self::V1_0_0
    }

    /// Whether results of the other version have the same shape.
    pub(crate) fn has_shape_of(self, other: Self) -> bool {
        (self.is_legacy(), self.is_current()) == (other.is_legacy(), other.is_current())
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Returns the text of `cniVersion`.
pub(crate) fn text_of_config(config: &Object) -> Result<&str, CniError> {
    let text = GoStruct::new(config, "").string("cniVersion");
    text.map(Option::unwrap_or_default).map_err(|error| {
        CniError::new(Code::DecodingFailure, format!("decoding version from network config: {error}"))
    })
}

/// Returns the version of a config, if a plugin supports it that supports all since `oldest`.
pub(crate) fn of_config(config: &Object, oldest: Version) -> Result<Version, CniError> {
    let text = text_of_config(config)?;
    Version::parse(text).filter(|version| *version >= oldest).ok_or_else(|| {
        let supported: Vec<_> = Version::since(oldest).map(|version| format!("\"{version}\"")).collect();
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
pub(crate) fn answer(oldest: Version) -> String {
    let supported: Vec<Value> = Version::since(oldest).map(|version| Value::from(version.as_str())).collect();
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
