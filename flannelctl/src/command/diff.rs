//! `flannelctl diff`: the pending changes of the kernel.

use flannel_core::status::Diff;

use crate::failure::Outcome;
use crate::node::socket;
use crate::output::Page;
use crate::output::text::join;
use crate::session::Session;

/// Shows the pending operations; findings if any.
pub(crate) async fn run(session: &Session) -> anyhow::Result<Outcome> {
    let diff: Diff = socket::ask(&session.node.status_socket, "/diff").await?;
    let names = diff.ops.iter().map(|op| &op.object);
    let lines = join(diff.ops.iter().map(|op| &op.text), "\n");
    session.output.page(&Page::lines(serde_json::to_value(&diff)?, lines).named(names))?;
    if !diff.settled {
        session.output.message("leases changed meanwhile: some operations may be done already");
    }
    if !diff.removes_surplus {
        session.output.message(
            "the store has not responded since flanneld started: until it does, stale objects are kept",
        );
    }
    if diff.ops.is_empty() {
        session.output.message("the kernel is in sync");
        return Ok(Outcome::Fine);
    }
    session.output.message(
        "flanneld performs these operations within a second; if one remains, the kernel rejects it: see `flannelctl status`",
    );
    Ok(Outcome::Findings)
}
