use super::*;
use std::sync::{Arc, Mutex};
use tracing::{debug, info, info_span, trace, warn};

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The lines of one event per level, ours and a library's, without their times.
fn logged(verbosity: i32, format: LogFormat) -> String {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = subscriber(LogOptions { verbosity, format }, false, move || writer.clone());
    tracing::subscriber::with_default(subscriber, || {
        let _round = info_span!("round", reason = "start").entered();
        warn!(subnet = "10.5.1.0/24", attempt = 2, "operation failed, retrying");
        info!("info");
        debug!("debug");
        trace!("trace");
        warn!(target: "h2::client", "library warn");
        info!(target: "h2::client", "library info");
        debug!(target: "h2::client", token = "s3cret", "library debug");
    });
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let time = regex::Regex::new(r"\d{4}-\d\d-\d\dT[0-9:.]+Z").unwrap();
    time.replace_all(&text, "TIME").into_owned()
}

#[test]
fn text() {
    insta::assert_snapshot!(logged(0, LogFormat::Text), @r#"
    TIME  WARN round{reason="start"}: operation failed, retrying subnet="10.5.1.0/24" attempt=2
    TIME  INFO round{reason="start"}: info
    TIME  WARN round{reason="start"}: library warn
    "#);
    insta::assert_snapshot!(logged(1, LogFormat::Text), @r#"
    TIME  WARN round{reason="start"}: flanneld::logging::tests: operation failed, retrying subnet="10.5.1.0/24" attempt=2
    TIME  INFO round{reason="start"}: flanneld::logging::tests: info
    TIME DEBUG round{reason="start"}: flanneld::logging::tests: debug
    TIME  WARN round{reason="start"}: h2::client: library warn
    "#);
}

#[test]
fn json() {
    insta::assert_snapshot!(logged(0, LogFormat::Json), @r#"
    {"timestamp":"TIME","level":"WARN","message":"operation failed, retrying","subnet":"10.5.1.0/24","attempt":2,"span":{"reason":"start","name":"round"}}
    {"timestamp":"TIME","level":"INFO","message":"info","span":{"reason":"start","name":"round"}}
    {"timestamp":"TIME","level":"WARN","message":"library warn","span":{"reason":"start","name":"round"}}
    "#);
}

#[test]
fn verbosity() {
    let count = |verbosity| logged(verbosity, LogFormat::Text).lines().count();
    assert_eq!([-1, 0, 1, 4, 5, 10].map(count), [3, 3, 4, 4, 6, 6]);
    assert!(!logged(i32::MAX, LogFormat::Text).contains("s3cret"), "libraries may log requests");
}
