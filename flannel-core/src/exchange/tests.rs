//! Answers are built by hand, with the kernel's layout, and arrive in any way that datagrams can.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::family::Family;
use crate::link::{IfIndex, Mac};
use crate::message::nftables::{Table, TableFamily};
use crate::message::{conntrack, link, neighbour, route};

const PORT: u32 = 4711;
const DONE: u16 = 3;
const ERROR: u16 = 2;
const MULTI: u16 = 2;
const INTERRUPTED: u16 = 0x10;
const CAPPED: u16 = 0x100;

/// A message with a header as the kernel sends it.
fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + payload.len()).unwrap();
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(PORT.to_ne_bytes());
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn done(sequence: u32, code: i32) -> Vec<u8> {
    message(DONE, MULTI, sequence, &code.to_ne_bytes())
}

/// An error, or with 0 an ACK, with the header of the request.
fn error(sequence: u32, errno: i32) -> Vec<u8> {
    message(ERROR, CAPPED, sequence, &[&(-errno).to_ne_bytes()[..], &[0; 16]].concat())
}

fn refusal(errno: i32) -> Refusal {
    Refusal { errno, text: String::new(), offset: None }
}

/// `RTM_NEWNEIGH` of a neighbour on link 4.
fn neighbour(sequence: u32, flags: u16, host: u8) -> Vec<u8> {
    let request = neighbour::set(IfIndex(4), [10, 0, 0, host].into(), Mac([2, 0, 0, 0, 0, host])).to_bytes(0);
    message(28, flags, sequence, &request[16..])
}

fn numbers() -> Numbers {
    Numbers::new(PORT)
}

/// Passes datagrams to an exchange, of which the last one completes it.
fn complete<E: Exchange>(exchange: &mut E, datagrams: &[Vec<u8>]) -> Option<E::Outcome> {
    let (last, others) = datagrams.split_last().unwrap();
    for datagram in others {
        assert!(exchange.take(datagram).unwrap().is_none(), "too early: {datagram:?}");
    }
    exchange.take(last).unwrap()
}

/// The last byte of each address that a dump of neighbours returned.
fn dump(datagrams: &[Vec<u8>]) -> Option<Result<Vec<u8>, FetchError>> {
    let get = neighbour::dump(Family::V4, IfIndex(4));
    let mut fetch = Fetch::new(&get);
    assert_eq!(fetch.start(&mut numbers()), get.request.to_bytes(1));
    let outcome = complete(&mut fetch, datagrams)?;
    Some(outcome.map(|fetched| fetched.all().unwrap().iter().map(host).collect()))
}

fn host(record: &neighbour::NeighbourRecord) -> u8 {
    match record.address {
        std::net::IpAddr::V4(address) => address.octets()[3],
        std::net::IpAddr::V6(_) => panic!("{record:?}"),
    }
}

#[test]
fn a_dump_ends_with_done() {
    let two = [neighbour(1, MULTI, 1), neighbour(1, MULTI, 2)].concat();
    assert_eq!(dump(std::slice::from_ref(&two)), None);
    assert_eq!(dump(&[two.clone(), done(1, 0)]), Some(Ok(vec![1, 2])));
    assert_eq!(dump(&[[two, done(1, 0)].concat()]), Some(Ok(vec![1, 2])));
    assert_eq!(dump(&[done(1, 0)]), Some(Ok(vec![])));
}

#[test]
fn a_dump_that_changed_meanwhile_is_interrupted() {
    let interrupted = Some(Err(FetchError::Interrupted));
    let early = neighbour(1, MULTI | INTERRUPTED, 1);
    assert_eq!(dump(&[early, neighbour(1, MULTI, 2), done(1, 0)]), interrupted);
    let at_the_end = message(DONE, MULTI | INTERRUPTED, 1, &[0; 4]);
    assert_eq!(dump(&[neighbour(1, MULTI, 1), at_the_end]), interrupted);
    for errno in [4, 11] {
        assert_eq!(dump(&[neighbour(1, MULTI, 1), done(1, -errno)]), interrupted);
        assert_eq!(dump(&[error(1, errno)]), interrupted);
    }
}

#[test]
fn a_failed_dump_is_not_an_empty_one() {
    assert_eq!(dump(&[neighbour(1, MULTI, 1), done(1, -22)]), Some(Err(FetchError::Refused(refusal(22)))));
    assert_eq!(dump(&[error(1, 1)]), Some(Err(FetchError::Refused(refusal(1)))));
}

#[test]
fn a_dump_of_an_unused_table_or_a_deleted_link_is_empty() {
    for errno in [2, 19] {
        assert_eq!(dump(&[done(1, -errno)]), Some(Ok(vec![])));
    }
}

