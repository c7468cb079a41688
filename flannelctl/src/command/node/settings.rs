//! Settings of the host that the CNI plugin changed for the pods (see `flannel_core::advertisement`).

use flannel_core::advertisement::{self, ACCEPT, ALWAYS, CHANGED, UNLESS_FORWARDING};
use flannel_core::link::LinkName;
use flanneld::host::sysctl::Sysctl;
use std::fs;
use std::io;

const FORWARDING: &str = "net/ipv6/conf/all/forwarding";

/// Settings with their former values, in the order in which they are restored.
#[derive(Debug, Default)]
pub(super) struct Settings(Vec<(String, &'static str)>);

impl Settings {
    /// Reads those that still have the value that the plugin set.
    pub(super) fn read() -> Self {
        let sysctl = Sysctl::default();
        let has = |path: &str, value: &str| sysctl.read_path(path).is_ok_and(|found| found == value);
        let path = |link: LinkName| format!("net/ipv6/conf/{link}/{ACCEPT}");
        let changed = advertisement::from_text(&fs::read_to_string(CHANGED).unwrap_or_default());
        let accept: Vec<String> = changed.into_iter().map(path).filter(|path| has(path, ALWAYS)).collect();
        let mut settings = Vec::new();
        // The plugin enabled it afterwards. With it, the former value would cost the routes of the host.
        if !accept.is_empty() && has(FORWARDING, "1") {
            settings.push((FORWARDING.to_owned(), "0"));
        }
        settings.extend(accept.into_iter().map(|path| (path, UNLESS_FORWARDING)));
        Self(settings)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns each setting with its former value, for messages.
    pub(super) fn names(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(path, value)| format!("{path}={value}"))
    }

    /// Restores the former values, up to the first failure; returns one result for each setting.
    pub(super) fn restore(&self) -> Vec<Result<(), String>> {
        let sysctl = Sysctl::default();
        let mut failed = false;
        let restore = |(path, value): &(String, &str)| {
            if failed {
                return Err("the one before failed".to_owned());
            }
            let outcome = match sysctl.write_path(path, value) {
                // The interface no longer exists.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                outcome => outcome.map_err(|error| error.to_string()),
            };
            failed = outcome.is_err();
            outcome
        };
        self.0.iter().map(restore).collect()
    }
}
