use super::*;
use crate::message::frames;

/// What the kernel tells of a UDP packet from 192.0.2.9 port 5000 to 192.0.2.1 port 53, in zone 7.
fn told(protocol: u8) -> Vec<u8> {
    let request = request(NEW, 0, Family::V4, |w| {
        w.nested(TUPLE_ORIGINAL, |w| {
            w.nested(1, |w| {
                w.bytes(1, &[192, 0, 2, 9]);
                w.bytes(2, &[192, 0, 2, 1]);
            });
            w.nested(2, |w| {
                w.bytes(1, &[protocol]);
                w.bytes(2, &5000_u16.to_be_bytes());
                w.bytes(3, &53_u16.to_be_bytes());
            });
        });
        w.bytes(ZONE, &7_u16.to_be_bytes());
        w.be32(ID, 4711);
    });
    request.to_bytes(1)
}

fn read(bytes: &[u8]) -> Option<Entry> {
    decode(&frames(bytes).next().unwrap().unwrap()).unwrap()
}

#[test]
fn an_entry_is_deleted_by_all_that_names_it() {
    let entry = read(&told(UDP)).unwrap();
    assert_eq!((entry.destination, entry.port), (IpAddr::from([192, 0, 2, 1]), 53));
    let bytes = delete(&entry).to_bytes(9);
    let frame = frames(&bytes).next().unwrap().unwrap();
    assert_eq!((frame.kind, frame.sequence), (0x102, 9));
    // The same attributes as were told, in the same order.
    let original = told(UDP);
    assert_eq!(frame.payload, frames(&original).next().unwrap().unwrap().payload);
}

#[test]
fn other_protocols_and_cut_messages_are_no_entries() {
    assert_eq!(read(&told(6)), None);
    let bytes = told(UDP);
    let frame = frames(&bytes).next().unwrap().unwrap();
    for length in 0..frame.payload.len() {
        // Whatever is missing, it does not panic.
        let _ = decode(&Frame { payload: &frame.payload[..length], ..frame });
    }
}
