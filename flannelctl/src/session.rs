//! What every command receives: the location of the store, the files of this node, and the output.

use flanneld::store::{Store, StoreOptions};

use crate::failure::{Kind, fail};
use crate::flags::{NodeFlags, StoreFlags};
use crate::node::daemon;
use crate::output::Output;

/// The context of a command.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    /// Flags of the store.
    pub(crate) store: StoreFlags,
    /// Files of the daemon of this node.
    pub(crate) node: NodeFlags,
    /// Output of results and messages.
    pub(crate) output: Output,
}

impl Session {
    /// The options of the specified store, otherwise of the store of this node's daemon, otherwise the default.
    pub(crate) fn store_options(&self) -> StoreOptions {
        self.store.options(daemon::store())
    }

    /// Opens the store. Nothing is connected or read yet.
    ///
    /// # Errors
    /// Fails if it is a directory that does not exist: reading, or a typo, must not create one.
    pub(crate) fn store(&self) -> anyhow::Result<Store> {
        let options = self.store_options();
        match options.missing() {
            Some(missing) => {
                let fix = "Check --lease-dir, or run `flannelctl config set FILE` to create it.";
                fail(Kind::Unreachable, missing, fix)
            }
            None => Ok(options.open()?),
        }
    }
}
