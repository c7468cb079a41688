//! What an administrator may do to the life of any record. The daemon prolongs its own and looks at no other.

use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp};
use flannel_core::lease::Revision;
use flannel_core::store::{Grant, Record};
use std::time::Duration;

use super::{Connection, EtcdStore, Operation, StoreError};
use crate::store::Life;

impl EtcdStore {
    /// How long a grant lasts; `None` if it has ended.
    ///
    /// # Errors
    /// Fails if the store cannot be asked.
    pub async fn life(&self, Grant(grant): Grant) -> Result<Option<Life>, StoreError> {
        let request =
            |mut connection: Connection| async move { connection.lease.time_to_live(grant, None).await };
        let answer = self.call(Operation::TimeLeft, request).await?;
        // An unknown grant has -1 seconds left.
        let seconds = |number: i64| u64::try_from(number).ok().map(Duration::from_secs);
        Ok(seconds(answer.ttl())
            .map(|left| Life { left, granted: seconds(answer.granted_ttl()).unwrap_or(left) }))
    }

    /// Lets a record live for `lifetime` from now on, or for ever, if it is still as it was read.
    ///
    /// # Errors
    /// [`StoreError::Raced`] if it has another revision.
    pub async fn set_lifetime(
        &self,
        record: &Record,
        lifetime: Option<Duration>,
    ) -> Result<Revision, StoreError> {
        let key = self.record_key(&record.key);
        let grant = match lifetime {
            Some(lifetime) => Some(self.grant(lifetime).await?.0),
            None => None,
        };
        // A put without options takes the key off the lease that it had.
        let put = TxnOp::put(
            key.as_str(),
            record.value.as_slice(),
            grant.map(|grant| PutOptions::new().with_lease(grant)),
        );
        let txn = Txn::new()
            .when([Compare::mod_revision(key, CompareOp::Equal, record.revision.0)])
            .and_then([put]);
        let result = self.transact(Operation::Update, txn).await;
        if let (Err(_), Some(grant)) = (&result, grant) {
            self.revoke(grant).await;
        }
        result
    }
}
