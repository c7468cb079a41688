//! The place of everything that a command reads: the store, the daemon and the files of this node.

use flanneld::store::etcd::EtcdOptions;
use flanneld::store::{Store, StoreOptions};

use crate::failure::{Failure, Kind};
use crate::flags::{ENDPOINTS, NodeFlags, PREFIX, StoreFlags};
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
        self.store.options().or_else(daemon::store).unwrap_or_else(|| {
            StoreOptions::Etcd(EtcdOptions {
                endpoints: ENDPOINTS.to_owned(),
                prefix: PREFIX.to_owned(),
                cafile: None,
                certfile: None,
                keyfile: None,
                username: None,
                password: None,
            })
        })
    }

    /// The store. Nothing is connected or read yet.
    ///
    /// # Errors
    /// Fails if it is a directory that does not exist: whoever looks or mistypes must not make one.
    pub(crate) fn store(&self) -> anyhow::Result<Store> {
        match self.store_options() {
            StoreOptions::Directory(path) if !path.is_dir() => Err(Failure::new(
                Kind::Unreachable,
                format!("there is no directory {} of leases", path.display()),
                "check --lease-dir; flannelctl config set FILE makes a new one",
            )
            .into()),
            options => Ok(options.open()?),
        }
    }
}
