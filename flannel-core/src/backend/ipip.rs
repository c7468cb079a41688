//! ipip: IP in IP tunnels of the kernel. Only the options are known in this version.

use super::options;
use super::{Backend, Behaviour, Device, Setting};
use crate::json::{FieldError, Fields};

pub(super) const NAME: &str = "ipip";

const KIND: &str = "ipip";
pub(super) const DEVICES: [Device; 1] = [Device { stem: "flannel.ipip", is_numbered: false, kinds: &[KIND] }];

/// Options of the ipip backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Plain routes to nodes on the same link.
    direct_routing: bool,
}

pub(super) fn read(fields: &Fields<'_>, _has_v6: bool) -> Result<Backend, FieldError> {
    Ok(Backend::Ipip(Options { direct_routing: fields.bool("DirectRouting")?.unwrap_or(false) }))
}

impl Behaviour for Options {
    fn name(&self) -> &'static str {
        NAME
    }

    fn settings(&self) -> Vec<Setting> {
        let value = self.direct_routing.to_string();
        vec![Setting { key: "DirectRouting", value, meaning: options::DIRECT_ROUTING }]
    }

    fn link_kind(&self) -> Option<&'static str> {
        Some(KIND)
    }
}
