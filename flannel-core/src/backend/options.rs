//! Readers of options that several backends have.

use serde_json::value::RawValue;

use crate::json::{FieldError, Fields};

/// Reads an integer within limits.
pub(super) fn number(fields: &Fields<'_>, key: &str, min: i64, max: i64) -> Result<Option<i64>, FieldError> {
    let rule = || format!("must be a whole number from {min} to {max}, without quotes");
    fields.read(key, |value: &RawValue| {
        let digits = value.get().bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
        let number = value.get().parse().ok().filter(|number| digits && (min..=max).contains(number));
        number.ok_or_else(rule)
    })
}

/// Reads a port.
pub(super) fn port(fields: &Fields<'_>, key: &str) -> Result<Option<u16>, FieldError> {
    Ok(number(fields, key, 1, 65535)?.map(|port| port as u16))
}

/// Reads the MTU of an underlay that leaves the least MTU of IP for what the tunnel carries: 68 bytes (RFC 791), or
/// 1280 with IPv6 (RFC 8200 section 5).
pub(super) fn mtu(fields: &Fields<'_>, overhead: u32, has_v6: bool) -> Result<Option<u32>, FieldError> {
    let least = if has_v6 { 1280 } else { 68 };
    Ok(number(fields, "MTU", i64::from(least + overhead), 65535)?.map(|mtu| mtu as u32))
}

/// The value of the option `MTU` for people.
pub(super) fn mtu_text(mtu: Option<u32>) -> String {
    mtu.map_or_else(|| "of the interface".to_owned(), |mtu| mtu.to_string())
}

/// The meaning of the port of a tunnel.
pub(super) const PORT: &str = "UDP port of the tunnel";

/// The meaning of `DirectRouting`.
pub(super) const DIRECT_ROUTING: &str = "plain routes to nodes on the same link";
