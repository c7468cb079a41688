//! Runs flannelctl and shows what it says.

use std::path::Path;
use std::process::{Command, Output};

/// A command on a directory of leases, on a node that has nothing else. The files of the node are beside the directory.
pub(crate) fn command(directory: &Path, arguments: &[&str]) -> Command {
    let node = directory.parent().expect("the directory is not the root");
    let mut command = Command::new(env!("CARGO_BIN_EXE_flannelctl"));
    command
        .arg("--lease-dir")
        .arg(directory)
        .arg("--subnet-file")
        .arg(node.join("subnet.env"))
        .arg("--state-dir")
        .arg(node.join("state"))
        .arg("--status-socket")
        .arg(node.join("flanneld.sock"))
        .args(arguments)
        .env_clear();
    command
}

pub(crate) fn flannelctl(directory: &Path, arguments: &[&str]) -> Output {
    command(directory, arguments).output().expect("flannelctl starts")
}

/// Exit code, stdout and stderr, without the name of the directory.
pub(crate) fn shown(directory: &Path, arguments: &[&str]) -> String {
    let output = flannelctl(directory, arguments);
    let text = |bytes: Vec<u8>| {
        String::from_utf8(bytes).expect("output is text").replace(&directory.display().to_string(), "[dir]")
    };
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    format!("{}\n{stdout}---\n{stderr}", output.status.code().expect("no signal ended it"))
}
