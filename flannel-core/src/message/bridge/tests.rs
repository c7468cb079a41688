//! Layouts of the kernel's if_bridge.h; the requests differ from those of iproute2's `bridge vlan` in the flag "master",
//! which Go's plugin sends and which is what a request without flags means.

use super::*;
use crate::message::frames;

fn bytes(request: &Request) -> (u16, u16, Vec<u8>) {
    let bytes = request.to_bytes(1);
    let frame = frames(&bytes).next().unwrap().unwrap();
    (frame.kind, frame.flags, frame.payload.to_vec())
}

/// `struct ifinfomsg` of family 7 and link 4, then one attribute 26 with flags and VLAN.
fn message(flags: u16, vlan: u16) -> Vec<u8> {
    let mut bytes = vec![7, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    bytes.extend([20, 0, 26, 0]);
    bytes.extend([6, 0, 0, 0, 1, 0, 0, 0]);
    bytes.extend([8, 0, 2, 0]);
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(vlan.to_ne_bytes());
    bytes
}

/// The same with the bit "nested", which the kernel ignores here.
fn plain(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[19] &= 0x7f;
    bytes
}

#[test]
fn vlans_are_set_and_deleted_as_bridge_vlan_does() {
    // RTM_SETLINK and RTM_DELLINK, with acknowledgement.
    let (kind, flags, payload) = bytes(&add_vlan(IfIndex(4), 5, Membership::Access));
    assert_eq!((kind, flags, plain(payload)), (19, 5, message(0b110, 5)));
    let (kind, flags, payload) = bytes(&add_vlan(IfIndex(4), 4094, Membership::Tagged));
    assert_eq!((kind, flags, plain(payload)), (19, 5, message(0, 4094)));
    let (kind, flags, payload) = bytes(&delete_vlan(IfIndex(4), 1));
    assert_eq!((kind, flags, plain(payload)), (17, 5, message(0, 1)));
}

#[test]
fn the_dump_asks_for_vlans_and_nothing_that_strict_checking_refuses() {
    let (kind, flags, payload) = bytes(&dump_vlans().request);
    assert_eq!((kind, flags), (18, 0x301));
    let expected = [&[7][..], &[0; 15], &[8, 0, 29, 0, 2, 0, 0, 0]].concat();
    assert_eq!(payload, expected);
}

#[test]
fn the_vlans_of_a_port_are_read() {
    let vlan =
        |flags: u16, vlan: u16| [&[8, 0, 2, 0][..], &flags.to_ne_bytes(), &vlan.to_ne_bytes()].concat();
    let list = [vlan(0b110, 1), vlan(0, 7), vlan(0b100, 9)].concat();
    let mut payload = vec![7, 0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    // A name before it.
    payload.extend([8, 0, 3, 0, b'v', b'0', 0, 0]);
    payload.extend([u8::try_from(4 + list.len()).unwrap(), 0, 26, 0x80]);
    payload.extend(&list);
    assert_eq!(
        decode_vlans(&payload),
        Ok(Some(PortVlans {
            port: IfIndex(12),
            vlans: vec![(1, Membership::Access), (7, Membership::Tagged), (9, Membership::Tagged)]
        }))
    );
    // A link that is no port, and bytes that are no message.
    payload[0] = 0;
    assert_eq!(decode_vlans(&payload), Ok(None));
    for length in 0..payload.len() {
        let _ = decode_vlans(&payload[..length]);
    }
    assert!(decode_vlans(&payload[..7]).is_err());
}
