use super::*;

/// A message with a header as the kernel sends it.
fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + payload.len()).unwrap();
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn done(code: i32) -> Vec<u8> {
    message(3, 2, 7, &code.to_ne_bytes())
}

fn object(number: u8) -> Vec<u8> {
    message(24, 2, 7, &[number])
}

/// Reads datagrams until the end: objects, end, interrupted.
fn read(datagrams: &[Vec<u8>]) -> Result<(Vec<u8>, Option<End>, bool), DecodeError> {
    let mut listing = Listing { sequence: 7, objects: Vec::new(), interrupted: false };
    let mut end = None;
    for datagram in datagrams {
        end = listing.take(datagram, |payload| match payload {
            [0] => Ok(None),
            [number] => Ok(Some(*number)),
            _ => Err(DecodeError::Header { object: "test", length: payload.len() }),
        })?;
    }
    Ok((listing.objects, end, listing.interrupted))
}

#[test]
fn a_listing_ends_with_done() {
    let one = [object(1), object(0), object(2)].concat();
    assert_eq!(read(std::slice::from_ref(&one)).unwrap(), (vec![1, 2], None, false));
    assert_eq!(read(&[one.clone(), done(0)]).unwrap(), (vec![1, 2], Some(End::Done), false));
    assert_eq!(read(&[[one, done(0)].concat()]).unwrap(), (vec![1, 2], Some(End::Done), false));
}

#[test]
fn a_listing_that_changed_says_so() {
    let interrupted = message(24, 0x12, 7, &[1]);
    assert_eq!(read(&[interrupted, object(2), done(0)]).unwrap(), (vec![1, 2], Some(End::Done), true));
    let at_the_end = message(3, 0x12, 7, &[0; 4]);
    assert_eq!(read(&[object(1), at_the_end]).unwrap(), (vec![1], Some(End::Done), true));
}

#[test]
fn a_listing_that_fails_is_not_an_empty_one() {
    let (_, end, _) = read(&[object(1), done(-22)]).unwrap();
    assert_eq!(end, Some(End::Refused(Refused { errno: Errno::EINVAL, text: String::new() })));
    let refused = message(2, 0x100, 7, &[&(-1i32).to_ne_bytes()[..], &[0; 16]].concat());
    let (_, end, _) = read(&[refused]).unwrap();
    assert_eq!(end, Some(End::Refused(Refused { errno: Errno::EPERM, text: String::new() })));
}

#[test]
fn a_table_that_nobody_used_and_a_link_that_has_gone_are_empty() {
    assert_eq!(read(&[done(-2)]).unwrap(), (vec![], Some(End::Done), false));
    assert_eq!(read(&[done(-19)]).unwrap(), (vec![], Some(End::Done), false));
}

#[test]
fn what_belongs_to_another_request_is_passed_over() {
    let late = [message(24, 2, 6, &[9]), message(3, 2, 6, &[0; 4])].concat();
    assert_eq!(read(&[late, object(1), done(0)]).unwrap(), (vec![1], Some(End::Done), false));
}

#[test]
fn an_unreadable_object_hides_no_other() {
    let odd = message(24, 2, 7, &[1, 2, 3]);
    assert_eq!(read(&[odd, object(4), done(0)]).unwrap(), (vec![4], Some(End::Done), false));
}

#[test]
fn a_cut_message_is_an_error() {
    let mut cut = object(1);
    cut[0] = 200;
    assert!(read(&[cut]).is_err());
}
