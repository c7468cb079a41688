use super::base64;

#[test]
fn decodes_the_vectors_of_rfc_4648() {
    for (text, bytes) in [
        ("", ""),
        ("Zg==", "f"),
        ("Zm8=", "fo"),
        ("Zm9v", "foo"),
        ("Zm9vYg==", "foob"),
        ("Zm9vYmE=", "fooba"),
        ("Zm9vYmFy", "foobar"),
    ] {
        assert_eq!(base64(text).unwrap(), bytes.as_bytes(), "{text}");
    }
    assert!(base64("Z!==").is_err());
}
