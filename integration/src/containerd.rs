//! The configuration of containerd on a node.

use anyhow::{Context, Result};

use crate::image::NAME;
use crate::machine::Machine;
use crate::readme;

/// What tests add to the configuration of a series: an image that is not pulled, and no cgroups (see `machine.sh`).
/// `--rootless` makes runc take it that it may not write to their tree; as containerd 2.x sets limits, and
/// runc insists on those, crun stands in for it there.
const ADDITIONS: [(u32, &str, &str); 2] = [
    (
        1,
        r#"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pod:1"
  disable_apparmor = true
  disable_cgroup = true
  restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  BinaryName = "/opt/bin/runc"
"#,
        "#!/bin/sh\nexec runc --rootless true \"$@\"\n",
    ),
    (
        2,
        r"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = 'localhost/pod:1'
[plugins.'io.containerd.cri.v1.runtime']
  disable_apparmor = true
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = 'io.containerd.runc.v2'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  BinaryName = '/opt/bin/runc'
",
        CRUN,
    ),
];
/// containerd asks which processes a container has, and forgets it if there are none; but crun reads them from a group.
const CRUN: &str = r#"#!/bin/sh
case " $* " in
*" ps "*)
    for id; do :; done
    crun --root "$2" state "$id" | sed -n 's/.*"pid": *\([0-9]*\).*/[\1]/p'
    exit ;;
esac
exec crun --cgroup-manager disabled "$@"
"#;

/// Configures containerd as the README describes, except for what would outlive the test. The first process of each pod is
/// that of `sandbox_image`.
pub fn configure(machine: &Machine, sandbox_image: &str) -> Result<()> {
    let version = machine.netns().run("containerd --version")?;
    let (series, additions, runc) = ADDITIONS
        .into_iter()
        .find(|(series, ..)| version.split([' ', 'v']).any(|word| word.starts_with(&format!("{series}."))))
        .with_context(|| format!("neither containerd 1.x nor 2.x: {version}"))?;
    let additions = additions.replace(NAME, sandbox_image);
    let config = format!("{}{additions}", readme::containerd_config(series)?);
    machine.write("/etc/containerd/config.toml", &config)?;
    machine.write_program("/opt/bin/runc", runc)
}
