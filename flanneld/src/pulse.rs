//! A request to a loop to show that it is alive, and its response, for the watchdog of the service manager.
//!
//! Another task sends the request, and the loop itself responds between two turns: a loop that hangs does not respond.

use tokio::sync::Notify;

/// The channel between both tasks. Requests that wait count as one.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    /// Notified to request a response.
    pub(crate) request: Notify,
    /// Notified by the loop to respond.
    pub(crate) response: Notify,
}
