use super::script_of;
use std::process::Command;

#[test]
fn script_does_the_same_as_the_command() {
    let mut command = Command::new("sh");
    command.args(["-c", "echo \"$A|$1\"; exit 3", "name", "b'c \"d\" $A"]).env("A", "x y'z");
    let script = script_of(&command, "/dev/stdout").unwrap();
    let output = Command::new("sh").arg("-c").arg(script).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "x y'z|b'c \"d\" $A\n");
}
