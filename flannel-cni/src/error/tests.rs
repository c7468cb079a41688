use super::*;

#[test]
fn an_error_prints_as_go_prints_it() {
    let error = CniError::new(Code::InvalidEnvironment, "a \"b\"");
    assert_eq!(error.to_json(), "{\n    \"code\": 4,\n    \"msg\": \"a \\\"b\\\"\"\n}");
    let error = error.with_details("d");
    assert_eq!(
        error.to_json(),
        "{\n    \"code\": 4,\n    \"msg\": \"a \\\"b\\\"\",\n    \"details\": \"d\"\n}"
    );
}

#[test]
fn a_delegate_error_is_read_in_any_case() {
    let value = Value::parse(br#"{"Code":11,"MSG":"later","details":"d","cniVersion":"1.0.0"}"#).unwrap();
    let error = CniError::from_json(value.as_object().unwrap());
    assert_eq!(error, CniError { code: 11, msg: "later".to_owned(), details: "d".to_owned() });
}

#[test]
fn a_path_error_reads_as_in_go() {
    let path = std::path::Path::new("/nowhere/at/all");
    let error = std::fs::File::open(path).map_err(|error| PathError::new("open", path, error)).unwrap_err();
    assert_eq!(error.to_string(), "open /nowhere/at/all: no such file or directory");
}

#[test]
fn errors_of_del_never_contain_not_found() {
    let error = CniError::new(Code::Internal, "plugin not found").with_details("not found");
    let reworded = error.reworded_for_del();
    assert!(!reworded.to_json().contains("not found"), "{reworded:?}");
}
