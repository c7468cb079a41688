use super::*;
use crate::environment::Command;
use flannel_core::host_local::Attachment;
use std::fs;
use std::os::unix::fs::PermissionsExt;

fn environment(path: &OsStr) -> Environment {
    Environment {
        command: Command::Del,
        attachment: Attachment { container_id: "cid1".to_owned(), ifname: "eth0".to_owned() },
        netns: "/run/netns/none".into(),
        args: "K=V".to_owned(),
        path: path.to_owned(),
        netns_override: false,
    }
}

/// Runs a shell script as a delegate.
fn run_script(script: &str) -> Result<String, CniError> {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("stub");
    fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let environment = environment(directory.path().as_os_str());
    match run("stub", b"{\"name\":\"n\"}", &environment) {
        Ok(stdout) => Ok(String::from_utf8(stdout).unwrap()),
        Err(CallError::Failed(error)) => Err(error),
        Err(CallError::Find(error)) => panic!("{error}"),
    }
}

#[test]
fn a_delegate_gets_environment_and_config() {
    let out = run_script("echo $CNI_COMMAND $CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME $CNI_ARGS; cat").unwrap();
    assert_eq!(out, "DEL cid1 /run/netns/none eth0 K=V\n{\"name\":\"n\"}");
    assert_eq!(run_script("exit 0").unwrap(), "", "one that reads nothing");
}

#[test]
fn failures_have_the_errors_of_go() {
    for (script, code, msg) in [
        (r#"echo '{"code":11,"msg":"later","details":"d"}'; exit 1"#, 11, "later"),
        ("exit 3", 0, "netplugin failed with no error message: exit status 3"),
        ("echo oops >&2; exit 1", 0, "netplugin failed: \"oops\\n\""),
        (
            "echo no json; exit 1",
            0,
            "netplugin failed but error parsing its diagnostic message \"no json\\n\": \
             expected ident at line 1 column 2",
        ),
    ] {
        let error = run_script(script).unwrap_err();
        assert_eq!((error.code, error.msg.as_str()), (code, msg), "{script}");
    }
}

#[test]
fn a_program_is_the_first_regular_file() {
    let directory = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| directory.path().join(name));
    fs::create_dir_all(a.join("bridge")).unwrap();
    fs::create_dir_all(&b).unwrap();
    fs::write(b.join("bridge"), "").unwrap();
    let path = std::env::join_paths([&a, &b]).unwrap();
    assert_eq!(find("bridge", &path).unwrap(), b.join("bridge"));
    let error = |name| find(name, &path).unwrap_err().to_string();
    assert_eq!(
        error("zzz"),
        format!("failed to find plugin \"zzz\" in path [{} {}]", a.display(), b.display())
    );
    assert_eq!(error(""), "no plugin name provided");
    assert_eq!(error("a/b"), "invalid plugin name: a/b");
}

#[test]
fn a_busy_program_is_retried() {
    let busy = || io::Error::from_raw_os_error(Errno::ETXTBSY as i32);
    let mut attempts = 0;
    let result = retry_while_busy(Duration::ZERO, || {
        attempts += 1;
        if attempts < 6 { Err(busy()) } else { Ok(attempts) }
    });
    assert_eq!(result.unwrap(), 6);
    let mut attempts = 0;
    let result: io::Result<()> = retry_while_busy(Duration::ZERO, || {
        attempts += 1;
        Err(busy())
    });
    assert_eq!((result.unwrap_err().raw_os_error(), attempts), (Some(Errno::ETXTBSY as i32), 6));
}
