//! The condition `NetworkUnavailable` of this node: the scheduler places no pods on a node where it is `True`.

use chrono::{DateTime, SecondsFormat};
use flannel_core::kubernetes::Condition;
use std::time::{SystemTime, UNIX_EPOCH};

use super::session::Session;
use crate::store::Serving;
use crate::store::error::StoreError;
use crate::store::operation::Operation;

/// Sets the condition, unless it is right already. A node that does not exist has none.
pub(super) async fn announce(store: &Session, serving: &Serving) -> Result<(), StoreError> {
    let options = &store.shared.options;
    let desired = match serving {
        Serving::Ready if options.sets_available => Condition {
            status: "False".to_owned(),
            // Compatibility: both texts are those of Go flannel.
            reason: "FlannelIsUp".to_owned(),
            message: "Flannel is running on this node".to_owned(),
        },
        Serving::NotReady(reason) if options.sets_unavailable => Condition {
            status: "True".to_owned(),
            reason: "FlannelIsNotReady".to_owned(),
            message: reason.clone(),
        },
        _ => return Ok(()),
    };
    let name = store.name().await?;
    let Some(node) = store.read(name).await? else { return Ok(()) };
    if node.network_unavailable.as_ref() == Some(&desired) {
        return Ok(());
    }
    let patched = store.patch(Operation::Announce, name, patch(&desired)).await?;
    store.with_state(|state| {
        // Otherwise the event of our own write would count as one of someone else.
        if let Some(own) = &mut state.own
            && own.revision == node.revision
        {
            *own = patched;
        }
    });
    Ok(())
}

fn patch(Condition { status, reason, message }: &Condition) -> String {
    let secs = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let now = DateTime::from_timestamp(secs.cast_signed(), 0).unwrap_or_default();
    let now = now.to_rfc3339_opts(SecondsFormat::Secs, true);
    let condition = serde_json::json!({
        "type": "NetworkUnavailable",
        "status": status,
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
        "reason": reason,
        "message": message,
    });
    serde_json::json!({ "status": { "conditions": [condition] } }).to_string()
}
