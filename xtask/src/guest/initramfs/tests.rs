use super::{DIRECTORY, PROGRAM, add};

#[test]
fn entries_are_padded_to_four_bytes() {
    let mut archive = Vec::new();
    add(&mut archive, "dev", DIRECTORY, b"");
    assert_eq!(
        String::from_utf8(archive.clone()).unwrap(),
        "070701\
         00000000000041ed00000000000000000000000100000000\
         0000000000000000000000000000000000000000\
         0000000400000000dev\0\0\0"
    );
    add(&mut archive, "init", PROGRAM, b"12345");
    assert_eq!(archive.len(), 116 + 110 + 6 + 8);
    assert!(archive.ends_with(b"init\0\x0012345\0\0\0"));
}
