//! Harness of the end-to-end tests: nodes as network namespaces, real daemons, real etcd, real CNI plugins,
//! looked at from outside.
//!
//! A test draws its topology at the top and works through [`lab`]:
//!
//! ```no_run
//! use integration::{Flanneld, lab};
//!
//! lab(|lab| {
//!     let cluster = lab.cluster(2)?;
//!     let leases = lab.lease_directory(r#"{"Network":"10.42.0.0/16","Backend":{"Type":"vxlan"}}"#)?;
//!     cluster.start_all(&Flanneld::on_directory(&leases))?;
//!     let (a, b) = (cluster.nodes[0].add_pod("a")?, cluster.nodes[1].add_pod("b")?);
//!     a.netns.wait_ping(b.address(true)?)
//! });
//! ```
//!
//! Invariants
//! - Everything happens inside a sandbox (`xtask/assets/sandbox.sh`): own network, mount and process
//!   namespaces. Nothing is ever torn down by a destructor: the kernel removes all of it when the test
//!   process ends, and until then it is there to be collected.
//! - A namespace belongs to a thread. Whatever runs in one runs in a thread made for it ([`Netns::enter`]);
//!   processes started from there inherit it.
//! - Nothing waits for a fixed time: see [`wait`].
#![forbid(unsafe_code)]

pub mod artefacts;
mod certificates;
pub mod cni;
mod collect;
pub mod conformance;
pub mod containerd;
pub mod ctl;
pub mod directory;
pub mod doctor;
pub mod etcd;
pub mod feature;
pub mod gateway;
pub mod golden;
pub mod http;
pub mod image;
pub mod kernel_state;
pub mod kubernetes;
pub mod machine;
pub mod monitor;
pub mod netns;
pub mod node;
pub mod ownership;
pub mod pages;
pub mod peer;
pub mod poll;
pub mod random;
pub mod readme;
pub mod relay;
pub mod router;
pub mod rtnetlink;
pub mod service;
pub mod system;
pub mod topology;
pub mod traffic;
pub mod wait;

pub use cni::{Conflist, Pod};
pub use collect::report;
pub use directory::LeaseDirectory;
pub use doctor::Doctor;
pub use etcd::{Etcd, EtcdOptions};
pub use feature::Feature;
pub use golden::Stack;
pub use kubernetes::ControlPlane;
pub use machine::Machine;
pub use netns::Netns;
pub use node::{Daemon, Flanneld, Node};
pub use service::Service;
pub use system::System;
pub use topology::{Cluster, Lab, Nic, Segment};

use anyhow::Result;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::Duration;

/// The directory of the harness. Below `/run`, so private to the test.
const DIRECTORY: &str = "/run/lab";

/// Runs a test. When it fails, collects logs and kernel state of every node.
///
/// # Panics
///
/// If the test fails, cannot run here, or is started outside a sandbox.
#[track_caller]
pub fn lab(test: impl FnOnce(&Lab) -> Result<()>) {
    assert!(
        std::env::var_os("FLANNEL_SANDBOX").is_some(),
        "end-to-end tests run in a sandbox of their own, as root: use `cargo xtask e2e`"
    );
    if let Some(seconds) = std::env::var("FLANNEL_E2E_TIMEOUT").ok().and_then(|text| text.parse().ok()) {
        collect::watchdog(Duration::from_secs(seconds));
    }
    let outcome = catch_unwind(AssertUnwindSafe(|| Lab::new().and_then(|lab| test(&lab))));
    let error = match outcome {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error,
        Err(panic) => {
            collect::all();
            std::panic::resume_unwind(panic);
        }
    };
    if let Some(skip) = error.downcast_ref::<feature::Skip>() {
        collect::skipped(&skip.to_string());
        panic!("skipped: {skip}");
    }
    collect::all();
    panic!("{error:?}");
}

/// The long form of tests that have one is wanted.
#[must_use]
pub fn is_long() -> bool {
    std::env::var_os("FLANNEL_E2E_LONG").is_some_and(|value| !value.is_empty())
}

/// The program of this name that was built together with this one.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    // Test programs are in `deps/`, below the programs.
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
        .unwrap_or_else(|| PathBuf::from(name))
}
