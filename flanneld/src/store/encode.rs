//! Keys and values as text.

use flannel_core::family::Family;
use flannel_core::lease::{LeaseAttrs, Subnets};

pub(super) fn key_text(subnets: &Subnets) -> String {
    let part = |family| subnets.get(family).map(|net| net.to_string().replace('/', "-"));
    let v4 = part(Family::V4).unwrap_or_else(|| "0.0.0.0-0".to_owned());
    match part(Family::V6) {
        Some(v6) => format!("{v4}&{v6}"),
        None => v4,
    }
}

pub(super) fn value_text(attrs: &LeaseAttrs) -> String {
    let ip = attrs.public_ip.unwrap_or(std::net::Ipv4Addr::UNSPECIFIED);
    format!(r#"{{"PublicIP":"{ip}","PublicIPv6":null,"BackendType":"{}"}}"#, attrs.backend_type)
}