#[test]
fn answers_to_others_are_ignored() {
    let earlier = [neighbour(9, MULTI, 9), done(9, 0)].concat();
    let mut other_port = done(1, 0);
    other_port[12] ^= 1;
    let notification = neighbour(0, 0, 8);
    let all = [earlier, other_port, notification, neighbour(1, MULTI, 1), done(1, 0)];
    assert_eq!(dump(&all), Some(Ok(vec![1])));
}

#[test]
fn an_object_that_cannot_be_decoded_hides_no_other() {
    let get = neighbour::dump(Family::V4, IfIndex(4));
    let mut fetch = Fetch::new(&get);
    fetch.start(&mut numbers());
    let datagrams = [message(28, MULTI, 1, &[2, 0, 0]), neighbour(1, MULTI, 4), done(1, 0)];
    let fetched = complete(&mut fetch, &datagrams).unwrap().unwrap();
    assert_eq!(fetched.objects.iter().map(host).collect::<Vec<_>>(), [4]);
    assert_eq!(fetched.all(), Err(DecodeError::Header { object: "neighbour", length: 3 }));
}

#[test]
fn a_truncated_message_is_an_error() {
    let get = link::dump();
    let mut fetch = Fetch::new(&get);
    fetch.start(&mut numbers());
    let whole = neighbour(1, MULTI, 1);
    assert!(fetch.take(&whole[..whole.len() - 4]).is_err());
    assert!(fetch.take(&done(1, 0)[..18]).is_err());
    // An error message without its code.
    assert!(fetch.take(&message(ERROR, 0, 1, &[])).is_err());
}

/// One object, no object, or an error.
#[test]
fn a_request_for_one_object_has_one_answer() {
    let get = route::get([10, 0, 0, 1].into());
    let one = |datagram: &[u8]| {
        let mut fetch = Fetch::new(&get);
        fetch.start(&mut numbers());
        let outcome = fetch.take(datagram).unwrap().unwrap();
        outcome.map(|fetched| fetched.all().unwrap().len())
    };
    let record = [&[2, 24, 0, 0, 254, 3, 0, 1][..], &[0; 4]].concat();
    assert_eq!(one(&message(24, 0, 1, &record)), Ok(1));
    assert_eq!(one(&error(1, 0)), Ok(0));
    // Absent objects are for the caller to judge.
    assert_eq!(one(&error(1, 19)), Err(FetchError::Refused(refusal(19))));
    assert!(refusal(19).means_absent());
}

#[test]
fn an_exchange_can_begin_anew() {
    let get = conntrack::dump(Family::V4, None);
    let (mut fetch, mut numbers) = (Fetch::new(&get), numbers());
    fetch.start(&mut numbers);
    assert!(fetch.take(&message(0x100, MULTI | INTERRUPTED, 1, &[2, 0, 0, 0])).unwrap().is_none());
    assert_eq!(fetch.start(&mut numbers), get.request.to_bytes(2));
    // The end of the first attempt is late, and no end of the second one.
    assert!(fetch.take(&done(1, 0)).unwrap().is_none());
    assert_eq!(fetch.take(&done(2, 0)).unwrap(), Some(Ok(Fetched { objects: vec![], undecoded: None })));
}

#[test]
fn numbers_are_never_zero() {
    let mut numbers = Numbers { port: 0, last: u32::MAX - 5 };
    assert_eq!(numbers.reserve(4).first, u32::MAX - 4);
    assert_eq!(numbers.reserve(1).first, 1);
    assert_eq!(numbers.reserve(3).first, 2);
    numbers.last = u32::MAX - 5;
    assert_eq!(numbers.reserve(5).first, 1);
}

fn delete(count: u8) -> Vec<Request> {
    (0..count).map(|host| neighbour::delete(IfIndex(4), [10, 0, 0, host].into())).collect()
}

#[test]
fn a_warning_comes_with_the_success() {
    let requests = delete(1);
    let mut changes = Changes::new(&requests);
    changes.start(&mut numbers());
    let warned = message(ERROR, CAPPED | 0x200, 1, &[&[0; 20][..], &[8, 0, 1, 0], b"hm!\0"].concat());
    assert_eq!(changes.take(&warned).unwrap(), Some(vec![Ok(Some("hm!".to_owned()))]));
}

fn commands(count: usize) -> Vec<Command> {
    let family = TableFamily::IP;
    let table = |place| Table { family, name: format!("t{place}"), flags: 0, comment: None };
    (0..count).map(|place| Command::AddTable(table(place))).collect()
}

fn commit(count: usize, datagrams: &[Vec<u8>]) -> Option<Result<(), Rejected>> {
    let commands = commands(count);
    let mut transaction = Transaction::new(&commands);
    assert_eq!(transaction.start(&mut numbers()), Command::batch(&commands, 1));
    complete(&mut transaction, datagrams)
}

