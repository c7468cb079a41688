//! Compared with what iproute2's `tc` sends for the same, and with what the kernel tells of it.

use super::*;
use crate::message::frames;

fn bytes(request: &Request) -> (u16, u16, Vec<u8>) {
    let bytes = request.to_bytes(1);
    let frame = frames(&bytes).next().unwrap().unwrap();
    (frame.kind, frame.flags, frame.payload.to_vec())
}

fn numbers(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_ne_bytes()).collect()
}

const BUCKET: TokenBucket = TokenBucket { rate: 250_000, limit: 106_250, buffer: 6_250_000 };

/// `struct tc_tbf_qopt` of [`BUCKET`].
fn parameters() -> Vec<u8> {
    numbers(&[0, 0, 250_000, 0, 0, 0, 106_250, 6_250_000, 0])
}

#[test]
fn a_bucket_is_that_of_tc() {
    assert_eq!(TokenBucket::new(250_000, 100_000, 25_000), BUCKET);
    let (kind, flags, payload) = bytes(&set_bucket(IfIndex(4), &BUCKET));
    // RTM_NEWQDISC; create or replace.
    assert_eq!((kind, flags), (36, 0x505));
    let expected = [
        &numbers(&[0, 4, 65_536, u32::MAX, 0])[..],
        &[8, 0, 1, 0, b't', b'b', b'f', 0],
        &[44, 0, 2, 0, 40, 0, 1, 0],
        &parameters(),
    ];
    let mut payload = payload;
    payload[31] &= 0x7f;
    assert_eq!(payload, expected.concat());
}

#[test]
fn rates_beyond_32_bits_have_an_attribute_of_their_own() {
    let fast = TokenBucket { rate: 10_000_000_000, ..BUCKET };
    let (_, _, payload) = bytes(&set_bucket(IfIndex(4), &fast));
    assert_eq!(decode_discipline(&payload).unwrap().unwrap().bucket, Some(fast));
}

#[test]
fn a_redirection_is_that_of_tc() {
    let (kind, flags, payload) = bytes(&add_ingress(IfIndex(4)));
    assert_eq!((kind, flags), (36, 0x605));
    let ingress = [&numbers(&[0, 4, 4_294_901_760, 4_294_967_281, 0])[..], b"\x0c\0\x01\0ingress\0"];
    assert_eq!(payload, ingress.concat());

    let (kind, flags, mut payload) = bytes(&redirect(IfIndex(4), IfIndex(5), SOLE_PRIORITY));
    // RTM_NEWTFILTER.
    assert_eq!((kind, flags), (44, 0x605));
    let selector = [&[1, 0, 1, 0][..], &[0; 28]].concat();
    let mirred = numbers(&[0, 0, 4, 0, 0, 1, 5]);
    let expected = [
        &numbers(&[0, 4, 0, 4_294_901_760, 66_304])[..],
        b"\x08\0\x01\0u32\0",
        &[104, 0, 2, 0],
        &[8, 0, 1, 0, 1, 0, 1, 0],
        &[36, 0, 5, 0],
        &selector,
        &[56, 0, 7, 0, 52, 0, 1, 0],
        b"\x0b\0\x01\0mirred\0\0",
        &[36, 0, 2, 0, 32, 0, 2, 0],
        &mirred,
    ];
    payload[31] &= 0x7f;
    assert_eq!(payload, expected.concat());
    let filter = FilterRecord {
        priority: 1,
        protocol: 768,
        handle: 0,
        kind: "u32".to_owned(),
        target: Some(IfIndex(5)),
        is_table: false,
    };
    assert_eq!(decode_filter(&payload), Ok(Some(filter.clone())));
    // The parent of `clsact`.
    let (_, _, payload) = bytes(&redirect(IfIndex(4), IfIndex(5), SHARED_PRIORITY));
    assert_eq!(payload[12..16], numbers(&[4_294_967_282]));
    // RTM_DELTFILTER, of one filter and no other.
    let (kind, flags, payload) =
        bytes(&delete_filter(IfIndex(4), &FilterRecord { handle: 0x8000_0800, ..filter }));
    assert_eq!((kind, flags), (45, 0x5));
    let expected = [&numbers(&[0, 4, 0x8000_0800, 4_294_967_282, 66_304])[..], b"\x08\0\x01\0u32\0"];
    assert_eq!(payload, expected.concat());
    assert!(decode_filter(&payload).unwrap().unwrap().is_table);
}

#[test]
fn what_the_kernel_tells_is_read() {
    let told = |kind: &[u8], parent: u32, options: &[u8]| {
        let attribute = |number: u8, value: &[u8]| {
            let length = u8::try_from(4 + value.len()).unwrap();
            let mut bytes = [&[length, 0, number, 0][..], value].concat();
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        [numbers(&[0, 9, 65_536, parent, 2]), attribute(1, kind), attribute(2, options)].concat()
    };
    let options = [&[40, 0, 1, 0][..], &parameters()].concat();
    let payload = told(b"tbf\0", u32::MAX, &options);
    let record = DisciplineRecord {
        index: IfIndex(9),
        handle: 65_536,
        root: true,
        ingress: false,
        kind: "tbf".to_owned(),
        bucket: Some(BUCKET),
    };
    assert!(record.is_own_bucket());
    assert_eq!(decode_discipline(&payload), Ok(Some(record)));
    let other = decode_discipline(&told(b"noqueue\0", 0, &[])).unwrap().unwrap();
    assert_eq!((other.root, other.kind.as_str(), other.bucket), (false, "noqueue", None));
    assert!(decode_discipline(&told(b"tbf\0", u32::MAX, &options[..20])).is_ok());
    assert!(decode_discipline(&told(b"tbf\0", u32::MAX, &[8, 0, 1, 0, 0, 0, 0, 0])).is_err());
    for length in 0..payload.len() {
        let _ = (decode_discipline(&payload[..length]), decode_filter(&payload[..length]));
    }
    assert!(decode_discipline(&payload[..19]).is_err());
}
