//! The IFB through which the traffic from a container passes, and which one belongs to which interface.
//!
//! Compatibility: Go's plugin names it after network and container. If another interface of the container uses that one, this
//! interface gets one with a name of its own.

use flannel_core::host_local::Attachment;
use flannel_core::link::LinkName;
use flannel_core::message::link::LinkRecord;

use crate::error::CniError;
use crate::kernel::{Kernel, is_kind};
use crate::native::names::{of_container, of_interface};
use crate::request::Request;
use crate::siblings;

/// The prefix of the names of IFBs.
const PREFIX: &str = "bwp";
/// The number of hash digits, which makes the name as long as link names may be.
const DIGITS: usize = 12;

/// Returns the names of the first and of a further interface.
pub(super) fn names(network: &str, Attachment { container_id, ifname }: &Attachment) -> [String; 2] {
    [
        of_container(PREFIX, network, container_id, DIGITS),
        of_interface(PREFIX, network, container_id, ifname, DIGITS),
    ]
}

/// Whether a link is an IFB of some container.
pub(super) fn is_one(link: &LinkRecord) -> bool {
    is_kind(link, "ifb")
        && link.name.as_str().strip_prefix(PREFIX).is_some_and(|digits| digits.len() == DIGITS)
}

/// Returns the name for the interface of a request.
pub(super) fn choose(host: &mut Kernel, request: &Request) -> Result<LinkName, CniError> {
    let [first, second] = names(&request.network, &request.environment.attachment);
    let [first, second]: [LinkName; 2] = [first.parse()?, second.parse()?];
    if host.link(&second)?.is_some() {
        return Ok(second);
    }
    let Some(found) = host.link(&first)? else { return Ok(first) };
    Ok(if is_of_sibling(host, request, &found)? { second } else { first })
}

/// Returns the IFBs that exist and do not belong to another interface.
pub(super) fn owned(host: &mut Kernel, request: &Request) -> Result<Vec<LinkRecord>, CniError> {
    let mut owned = Vec::new();
    for name in names(&request.network, &request.environment.attachment) {
        if let Some(found) = host.link(&name.parse()?)?
            && !is_of_sibling(host, request, &found)?
        {
            owned.push(found);
        }
    }
    Ok(owned)
}

/// Whether another interface of the container is redirected to an IFB.
fn is_of_sibling(host: &mut Kernel, request: &Request, ifb: &LinkRecord) -> Result<bool, CniError> {
    for end in siblings::host_ends(&request.environment)? {
        if host.redirects(end, ifb.index)? {
            return Ok(true);
        }
    }
    Ok(false)
}