#[test]
fn a_transaction_ends_with_the_answer_to_its_last_command() {
    assert_eq!(commit(3, &[error(4, 0)]), Some(Ok(())));
    assert_eq!(commit(3, &[error(2, 0)]), None);
    assert_eq!(commit(3, &[message(0x0a0f, 0, 1, &[0; 4])]), None);
}

#[test]
fn a_transaction_reports_its_first_error() {
    let rejected = |command, request: &str, errno| {
        Some(Err(Rejected { command, request: request.to_owned(), refusal: refusal(errno) }))
    };
    assert_eq!(commit(3, &[error(3, 17), error(4, 22)]), rejected(Some(1), "add table ip t1", 17));
    assert_eq!(commit(3, &[error(3, 17), error(4, 0)]), rejected(Some(1), "add table ip t1", 17));
    assert_eq!(commit(3, &[error(4, 2)]), rejected(Some(2), "add table ip t2", 2));
    // As a whole, without an answer to any command.
    assert_eq!(commit(3, &[error(1, 1)]), rejected(None, "transaction of 3 commands", 1));
}

/// Splits messages into datagrams at random places.
fn datagrams(messages: &[Vec<u8>], cuts: &[bool]) -> Vec<Vec<u8>> {
    let mut datagrams = vec![Vec::new()];
    for (message, cut) in messages.iter().zip(cuts.iter().chain(std::iter::repeat(&false))) {
        datagrams.last_mut().unwrap().extend(message);
        if *cut {
            datagrams.push(Vec::new());
        }
    }
    datagrams
}

proptest! {
    /// Errors anywhere in a batch belong to their requests, in any order and any split of the answers, with messages
    /// of others between them.
    #[test]
    fn results_belong_to_their_requests(
        errors in vec(prop_oneof![Just(0), 1..40], 1..20),
        order in vec(any::<Index>(), 20),
        cuts in vec(any::<bool>(), 40),
        earlier in 0..100u32,
    ) {
        let requests = delete(u8::try_from(errors.len()).unwrap());
        let mut numbers = numbers();
        numbers.last = earlier;
        let mut changes = Changes::new(&requests);
        let sent = changes.start(&mut numbers);
        prop_assert_eq!(message::frames(&sent).count(), requests.len());
        let mut answers: Vec<Vec<u8>> =
            (earlier + 1..).zip(&errors).map(|(sequence, errno)| error(sequence, *errno)).collect();
        for (place, other) in (0..answers.len()).zip(&order) {
            answers.swap(place, other.index(errors.len()));
        }
        let mixed: Vec<_> = answers.into_iter().flat_map(|answer| [error(earlier, 5), answer]).collect();
        let mut outcome = None;
        for datagram in datagrams(&mixed, &cuts) {
            prop_assert!(outcome.is_none() || datagram.is_empty());
            outcome = outcome.or(changes.take(&datagram).unwrap());
        }
        let expected: Vec<ChangeResult> =
            errors.into_iter().map(|errno| if errno == 0 { Ok(None) } else { Err(refusal(errno)) }).collect();
        prop_assert_eq!(outcome, Some(expected));
    }

    /// However the messages of a dump are split, it has all its objects in order.
    #[test]
    fn a_dump_may_be_split_anywhere(hosts in vec(any::<u8>(), 0..30), cuts in vec(any::<bool>(), 31)) {
        let mut messages: Vec<_> = hosts.iter().map(|host| neighbour(1, MULTI, *host)).collect();
        messages.push(done(1, 0));
        let get = neighbour::dump(Family::V4, IfIndex(4));
        let mut fetch = Fetch::new(&get);
        fetch.start(&mut numbers());
        let mut outcome = None;
        for datagram in datagrams(&messages, &cuts) {
            outcome = outcome.or(fetch.take(&datagram).unwrap());
        }
        let found: Vec<u8> = outcome.unwrap().unwrap().objects.iter().map(host).collect();
        prop_assert_eq!(found, hosts);
    }

    /// Garbage is an error, an outcome or nothing, never a panic; and what is no answer changes nothing.
    #[test]
    fn garbage_does_no_harm(
        words in vec(prop_oneof![0u32..64, any::<u32>(), Just(PORT), Just(0x0002_0003)], 0..40),
        cut in 0usize..4,
    ) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let bytes = &bytes[..bytes.len().saturating_sub(cut)];
        let (get, requests, commands) = (link::dump(), delete(3), commands(3));
        let (mut fetch, mut changes, mut transaction) =
            (Fetch::new(&get), Changes::new(&requests), Transaction::new(&commands));
        fetch.start(&mut numbers());
        changes.start(&mut numbers());
        transaction.start(&mut numbers());
        drop((fetch.take(bytes), changes.take(bytes), transaction.take(bytes)));
        let foreign = message(ERROR, 0, 99, bytes);
        prop_assert_eq!(fetch.take(&foreign), Ok(None));
        prop_assert_eq!(changes.take(&foreign), Ok(None));
    }
}
