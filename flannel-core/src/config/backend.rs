//! The `Backend` object: one type per backend, with its options and defaults.

use serde_json::value::RawValue;
use std::fmt;

use super::ParseConfigError;
use crate::json::{FieldError, Fields};
use crate::link::Vni;

#[cfg(test)]
mod tests;

/// The names that `Backend.Type` may have.
pub(super) const NAMES: [&str; 9] =
    ["vxlan", "host-gw", "wireguard", "udp", "ipip", "ipsec", "alloc", "extension", "tencent-vpc"];

/// How packets get to other nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendConfig {
    /// VXLAN tunnels of the kernel.
    Vxlan(VxlanConfig),
    /// Routes through the other nodes, which must be on the same link.
    HostGw,
    /// WireGuard tunnels.
    Wireguard(WireguardConfig),
    /// A relay in user space over UDP.
    Udp(UdpConfig),
    /// IP in IP tunnels of the kernel.
    Ipip(IpipConfig),
    /// IPsec tunnels.
    Ipsec(IpsecConfig),
    /// Subnets only: somebody else moves packets.
    Alloc,
    /// Commands of the administrator.
    Extension(ExtensionConfig),
    /// Routes in a Tencent cloud.
    TencentVpc(TencentVpcConfig),
}

/// Options of the vxlan backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VxlanConfig {
    /// Network identifier, part of the device's name.
    pub vni: Vni,
    /// UDP port; `None` takes that of a device that is there already, otherwise [`VxlanConfig::DEFAULT_PORT`].
    pub port: Option<u16>,
    /// MTU of the underlay, instead of that of the external interface.
    pub mtu: Option<u32>,
    /// Group based policy extension.
    pub gbp: bool,
    /// The kernel learns addresses from received frames.
    pub learning: bool,
    /// Plain routes to nodes on the same link.
    pub direct_routing: bool,
}

/// Options of the wireguard backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireguardConfig {
    /// UDP port of the device for IPv4, or of the only device.
    pub listen_port: u16,
    /// UDP port of the device for IPv6.
    pub listen_port_v6: u16,
    /// MTU of the underlay, instead of that of the external interface.
    pub mtu: Option<u32>,
    /// Pre-shared key of all nodes.
    pub psk: Option<WireguardKey>,
    /// Seconds between keep-alive packets; 0 sends none.
    pub persistent_keepalive_secs: u16,
    /// Number of tunnels and their family.
    pub mode: WireguardMode,
}

/// Which tunnels the wireguard backend makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireguardMode {
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
pub struct WireguardKey(pub [u8; 32]);

/// Options of the udp backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpConfig {
    /// UDP port.
    pub port: u16,
}

/// Options of the ipip backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpipConfig {
    /// Plain routes to nodes on the same link.
    pub direct_routing: bool,
}

/// Options of the ipsec backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpsecConfig {
    /// ESP in UDP, also without NAT.
    pub udp_encap: bool,
    /// Proposal in strongSwan's form.
    pub esp_proposal: String,
    /// Pre-shared key of all nodes.
    pub psk: Secret,
}

/// Options of the extension backend: commands, empty for none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtensionConfig {
    /// Before the lease; its output becomes the backend's data.
    pub pre_startup_command: String,
    /// After the lease.
    pub post_startup_command: String,
    /// For each peer that appears.
    pub subnet_add_command: String,
    /// For each peer that goes.
    pub subnet_remove_command: String,
}

/// Options of the tencent-vpc backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TencentVpcConfig {
    /// Credentials; where one half is missing, both come from the environment.
    pub credentials: Option<TencentCredentials>,
}

/// Credentials of the Tencent cloud.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TencentCredentials {
    /// `AccessKeyID`.
    pub access_key_id: String,
    /// `AccessKeySecret`.
    pub access_key_secret: Secret,
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl fmt::Debug for WireguardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WireguardKey(…)")
    }
}

impl Default for VxlanConfig {
    fn default() -> Self {
        Self { vni: Vni::DEFAULT, port: None, mtu: None, gbp: false, learning: false, direct_routing: false }
    }
}

