//! Single requests through rtnetlink, each on a connection of its own. Dumps and batches have ours: see Cargo.toml.

use flannel_core::exchange::{Exchange, Numbers};
use futures_util::StreamExt as _;
use netlink_sys::AsyncSocket as _;
use rtnetlink::Handle;
use rtnetlink::packet_core::NetlinkMessage;
use rtnetlink::packet_route::RouteNetlinkMessage;
use std::io;

use super::KernelError;
use super::conn::{in_time, set_options};

/// Runs an exchange of one request.
pub(super) async fn run<E: Exchange>(exchange: &mut E) -> Result<E::Outcome, KernelError> {
    let failed = |action| move |cause| KernelError::Socket { action, cause };
    let (mut connection, handle, _) = rtnetlink::new_connection().map_err(failed("open"))?;
    // Without them the answers of a dump have no end, and success has no answer.
    connection.set_forward_done(true);
    connection.set_forward_ack(true);
    set_options(connection.socket_mut().socket_mut());
    let answers = in_time("read from", async {
        tokio::select! {
            () = connection => Err(io::ErrorKind::ConnectionAborted.into()),
            answers = answers(handle, exchange) => answers,
        }
    });
    answers.await?.map_err(|cause| KernelError::Unreadable { what: exchange.subject(), cause })
}

/// Sends the request and passes its answers to the exchange.
async fn answers<E: Exchange>(
    mut handle: Handle,
    exchange: &mut E,
) -> io::Result<Result<E::Outcome, flannel_core::message::DecodeError>> {
    let mut numbers = Numbers::new(0);
    let request = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&exchange.start(&mut numbers));
    let request = request.map_err(io::Error::other)?;
    let sequence = request.header.sequence_number;
    let mut answers = handle.request(request).map_err(io::Error::other)?;
    while let Some(mut answer) = answers.next().await {
        // The crate numbers requests itself.
        answer.header.sequence_number = sequence;
        answer.header.port_number = 0;
        let mut bytes = vec![0; answer.buffer_len()];
        answer.serialize(&mut bytes);
        if let Some(outcome) = exchange.take(&bytes).transpose() {
            return Ok(outcome);
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}
