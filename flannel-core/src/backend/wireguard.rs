//! wireguard: WireGuard tunnels. Only the options are known in this version.

use std::fmt;

use super::options::{self, mtu_text};
use super::{Backend, Behaviour, Device, Setting};
use crate::json::{self, FieldError, Fields};

pub(super) const NAME: &str = "wireguard";

const KIND: &str = "wireguard";

/// Without WireGuard in the kernel the devices are TUN devices of a relay in user space.
const KINDS: &[&str] = &[KIND, "tun"];
pub(super) const DEVICES: [Device; 2] = [
    Device { stem: "flannel-wg", is_numbered: false, kinds: KINDS },
    Device { stem: "flannel-wg-v6", is_numbered: false, kinds: KINDS },
];

/// Bytes of the IP, UDP and WireGuard headers over IPv6.
const OVERHEAD_V6: u32 = 80;

/// Options of the wireguard backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// UDP port of the device for IPv4, or of the only device.
    pub listen_port: u16,
    /// UDP port of the device for IPv6.
    pub listen_port_v6: u16,
    /// MTU of the underlay, instead of that of the external interface.
    pub mtu: Option<u32>,
    /// Pre-shared key of all nodes.
    pub psk: Option<Key>,
    /// Seconds between keep-alive packets; 0 sends none.
    pub persistent_keepalive_secs: u16,
    /// Number of tunnels and their family.
    pub mode: Mode,
}

/// Which tunnels the wireguard backend makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One for each family.
    Separate,
    /// One, over the family that reaches the peer.
    Auto,
    /// One, over IPv4.
    Ipv4,
    /// One, over IPv6.
    Ipv6,
}

/// A secret key of WireGuard.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Key(pub [u8; 32]);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

pub(super) fn read(fields: &Fields<'_>, has_v6: bool) -> Result<Backend, FieldError> {
    let mode = fields.read("Mode", |value| match json::string(value).as_deref() {
        Some("separate") => Ok(Mode::Separate),
        Some("auto") => Ok(Mode::Auto),
        Some("ipv4") => Ok(Mode::Ipv4),
        Some("ipv6") => Ok(Mode::Ipv6),
        _ => Err("must be one of separate, auto, ipv4, ipv6, in small letters"),
    })?;
    let psk = fields.secret("PSK")?.filter(|psk| !psk.is_empty());
    let psk = psk.map(|psk| {
        decode_key(&psk).map(Key).ok_or_else(|| FieldError {
            key: fields.path_of("PSK"),
            value: "not a WireGuard key".to_owned(),
            rule: "must be 32 bytes in base64, as wg genpsk prints them".to_owned(),
        })
    });
    let keepalive = options::number(fields, "PersistentKeepaliveInterval", 0, 65535)?;
    Ok(Backend::Wireguard(Options {
        listen_port: options::port(fields, "ListenPort")?.unwrap_or(51820),
        listen_port_v6: options::port(fields, "ListenPortV6")?.unwrap_or(51821),
        mtu: options::mtu(fields, OVERHEAD_V6, has_v6)?,
        psk: psk.transpose()?,
        persistent_keepalive_secs: keepalive.unwrap_or(0) as u16,
        mode: mode.unwrap_or(Mode::Separate),
    }))
}

impl Behaviour for Options {
    fn name(&self) -> &'static str {
        NAME
    }

    fn settings(&self) -> Vec<Setting> {
        let setting = |key, value: String, meaning| Setting { key, value, meaning };
        let psk = if self.psk.is_some() { "(secret)" } else { "none" }.to_owned();
        let keepalive = self.persistent_keepalive_secs.to_string();
        vec![
            setting("ListenPort", self.listen_port.to_string(), options::PORT),
            setting("MTU", mtu_text(self.mtu), "MTU of the underlay"),
            setting("PSK", psk, "key that all nodes share besides their own"),
            setting(
                "PersistentKeepaliveInterval",
                keepalive,
                "seconds between packets that keep a NAT open; 0 is never",
            ),
        ]
    }

    fn link_kind(&self) -> Option<&'static str> {
        Some(KIND)
    }
}

/// 32 bytes from their base64 form (RFC 4648 section 4).
pub(super) fn decode_key(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text.strip_suffix('=')?.bytes().map(digit).collect::<Option<_>>()?;
    let mut bytes = Vec::with_capacity(33);
    for group in digits.chunks(4) {
        let bits = group.iter().fold(0_u32, |bits, digit| bits << 6 | u32::from(*digit));
        bytes.extend_from_slice(&(bits << (6 * (4 - group.len()))).to_be_bytes()[1..]);
    }
    // 43 digits: 32 bytes and one byte of padding.
    (digits.len() == 43).then(|| bytes[..32].try_into().ok())?
}

fn digit(c: u8) -> Option<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    ALPHABET.iter().position(|digit| *digit == c).map(|at| at as u8)
}
