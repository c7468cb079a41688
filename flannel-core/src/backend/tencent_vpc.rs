//! tencent-vpc: routes in a Tencent cloud. Only the options are known in this version.

use super::options::Secret;
use super::{Backend, Behaviour};
use crate::json::{FieldError, Fields};

pub(super) const NAME: &str = "tencent-vpc";

/// Options of the tencent-vpc backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Credentials; where one half is missing, both come from the environment.
    pub credentials: Option<Credentials>,
}

/// Credentials of the Tencent cloud.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// `AccessKeyID`.
    pub access_key_id: String,
    /// `AccessKeySecret`.
    pub access_key_secret: Secret,
}

pub(super) fn read(fields: &Fields<'_>, _has_v6: bool) -> Result<Backend, FieldError> {
    let id = fields.string("AccessKeyID")?.filter(|id| !id.is_empty());
    let secret = fields.secret("AccessKeySecret")?.filter(|secret| !secret.is_empty());
    let credentials = id
        .zip(secret)
        .map(|(access_key_id, secret)| Credentials { access_key_id, access_key_secret: Secret(secret) });
    Ok(Backend::TencentVpc(Options { credentials }))
}

impl Behaviour for Options {
    fn name(&self) -> &'static str {
        NAME
    }

    fn published_type(&self) -> &'static str {
        ""
    }
}