impl VxlanConfig {
    /// The port that the kernel takes where none is given (`udp_port` in its vxlan module), from before IANA gave 4789.
    pub const DEFAULT_PORT: u16 = 8472;

    /// What IP, UDP, VXLAN and Ethernet headers cost over IPv6.
    const OVERHEAD_V6: u32 = 70;

    fn read(fields: &Fields<'_>, has_v6: bool) -> Result<Self, FieldError> {
        let vni = number(fields, "VNI", 1, (1 << 24) - 1)?;
        Ok(Self {
            vni: vni.and_then(|vni| Vni::new(vni as u32)).unwrap_or(Vni::DEFAULT),
            port: port_or_zero(fields, "Port")?,
            mtu: mtu(fields, Self::OVERHEAD_V6, has_v6)?,
            gbp: fields.bool("GBP")?.unwrap_or(false),
            learning: fields.bool("Learning")?.unwrap_or(false),
            direct_routing: fields.bool("DirectRouting")?.unwrap_or(false),
        })
    }
}

impl WireguardConfig {
    /// What IP, UDP and WireGuard headers cost over IPv6.
    const OVERHEAD_V6: u32 = 80;

    fn read(fields: &Fields<'_>, has_v6: bool) -> Result<Self, FieldError> {
        let mode = fields.read("Mode", |value| match crate::json::string(value).as_deref() {
            Some("separate") => Ok(WireguardMode::Separate),
            Some("auto") => Ok(WireguardMode::Auto),
            Some("ipv4") => Ok(WireguardMode::Ipv4),
            Some("ipv6") => Ok(WireguardMode::Ipv6),
            _ => Err("must be one of separate, auto, ipv4, ipv6, in small letters"),
        })?;
        let psk = fields.secret("PSK")?.filter(|psk| !psk.is_empty());
        let psk = psk.map(|psk| {
            decode_key(&psk).map(WireguardKey).ok_or_else(|| FieldError {
                key: fields.path_of("PSK"),
                value: "not a WireGuard key".to_owned(),
                rule: "must be 32 bytes in base64, as wg genpsk prints them".to_owned(),
            })
        });
        Ok(Self {
            listen_port: port(fields, "ListenPort")?.unwrap_or(51820),
            listen_port_v6: port(fields, "ListenPortV6")?.unwrap_or(51821),
            mtu: mtu(fields, Self::OVERHEAD_V6, has_v6)?,
            psk: psk.transpose()?,
            persistent_keepalive_secs: number(fields, "PersistentKeepaliveInterval", 0, 65535)?.unwrap_or(0)
                as u16,
            mode: mode.unwrap_or(WireguardMode::Separate),
        })
    }
}

impl Default for UdpConfig {
    fn default() -> Self {
        Self { port: 8285 }
    }
}

impl IpsecConfig {
    fn read(fields: &Fields<'_>) -> Result<Self, FieldError> {
        let psk = fields.secret("PSK")?.unwrap_or_default();
        if psk.len() < 96 {
            return Err(FieldError {
                key: fields.path_of("PSK"),
                value: if psk.is_empty() {
                    "missing".to_owned()
                } else {
                    format!("{} bytes long", psk.len())
                },
                rule: "must have at least 96 bytes, such as the output of openssl rand -hex 48".to_owned(),
            });
        }
        Ok(Self {
            udp_encap: fields.bool("UDPEncap")?.unwrap_or(false),
            esp_proposal: fields
                .string("ESPProposal")?
                .unwrap_or_else(|| "aes128gcm16-sha256-prfsha256-ecp256".to_owned()),
            psk: Secret(psk),
        })
    }
}

impl ExtensionConfig {
    fn read(fields: &Fields<'_>) -> Result<Self, FieldError> {
        let command = |key| fields.string(key).map(Option::unwrap_or_default);
        Ok(Self {
            pre_startup_command: command("PreStartupCommand")?,
            post_startup_command: command("PostStartupCommand")?,
            subnet_add_command: command("SubnetAddCommand")?,
            subnet_remove_command: command("SubnetRemoveCommand")?,
        })
    }
}

