//! What the vxlan backend publishes in lease records.

use serde_json::value::RawValue;

use crate::family::Family;
use crate::json::{self, FieldError, Fields};
use crate::lease::LeaseAttrs;
use crate::link::{Mac, Vni};

/// The VXLAN tunnel endpoint of a node in one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vtep {
    /// Network identifier of the node's device. Missing in some records.
    pub vni: Option<Vni>,
    /// Ethernet address of the node's device, where peers send frames to.
    pub mac: Mac,
}

impl Vtep {
    /// The endpoint that a lease publishes, if it is readable.
    #[must_use]
    pub fn of(attrs: &LeaseAttrs, family: Family) -> Option<Self> {
        Self::parse(attrs.backend_data(family)?).ok()
    }

    /// Reads `BackendData` or `BackendV6Data` of a vxlan lease.
    pub fn parse(data: &RawValue) -> Result<Self, FieldError> {
        const RULE: &str = "must be an Ethernet address such as \"0a:58:0a:05:01:00\"";
        let fields = Fields::from_value("BackendData", data)?;
        let vni = fields.unsigned("VNI")?;
        let mac = fields
            .read("VtepMAC", |value| json::string(value).and_then(|text| text.parse().ok()).ok_or(RULE))?;
        Ok(Self {
            vni: vni.and_then(|vni| Vni::new(vni.try_into().ok()?)),
            mac: mac.ok_or_else(|| fields.error("VtepMAC", "missing", RULE))?,
        })
    }

    /// The JSON that peers compare and Go nodes read.
    #[must_use]
    pub fn to_raw(&self) -> Box<RawValue> {
        let Self { vni, mac } = self;
        let text = format!("{{\"VNI\":{},\"VtepMAC\":\"{mac}\"}}", vni.map_or(0, Vni::get));
        RawValue::from_string(text).expect("a number and a MAC address make valid JSON")
    }
}
