//! Lease records: the JSON value under a key, byte for byte as Go writes it.

use serde_json::value::RawValue;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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
        let mut attrs = Self::default();
        for value in fields.all("PublicIP") {
            let address = address(value).and_then(|address| match address.to_canonical() {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            });
            let rule = "must be an IPv4 address such as \"192.168.64.3\"";
            let address = address.ok_or_else(|| fields.error("PublicIP", value, rule))?;
            attrs.public_ip = Some(address).filter(|address| !address.is_unspecified());
        }
        for value in fields.all("PublicIPv6") {
            attrs.public_ipv6 = match address(value) {
                _ if Kind::of(value) == Kind::Null => None,
                Some(IpAddr::V6(address)) => Some(address),
                // Compatibility: Go takes it for a mapped address.
                Some(IpAddr::V4(address)) => Some(address.to_ipv6_mapped()),
                None => {
                    let rule = "must be null or an IPv6 address such as \"fd00::3\"";
                    return Err(fields.error("PublicIPv6", value, rule).into());
                }
            }
            .filter(|address: &Ipv6Addr| !address.is_unspecified());
        }
        attrs.backend_type = fields.string("BackendType")?.unwrap_or_default();
        attrs.backend_data = fields.last("BackendData").and_then(compacted);
        attrs.backend_v6_data = fields.last("BackendV6Data").and_then(compacted);
        Ok(attrs)
    }
}

fn address(value: &RawValue) -> Option<IpAddr> {
    json::string(value)?.parse().ok()
}

fn compacted(value: &RawValue) -> Option<Box<RawValue>> {
    RawValue::from_string(json::compact(value)).ok()
}
