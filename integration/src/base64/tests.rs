use super::{decode, encode};

#[test]
fn holds_the_vectors_of_rfc_4648() {
    for (text, bytes) in [
        ("", ""),
        ("Zg==", "f"),
        ("Zm8=", "fo"),
        ("Zm9v", "foo"),
        ("Zm9vYg==", "foob"),
        ("Zm9vYmE=", "fooba"),
        ("Zm9vYmFy", "foobar"),
    ] {
        assert_eq!(decode(text).unwrap(), bytes.as_bytes(), "{text}");
        assert_eq!(encode(bytes.as_bytes()), text);
    }
    assert_eq!(encode(&[0xfb, 0xef, 0xff]), "++//");
    assert!(decode("Z!==").is_err());
}
