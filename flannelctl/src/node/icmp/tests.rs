use super::*;
use std::net::{Ipv4Addr, Ipv6Addr};

#[test]
fn request_has_the_layout_of_the_rfc() {
    // Type 8, code 0, checksum, identifier 0x1234, sequence 1, two bytes.
    assert_eq!(request(Family::V4, 0x1234, 1, 2), [8, 0, 0xe5, 0xc9, 0x12, 0x34, 0, 1, 0, 1]);
    assert_eq!(
        checksum(&request(Family::V4, 0x1234, 1, 7)),
        0,
        "with its checksum a message sums up to zero"
    );
    assert_eq!(request(Family::V6, 1, 2, 0), [128, 0, 0, 0, 0, 1, 0, 2]);
}

/// Where the sandbox of the tests allows neither kind of socket, the error says how to get one.
#[tokio::test]
async fn loopback_answers_in_full_size() {
    for to in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let mut echo = match Echo::open(to, 7) {
            Ok(echo) => echo,
            Err(error @ EchoError::NotPermitted) => {
                assert!(error.to_string().contains("ping_group_range"));
                continue;
            }
            Err(EchoError::Socket { .. }) if to.is_ipv6() => continue,
            Err(error) => panic!("{error:?}"),
        };
        let limit = Duration::from_secs(10);
        let answer = echo.exchange(1400, limit).await;
        assert!(matches!(answer, Answer::After(_)), "{to}: {answer:?}");
        assert_eq!(echo.largest(9000, 1, limit).await, Some(9000));
        // Larger than the loopback device carries.
        assert_eq!(echo.exchange(65_550, limit).await, Answer::TooLarge);
    }
}
