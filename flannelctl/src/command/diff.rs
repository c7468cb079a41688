//! `flannelctl diff`: what flanneld would change in the kernel now.

use flannel_core::status::Diff;

use crate::failure::Outcome;
use crate::node::socket;
use crate::output::Page;
use crate::session::Session;

/// Shows the operations that are pending; findings if there are any.
pub(crate) fn run(session: &Session) -> anyhow::Result<Outcome> {
    let diff: Diff = socket::ask(&session.node.status_socket, "/diff")?;
    let lines: Vec<&str> = diff.ops.iter().map(|op| op.text.as_str()).collect();
    let names = diff.ops.iter().map(|op| op.object.clone()).collect();
    let page = Page::lines(serde_json::to_value(&diff)?, lines.join("\n")).named(names);
    session.output.page(&page)?;
    if !diff.settled {
        session.output.message("leases changed meanwhile: some of it may be done already");
    }
    if !diff.removes_surplus {
        session.output.message(
            "the store has not answered since flanneld started: what nobody wants any more is left alone until it does",
        );
    }
    if diff.ops.is_empty() {
        session.output.message("the kernel has what it should have");
        return Ok(Outcome::Fine);
    }
    session.output.message("flanneld sets these by itself within a second; what stays, the kernel refuses: see flannelctl status");
    Ok(Outcome::Findings)
}
