//! ipsec: IPsec tunnels. Only the options are known in this version.

use super::options::Secret;
use super::{Backend, Behaviour, Setting};
use crate::json::{FieldError, Fields};

pub(super) const NAME: &str = "ipsec";

/// Options of the ipsec backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// ESP in UDP, also without NAT.
    pub udp_encap: bool,
    /// Proposal in strongSwan's form.
    pub esp_proposal: String,
    /// Pre-shared key of all nodes.
    pub psk: Secret,
}

pub(super) fn read(fields: &Fields<'_>, _has_v6: bool) -> Result<Backend, FieldError> {
    let psk = fields.secret("PSK")?.unwrap_or_default();
    if psk.len() < 96 {
        let found = if psk.is_empty() { "missing".to_owned() } else { format!("{} bytes long", psk.len()) };
        return Err(FieldError {
            key: fields.path_of("PSK"),
            value: found,
            rule: "must have at least 96 bytes, such as the output of openssl rand -hex 48".to_owned(),
        });
    }
    let esp_proposal = fields.string("ESPProposal")?;
    Ok(Backend::Ipsec(Options {
        udp_encap: fields.bool("UDPEncap")?.unwrap_or(false),
        esp_proposal: esp_proposal.unwrap_or_else(|| "aes128gcm16-sha256-prfsha256-ecp256".to_owned()),
        psk: Secret(psk),
    }))
}

impl Behaviour for Options {
    fn name(&self) -> &'static str {
        NAME
    }

    fn settings(&self) -> Vec<Setting> {
        let setting = |key, value: String, meaning| Setting { key, value, meaning };
        vec![
            setting("UDPEncap", self.udp_encap.to_string(), "ESP in UDP, for nodes behind NAT"),
            setting("ESPProposal", self.esp_proposal.clone(), "algorithms"),
            setting("PSK", "(secret)".to_owned(), "key that all nodes share"),
        ]
    }
}
