//! The backends of Go flannel that this version cannot run. Their options are checked, so that a config for Go nodes
//! can be validated and explained.

use super::options::{self, mtu_text};
use super::{Backend, Behaviour, Device, Entry, Read, Setting};
use crate::json::{self, FieldError, Fields};

pub(super) const EXTENSION: Entry = entry("extension", read_extension, &[]);
pub(super) const IPSEC: Entry = entry("ipsec", read_ipsec, &[]);
pub(super) const TENCENT_VPC: Entry = entry("tencent-vpc", read_tencent_vpc, &[]);
pub(super) const UDP: Entry =
    entry("udp", read_udp, &[Device { stem: "flannel", is_numbered: true, kinds: &["tun"] }]);
pub(super) const WIREGUARD: Entry = entry(
    "wireguard",
    read_wireguard,
    &[
        Device { stem: "flannel-wg", is_numbered: false, kinds: WIREGUARD_KINDS },
        Device { stem: "flannel-wg-v6", is_numbered: false, kinds: WIREGUARD_KINDS },
    ],
);

const fn entry(name: &'static str, read: Read, devices: &'static [Device]) -> Entry {
    Entry { name, read, is_supported: false, devices }
}

/// Without WireGuard in the kernel the devices are TUN devices of a relay in user space.
const WIREGUARD_KINDS: &[&str] = &["wireguard", "tun"];
/// Bytes of the IP, UDP and WireGuard headers over IPv6.
const WIREGUARD_OVERHEAD: u32 = 80;

/// An unsupported backend and those of its options that people see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    name: &'static str,
    settings: Vec<Setting>,
}

fn backend(entry: &Entry, settings: Vec<Setting>) -> Backend {
    Backend::Unsupported(Options { name: entry.name, settings })
}

/// The backend of a config without `Backend`.
pub(super) fn default() -> Backend {
    udp(None)
}

fn udp(port: Option<u16>) -> Backend {
    backend(&UDP, vec![Setting::new("Port", port.unwrap_or(8285), options::PORT)])
}

fn read_udp(fields: &Fields<'_>, _has_v6: bool) -> Result<Backend, FieldError> {
    Ok(udp(options::port(fields, "Port")?))
}

fn read_wireguard(fields: &Fields<'_>, has_v6: bool) -> Result<Backend, FieldError> {
    fields.read("Mode", |value| match json::string(value).as_deref() {
        Some("separate" | "auto" | "ipv4" | "ipv6") => Ok(()),
        _ => Err("must be one of separate, auto, ipv4, ipv6, in small letters"),
    })?;
    let psk = fields.secret("PSK")?.filter(|psk| !psk.is_empty());
    if psk.as_deref().is_some_and(|psk| !is_wireguard_key(psk)) {
        let rule = "must be 32 bytes in base64, as wg genpsk prints them";
        return Err(fields.error("PSK", "not a WireGuard key", rule));
    }
    let psk = if psk.is_some() { "(secret)" } else { "none" };
    let keepalive = options::number(fields, "PersistentKeepaliveInterval", 0, 65535)?;
    options::port(fields, "ListenPortV6")?;
    let settings = vec![
        Setting::new("ListenPort", options::port(fields, "ListenPort")?.unwrap_or(51820), options::PORT),
        Setting::new(
            "MTU",
            mtu_text(options::mtu(fields, WIREGUARD_OVERHEAD, has_v6)?),
            "MTU of the underlay",
        ),
        Setting::new("PSK", psk, "key that all nodes share besides their own"),
        Setting::new(
            "PersistentKeepaliveInterval",
            keepalive.unwrap_or(0),
            "seconds between packets that keep a NAT open; 0 is never",
        ),
    ];
    Ok(backend(&WIREGUARD, settings))
}

/// Whether a text is the base64 form of 32 bytes (RFC 4648 section 4): 43 digits and one byte of padding.
fn is_wireguard_key(text: &str) -> bool {
    text.strip_suffix('=').is_some_and(|digits| {
        let is_digit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
        digits.len() == 43 && digits.bytes().all(is_digit)
    })
}

fn read_ipsec(fields: &Fields<'_>, _has_v6: bool) -> Result<Backend, FieldError> {
    let psk = fields.secret("PSK")?.unwrap_or_default();
    if psk.len() < 96 {
        let found = if psk.is_empty() { "missing".to_owned() } else { format!("{} bytes long", psk.len()) };
        let rule = "must have at least 96 bytes, such as the output of openssl rand -hex 48";
        return Err(fields.error("PSK", found, rule));
    }
    let proposal = fields.string("ESPProposal")?;
    let proposal = proposal.as_deref().unwrap_or("aes128gcm16-sha256-prfsha256-ecp256");
    let encapsulates = fields.bool("UDPEncap")?.unwrap_or(false);
    let settings = vec![
        Setting::new("UDPEncap", encapsulates, "ESP in UDP, for nodes behind NAT"),
        Setting::new("ESPProposal", proposal, "algorithms"),
        Setting::new("PSK", "(secret)", "key that all nodes share"),
    ];
    Ok(backend(&IPSEC, settings))
}

fn read_extension(fields: &Fields<'_>, _has_v6: bool) -> Result<Backend, FieldError> {
    for key in ["PreStartupCommand", "PostStartupCommand", "SubnetAddCommand", "SubnetRemoveCommand"] {
        fields.string(key)?;
    }
    Ok(backend(&EXTENSION, Vec::new()))
}

fn read_tencent_vpc(fields: &Fields<'_>, _has_v6: bool) -> Result<Backend, FieldError> {
    fields.string("AccessKeyID")?;
    fields.secret("AccessKeySecret")?;
    Ok(backend(&TENCENT_VPC, Vec::new()))
}

impl Behaviour for Options {
    fn name(&self) -> &'static str {
        self.name
    }

    fn settings(&self) -> Vec<Setting> {
        self.settings.clone()
    }

    fn link_kind(&self) -> Option<&'static str> {
        Some(WIREGUARD.name).filter(|name| self.name == *name)
    }

    fn is_link_kind_replaceable(&self) -> bool {
        self.name == WIREGUARD.name
    }
}
