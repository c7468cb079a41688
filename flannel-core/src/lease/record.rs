//! Lease records: the JSON value under a key, byte for byte as Go writes it.

use serde_json::value::RawValue;
use std::net::{IpAddr, Ipv4Addr};

use super::LeaseAttrs;
use crate::json::{self, FieldError, Fields, Kind, ParseJsonError};

#[cfg(test)]
mod tests;

/// A record that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseRecordError {
    /// Not a JSON object.
    #[error("the lease record cannot be read")]
    Json(#[from] ParseJsonError),
    /// A value of a wrong type or form.
    #[error(transparent)]
    Field(#[from] FieldError),
}

impl LeaseAttrs {
    /// Writes the record. The order of members and what is left out are part of the format.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut out = format!("{{\"PublicIP\":\"{}\"", self.public_ip.unwrap_or(Ipv4Addr::UNSPECIFIED));
        out.push_str(",\"PublicIPv6\":");
        match self.public_ipv6 {
            Some(address) => json::write_string(&mut out, &address.to_string()),
            None => out.push_str("null"),
        }
        if !self.backend_type.is_empty() {
            out.push_str(",\"BackendType\":");
            json::write_string(&mut out, &self.backend_type);
        }
        for (key, data) in [("BackendData", &self.backend_data), ("BackendV6Data", &self.backend_v6_data)] {
            if let Some(data) = data {
                out.push_str(&format!(",\"{key}\":{}", json::compact(data)));
            }
        }
        out.push('}');
        out
    }

    /// Reads a record with Go's tolerance. Backend data is kept in the form in which it would be written again.
    pub fn parse(value: &[u8]) -> Result<Self, ParseRecordError> {
        let text = String::from_utf8_lossy(value);
        let fields = Fields::parse(&text)?;
        let public_ip = fields.read_all("PublicIP", |value| {
            match address(value).map(|address| address.to_canonical()) {
                Some(IpAddr::V4(address)) => Ok(Some(address).filter(|address| !address.is_unspecified())),
                _ => Err("must be an IPv4 address such as \"192.168.64.3\""),
            }
        })?;
        let public_ipv6 = fields.read_all("PublicIPv6", |value| match address(value) {
            _ if Kind::of(value) == Kind::Null => Ok(None),
            Some(IpAddr::V6(address)) => Ok(Some(address).filter(|address| !address.is_unspecified())),
            // Compatibility: Go takes it for a mapped address.
            Some(IpAddr::V4(address)) => Ok(Some(address.to_ipv6_mapped())),
            None => Err("must be null or an IPv6 address such as \"fd00::3\""),
        })?;
        Ok(Self {
            public_ip,
            public_ipv6,
            backend_type: fields.string("BackendType")?.unwrap_or_default(),
            backend_data: fields.last("BackendData").and_then(compacted),
            backend_v6_data: fields.last("BackendV6Data").and_then(compacted),
        })
    }
}

fn address(value: &RawValue) -> Option<IpAddr> {
    json::string(value)?.parse().ok()
}

/// Returns the form in which Go writes a value again.
pub(crate) fn compacted(value: &RawValue) -> Option<Box<RawValue>> {
    RawValue::from_string(json::compact(value)).ok()
}
