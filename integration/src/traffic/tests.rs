use super::{Ping, parse_ping};

#[test]
fn reads_what_ping_says() {
    let good = "PING 10.42.2.2 (10.42.2.2) 56(84) bytes of data.\n\n--- 10.42.2.2 ping statistics ---\n\
        3 packets transmitted, 3 received, 0% packet loss, time 39ms\nrtt min/avg/max/mdev = 0.081/0.102/0.130/0.020 ms\n";
    assert_eq!(parse_ping(good).unwrap(), Ping { sent: 3, received: 3, average_ms: 0.102 });
    let lost = "--- 10.42.2.2 ping statistics ---\n2 packets transmitted, 0 received, +2 errors, 100% packet loss, time 20ms\n";
    assert_eq!(parse_ping(lost).unwrap(), Ping { sent: 2, received: 0, average_ms: 0.0 });
    assert!(parse_ping("ping: unknown host").is_err());
}
