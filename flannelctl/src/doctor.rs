//! The diagnosis of this node: what is wrong with it, and what mends it.
//!
//! Facts are gathered ([`gather`]), judged by pure checks ([`checks`]) and shown ([`report`]). What the kernel should
//! have is computed from the store by the daemon's own code, so that it makes no difference whether a daemon runs.

use std::ffi::OsString;
use std::time::Duration;

use crate::node::daemon::Invocation;
use crate::session::Session;
use report::Report;

pub(crate) use gather::{PLUGINS, Places};

pub(crate) mod catalog;
mod checks;
mod facts;
mod gather;
mod packet_filter;
pub(crate) mod report;

/// How long a running daemon has to mend what is found, which takes it less than a second.
const PATIENCE: Duration = Duration::from_millis(1500);

pub(crate) async fn diagnose(
    session: &Session,
    places: &Places,
    flanneld: &[OsString],
) -> anyhow::Result<Report> {
    let look = async |before| {
        let invocation = Invocation::of(flanneld, session.store_options(), &session.node)?;
        gather::gather(&invocation, places, before).await
    };
    let facts = look(None).await?;
    let report = checks::run(&facts);
    if !report.has_findings() || !facts.daemon_works() {
        return Ok(report);
    }
    tokio::time::sleep(PATIENCE).await;
    Ok(report.confirmed_by(checks::run(&look(Some(&facts)).await?)))
}
