//! The diagnosis of this node: problems and how to fix them.
//!
//! [`gather`] reads facts, pure [`checks`] turn them into findings, and [`report`] shows those. The desired state of the
//! kernel is computed from the store by the code of the daemon, whether or not a daemon runs.

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

/// Time for a running daemon to repair the findings, which takes less than a second.
const REPAIR_TIME: Duration = Duration::from_millis(1500);

/// Runs all checks, and again if a running daemon may repair the findings.
pub(crate) async fn diagnose(
    session: &Session,
    places: &Places,
    flanneld: &[OsString],
) -> anyhow::Result<Report> {
    let gathered = async |before| {
        let invocation = Invocation::of(flanneld, session.store_options(), &session.node)?;
        gather::gather(&invocation, places, before).await
    };
    let facts = gathered(None).await?;
    let report = checks::run(&facts);
    if report.findings.is_empty() || !facts.daemon_works() {
        return Ok(report);
    }
    tokio::time::sleep(REPAIR_TIME).await;
    Ok(report.confirmed_by(checks::run(&gathered(Some(&facts)).await?)))
}
