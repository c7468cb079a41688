use super::*;
use std::time::Duration;

fn notifier(variables: &[(&str, &str)]) -> Notifier {
    let env = |name: &str| {
        variables.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
    };
    Notifier::from_env(env, 42)
}

fn received(socket: &UnixDatagram) -> Vec<String> {
    socket.set_nonblocking(true).unwrap();
    let mut messages = Vec::new();
    let mut buffer = [0; 512];
    while let Ok(length) = socket.recv(&mut buffer) {
        messages.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
    }
    messages
}

fn speak(notifier: &mut Notifier) {
    notifier.status("waiting\nfor etcd");
    notifier.status("waiting\nfor etcd");
    notifier.ready();
    notifier.status("3 peers");
    notifier.ping();
    notifier.stopping();
}

const SPOKEN: [&str; 5] =
    ["STATUS=waiting for etcd", "READY=1", "STATUS=3 peers", "WATCHDOG=1", "STOPPING=1"];

#[test]
fn a_socket_in_the_file_system() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    speak(&mut notifier(&[("NOTIFY_SOCKET", path.to_str().unwrap())]));
    assert_eq!(received(&manager), SPOKEN);
}

#[test]
fn an_abstract_socket() {
    let name = format!("flanneld-test-{}", std::process::id());
    let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    speak(&mut notifier(&[("NOTIFY_SOCKET", &format!("@{name}"))]));
    assert_eq!(received(&manager), SPOKEN);
}

#[test]
fn no_manager_is_no_error() {
    for socket in ["", "/nowhere/notify", "vsock:2:1", "relative", &format!("/{}", "x".repeat(200))] {
        speak(&mut notifier(&[("NOTIFY_SOCKET", socket)]));
    }
    speak(&mut notifier(&[]));
}

#[test]
fn a_manager_that_does_not_read_stops_nobody() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let mut notifier = notifier(&[("NOTIFY_SOCKET", path.to_str().unwrap())]);
    for _ in 0..10_000 {
        notifier.ping();
    }
    assert!(notifier.failing, "its queue is full");
    assert!(!received(&manager).is_empty());
    notifier.ping();
    assert!(!notifier.failing);
}

#[test]
fn watchdog() {
    let interval = |variables: &[(&str, &str)]| {
        let socket = [("NOTIFY_SOCKET", "/run/notify")];
        notifier(&[&socket, variables].concat()).ping_interval()
    };
    let half = Some(Duration::from_secs(15));
    assert_eq!(interval(&[("WATCHDOG_USEC", "30000000")]), half);
    assert_eq!(interval(&[("WATCHDOG_USEC", "30000000"), ("WATCHDOG_PID", "42")]), half);
    assert_eq!(interval(&[("WATCHDOG_USEC", "30000000"), ("WATCHDOG_PID", "43")]), None);
    assert_eq!(interval(&[("WATCHDOG_USEC", "0")]), None);
    assert_eq!(interval(&[("WATCHDOG_USEC", "soon")]), None);
    assert_eq!(interval(&[]), None);
    assert_eq!(notifier(&[("WATCHDOG_USEC", "30000000")]).ping_interval(), None);
}
