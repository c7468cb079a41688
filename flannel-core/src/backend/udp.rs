//! udp: a relay in user space over UDP. Only the options are known in this version.

use super::options;
use super::{Backend, Behaviour, Device, Setting};
use crate::json::{FieldError, Fields};

pub(super) const NAME: &str = "udp";

pub(super) const DEVICES: [Device; 1] = [Device { stem: "flannel", is_numbered: true, kinds: &["tun"] }];

/// Options of the udp backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// UDP port.
    pub port: u16,
}

impl Default for Options {
    fn default() -> Self {
        Self { port: 8285 }
    }
}

pub(super) fn read(fields: &Fields<'_>, _has_v6: bool) -> Result<Backend, FieldError> {
    let port = options::port(fields, "Port")?.unwrap_or(Options::default().port);
    Ok(Backend::Udp(Options { port }))
}

impl Behaviour for Options {
    fn name(&self) -> &'static str {
        NAME
    }

    fn published_type(&self) -> &'static str {
        ""
    }

    fn settings(&self) -> Vec<Setting> {
        vec![Setting { key: "Port", value: self.port.to_string(), meaning: options::PORT }]
    }
}
