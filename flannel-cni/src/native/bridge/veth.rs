//! Veth pairs with one end as a port of a bridge.

use flannel_core::link::{LinkName, Mac};
use flannel_core::message::link::{self, LinkRecord, NewVeth};
use nix::errno::Errno;
use std::os::fd::AsRawFd;

use super::vanished;
use crate::error::{CniError, Context, note};
use crate::kernel::Kernel;
use crate::netns::Netns;

/// How often to try another random name.
const NAME_ATTEMPTS: u32 = 10;

/// A pair with one end as a port of `bridge`, up and with a random name.
pub(super) fn new(bridge: &LinkRecord, mtu: Option<u32>, peer: LinkName) -> Result<NewVeth, CniError> {
    Ok(NewVeth {
        name: random_name()?,
        mac: None,
        master: Some(bridge.index),
        up: true,
        mtu,
        // Compatibility: Go's library sends 0 for this end.
        queue_length: Some(0),
        peer,
        peer_mac: None,
        peer_netns: None,
    })
}

/// Creates a pair with the other end in a container. Leaves nothing if it fails.
pub(super) fn create(
    host: &mut Kernel,
    mut veth: NewVeth,
    netns: &Netns,
    mac: Option<Mac>,
) -> Result<LinkRecord, CniError> {
    veth.peer_mac = mac;
    veth.peer_netns = Some(netns.file().as_raw_fd());
    let mut attempt = 1;
    loop {
        match host.change_one(&link::create_veth(&veth)) {
            Ok(()) => break,
            Err(error) if error.is(Errno::EEXIST) => {
                if attempt == NAME_ATTEMPTS || host.link(&veth.name)?.is_none() {
                    let (peer, name) = (veth.peer.as_str(), veth.name.as_str());
                    return Err(CniError::internal(format!(
                        "container veth name ({peer:?}) peer provided ({name:?}) already exists"
                    )));
                }
                attempt += 1;
                veth.name = random_name()?;
            }
            Err(error) => {
                delete(host, &veth.name);
                return Err(error).context(|| "failed to make veth pair".to_owned());
            }
        }
    }
    match host.link(&veth.name) {
        Ok(found) => found.ok_or_else(|| vanished(&veth.name)),
        Err(error) => {
            delete(host, &veth.name);
            Err(error.into())
        }
    }
}

/// Deletes a link whose name only this process uses. Failures are only logged, because the ADD returns its own error.
fn delete(host: &mut Kernel, name: &LinkName) {
    if let Err(error) = host.delete_by_name(name) {
        note!("could not undo {name}: {error}");
    }
}

fn random_name() -> Result<LinkName, CniError> {
    Ok(format!("veth{:08x}", u32::from_ne_bytes(random()?)).parse()?)
}

/// Returns a random unicast, locally administered hardware address.
pub(super) fn random_mac() -> Result<Mac, CniError> {
    Ok(Mac::from_seed(random()?))
}

fn random<const N: usize>() -> Result<[u8; N], CniError> {
    let mut bytes = [0; N];
    // The kernel returns up to 256 bytes in one call.
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .context(|| "could not get random bytes".to_owned())?;
    Ok(bytes)
}
