//! The place of everything that a command reads: the store, the daemon and the files of this node.

use flanneld::store::{Store, StoreOptions};

use crate::failure::{Failure, Kind};
use crate::flags::{NodeFlags, StoreFlags};
use crate::node::daemon;
use crate::output::Output;

/// What every command is given.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    /// Where the store is.
    pub(crate) store: StoreFlags,
    /// Where the daemon of this node keeps its files.
    pub(crate) node: NodeFlags,
    /// Where results go.
    pub(crate) output: Output,
}

impl Session {
    /// The store that is named, that of the daemon of this node, or the default one.
    pub(crate) fn store_options(&self) -> StoreOptions {
        let default = || StoreOptions::from_flags(|_| None);
        self.store.options().or_else(daemon::store).unwrap_or_else(default)
    }

    /// The store. Nothing is connected or read yet.
    ///
    /// # Errors
    /// Fails if it is a directory that does not exist: whoever looks or mistypes must not make one.
    pub(crate) fn store(&self) -> anyhow::Result<Store> {
        let options = self.store_options();
        match options.missing() {
            Some(missing) => {
                let fix = "check --lease-dir; flannelctl config set FILE makes a new one";
                Err(Failure::new(Kind::Unreachable, missing, fix).into())
            }
            None => Ok(options.open()?),
        }
    }
}
