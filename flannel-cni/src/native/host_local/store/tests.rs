use super::*;

fn attachment(id: &str, ifname: &str) -> Attachment {
    Attachment { container_id: id.to_owned(), ifname: ifname.to_owned() }
}

#[test]
fn an_address_is_taken_once() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("a/net")).unwrap();
    let ip = "10.1.2.3".parse().unwrap();
    // Left by a process that was killed.
    fs::write(store.directory.join(TEMPORARY), "x").unwrap();
    assert!(store.reserve(ip, &attachment("a", "eth0"), None).unwrap());
    assert!(!store.reserve(ip, &attachment("b", "eth0"), None).unwrap());
    let [reservation] = &store.reservations().unwrap()[..] else { panic!("one reservation") };
    assert_eq!((reservation.ip, &reservation.holder), (ip, &Holder::Attachment(attachment("a", "eth0"))));
    store.release(reservation).unwrap();
    store.release(reservation).unwrap();
    assert!(store.reservations().unwrap().is_empty());
}

#[test]
fn the_lock_keeps_others_out() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let other = File::open(directory.path().join("lock")).unwrap();
    let refused = Flock::lock(other, FlockArg::LockExclusiveNonblock).map(drop).map_err(|(_, errno)| errno);
    assert_eq!(refused, Err(nix::errno::Errno::EWOULDBLOCK));
    drop(store);
    let other = File::open(directory.path().join("lock")).unwrap();
    assert!(Flock::lock(other, FlockArg::LockExclusiveNonblock).is_ok());
}

#[test]
fn errors_name_the_path() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, "").unwrap();
    let error = Store::open(&path.join("net")).unwrap_err();
    assert_eq!(error.to_string(), format!("mkdir {}: not a directory", path.join("net").display()));
}
