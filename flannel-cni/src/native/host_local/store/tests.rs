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
    store.release(&reservation.file_name).unwrap();
    store.release(&reservation.file_name).unwrap();
    assert!(store.reservations().unwrap().is_empty());
}

#[test]
fn addresses_of_one_attachment_come_and_go_by_themselves() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let [v4, v6, taken] = ["10.1.2.3", "fd00::3", "fd00::4"].map(|ip| ip.parse().unwrap());
    let (own, other) = (attachment("a", "eth0"), attachment("b", "eth0"));
    assert!(store.reserve(taken, &other, None).unwrap());
    assert!(store.reserve(v4, &own, None).unwrap());
    assert!(!store.reserve_beside(v4, taken, &own, None).unwrap());
    assert!(store.reserve_beside(v4, v6, &own, None).unwrap());
    let holders = || -> std::collections::BTreeMap<IpAddr, Holder> {
        store.reservations().unwrap().into_iter().map(|one| (one.ip, one.holder)).collect()
    };
    let [own, other] = [own, other].map(Holder::Attachment);
    assert_eq!(holders(), [(v4, own.clone()), (v6, own.clone()), (taken, other.clone())].into());
    store.release(&v4.to_string()).unwrap();
    assert_eq!(holders(), [(v6, own), (taken, other)].into());
    // The target of the hard link no longer exists.
    assert!(store.reserve_beside(v4, v4, &attachment("c", "eth0"), None).unwrap());
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
