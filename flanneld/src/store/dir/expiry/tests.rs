use super::*;
use proptest::prelude::*;

#[test]
fn known_texts() {
    // The numbers are those of date(1): date -u -d TEXT +%s.
    let cases = [
        ("0", Some(0)),
        ("1795495320", Some(1_795_495_320_000)),
        ("1795495320.25", Some(1_795_495_320_250)),
        ("1970-01-01T00:00:00Z", Some(0)),
        ("2026-11-24T04:42:00Z", Some(1_795_495_320_000)),
        ("2026-11-24T04:42:00.250Z", Some(1_795_495_320_250)),
        ("2026-11-24t06:12:00+01:30", Some(1_795_495_320_000)),
        ("2026-11-23T23:42:00-05:00", Some(1_795_495_320_000)),
        ("2024-02-29T12:00:00z", Some(1_709_208_000_000)),
        ("2000-02-29T00:00:00Z", Some(951_782_400_000)),
        ("9999-12-31T23:59:59.999Z", Some(MAX_MILLIS)),
        ("2025-02-29T12:00:00Z", None),
        ("2026-13-01T00:00:00Z", None),
        ("2026-11-24T24:00:00Z", None),
        ("2026-11-24T04:42:00", None),
        ("2026-11-24", None),
        ("2026-11-24T04:42:00+1:30", None),
        ("tomorrow", None),
        ("-5", None),
        ("1.", None),
        ("99999999999999999999", None),
        ("", None),
    ];
    for (text, expected) in cases {
        let expiry = Expiry::parse(text);
        assert_eq!(expiry.map(|expiry| expiry.at_millis), expected, "{text:?}");
        assert!(expiry.is_none_or(|expiry| expiry.lifetime == DEFAULT_LIFETIME));
    }
    assert_eq!(Expiry::parse("5 2.5\n").unwrap().lifetime, Duration::from_millis(2500));
    assert_eq!(Expiry::parse("5 x"), None);
    assert_eq!(Expiry::parse("5 2 3"), None);
    let expiry = Expiry { at_millis: 1_795_495_320_250, lifetime: DEFAULT_LIFETIME };
    assert_eq!(expiry.text(), "2026-11-24T04:42:00.250Z 86400\n");
}

proptest! {
    #[test]
    fn what_is_written_is_read(at_millis in 0..=MAX_MILLIS, lifetime in 0u64..=1_000_000_000) {
        let expiry = Expiry { at_millis, lifetime: Duration::from_millis(lifetime) };
        prop_assert_eq!(Expiry::parse(&expiry.text()), Some(expiry));
    }

    #[test]
    fn any_text_is_answered(text in ".{0,40}") {
        let _ = Expiry::parse(&text);
    }
}
