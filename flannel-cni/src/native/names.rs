//! Names of kernel objects of a container: derived from hashes as in Go's plugins.

use sha2::{Digest, Sha512};

/// Returns the first digits of the SHA-512 of a text, in lower-case hex.
pub(crate) fn hash(text: &str, digits: usize) -> String {
    let hash = Sha512::digest(text.as_bytes());
    let mut hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    hex.truncate(digits);
    hex
}

/// Returns the name of a container's object, with the prefix of its kind.
///
/// Compatibility: network and container are hashed without a separator.
pub(crate) fn of_container(prefix: &str, network: &str, container_id: &str, digits: usize) -> String {
    format!("{prefix}{}", hash(&format!("{network}{container_id}"), digits))
}

/// Returns the name of an object of one interface of a container, where the container's name is in use by another interface.
pub(crate) fn of_interface(
    prefix: &str,
    network: &str,
    container_id: &str,
    ifname: &str,
    digits: usize,
) -> String {
    // Neither part contains a slash.
    of_container(prefix, network, &format!("{container_id}/{ifname}"), digits)
}

#[cfg(test)]
mod tests {
    use super::of_container;

    const LONG: &str = "8f0c3a1d5b7e9f2046c8e1a3b5d7f9012345678990abcdef1234567890abcdef";

    #[test]
    fn they_are_those_of_go() {
        assert_eq!(of_container("bwp", "cbr0", "cid1", 12), "bwp4c7c118642e0");
        assert_eq!(of_container("bwp", "cbr0", LONG, 12), "bwp2aa7f333ea69");
        assert_eq!(of_container("CNI-", "cbr0", "cid1", 24), "CNI-4c7c118642e0d78610143dd0");
    }
}