impl TencentVpcConfig {
    fn read(fields: &Fields<'_>) -> Result<Self, FieldError> {
        let id = fields.string("AccessKeyID")?.filter(|id| !id.is_empty());
        let secret = fields.secret("AccessKeySecret")?.filter(|secret| !secret.is_empty());
        let credentials = id.zip(secret).map(|(access_key_id, secret)| TencentCredentials {
            access_key_id,
            access_key_secret: Secret(secret),
        });
        Ok(Self { credentials })
    }
}

impl BackendConfig {
    pub(super) fn read(fields: &Fields<'_>, has_v6: bool) -> Result<Self, ParseConfigError> {
        let name = fields.string("Type")?.filter(|name| !name.is_empty());
        let name = name.ok_or(ParseConfigError::BackendTypeMissing)?;
        Ok(match name.to_ascii_lowercase().as_str() {
            "vxlan" => Self::Vxlan(VxlanConfig::read(fields, has_v6)?),
            "host-gw" => Self::HostGw,
            "wireguard" => Self::Wireguard(WireguardConfig::read(fields, has_v6)?),
            "udp" => {
                Self::Udp(UdpConfig { port: port(fields, "Port")?.unwrap_or(UdpConfig::default().port) })
            }
            "ipip" => {
                Self::Ipip(IpipConfig { direct_routing: fields.bool("DirectRouting")?.unwrap_or(false) })
            }
            "ipsec" => Self::Ipsec(IpsecConfig::read(fields)?),
            "alloc" => Self::Alloc,
            "extension" => Self::Extension(ExtensionConfig::read(fields)?),
            "tencent-vpc" => Self::TencentVpc(TencentVpcConfig::read(fields)?),
            _ => {
                return Err(ParseConfigError::Field(FieldError {
                    key: fields.path_of("Type"),
                    value: format!("{name:?}"),
                    rule: format!("must be one of {}", NAMES.join(", ")),
                }));
            }
        })
    }

    /// The name as `Backend.Type` has it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Vxlan(_) => "vxlan",
            Self::HostGw => "host-gw",
            Self::Wireguard(_) => "wireguard",
            Self::Udp(_) => "udp",
            Self::Ipip(_) => "ipip",
            Self::Ipsec(_) => "ipsec",
            Self::Alloc => "alloc",
            Self::Extension(_) => "extension",
            Self::TencentVpc(_) => "tencent-vpc",
        }
    }

    /// The name as lease records have it. Compatibility: three backends publish none.
    #[must_use]
    pub const fn published_type(&self) -> &'static str {
        match self {
            Self::Udp(_) | Self::Alloc | Self::TencentVpc(_) => "",
            _ => self.name(),
        }
    }
}

/// An integer within limits.
fn number(fields: &Fields<'_>, key: &str, min: i64, max: i64) -> Result<Option<i64>, FieldError> {
    let rule = || format!("must be a whole number from {min} to {max}, without quotes");
    fields.read(key, |value: &RawValue| {
        let digits = value.get().bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
        let number = value.get().parse().ok().filter(|number| digits && (min..=max).contains(number));
        number.ok_or_else(rule)
    })
}

fn port(fields: &Fields<'_>, key: &str) -> Result<Option<u16>, FieldError> {
    Ok(number(fields, key, 1, 65535)?.map(|port| port as u16))
}

/// A port where 0 stands for the default.
fn port_or_zero(fields: &Fields<'_>, key: &str) -> Result<Option<u16>, FieldError> {
    Ok(number(fields, key, 0, 65535)?.map(|port| port as u16).filter(|port| *port > 0))
}

/// The MTU of an underlay that leaves the least MTU of IP for what the tunnel carries: 68 bytes (RFC 791), or 1280
/// with IPv6 (RFC 8200 section 5).
fn mtu(fields: &Fields<'_>, overhead: u32, has_v6: bool) -> Result<Option<u32>, FieldError> {
    let least = if has_v6 { 1280 } else { 68 };
    Ok(number(fields, "MTU", i64::from(least + overhead), 65535)?.map(|mtu| mtu as u32))
}

/// 32 bytes from their base64 form (RFC 4648 section 4).
fn decode_key(text: &str) -> Option<[u8; 32]> {
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
