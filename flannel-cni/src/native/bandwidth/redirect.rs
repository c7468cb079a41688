//! The filter that redirects what a link receives to an IFB.
//!
//! Without a discipline for incoming packets, the link gets an `ingress` discipline with this filter alone, as by Go's plugin. Where
//! another program has attached an `ingress` or `clsact` discipline, the filter is added there, after all others.

use flannel_core::link::IfIndex;
use flannel_core::message::Request;
use flannel_core::message::traffic::{self, DisciplineRecord, FilterRecord, SHARED_PRIORITY, SOLE_PRIORITY};
use nix::errno::Errno;

use crate::error::CniError;
use crate::kernel::{Kernel, KernelError};
use crate::undo::Undo;

/// Redirects all packets that a link receives to an IFB.
pub(super) fn set(
    host: &mut Kernel,
    undo: &mut Undo<'_>,
    link: IfIndex,
    ifb: IfIndex,
) -> Result<(), CniError> {
    let (present, filters) = observe(host, link)?;
    let priority = match present {
        Some(present) if !is_own(&present, &filters, ifb) => {
            delete_filters(host, link, &filters, ifb)?;
            undo.push("the redirection", move |host| remove(host, link, ifb));
            SHARED_PRIORITY
        }
        present => {
            if present.is_some() {
                host.change_one(&traffic::delete_ingress(link))?;
            }
            undo.push("the redirection", move |host| Ok(delete(host, &traffic::delete_ingress(link))?));
            host.change_one(&traffic::add_ingress(link))?;
            SOLE_PRIORITY
        }
    };
    Ok(host.change_one(&traffic::redirect(link, ifb, priority))?)
}

/// Removes the filter; the discipline too, unless other programs use it.
pub(super) fn remove(host: &mut Kernel, link: IfIndex, ifb: IfIndex) -> Result<(), CniError> {
    let (present, filters) = observe(host, link)?;
    if present.is_some_and(|present| is_own(&present, &filters, ifb)) {
        return Ok(delete(host, &traffic::delete_ingress(link))?);
    }
    delete_filters(host, link, &filters, ifb)
}

/// Returns the discipline for incoming packets and its filters.
fn observe(
    host: &mut Kernel,
    link: IfIndex,
) -> Result<(Option<DisciplineRecord>, Vec<FilterRecord>), CniError> {
    let present = host.disciplines(link)?.into_iter().find(|discipline| discipline.ingress);
    let filters = if present.is_some() { host.filters(link)? } else { Vec::new() };
    Ok((present, filters))
}

/// Whether a discipline has the filter of an ADD of this or of Go's plugin, and no other.
fn is_own(discipline: &DisciplineRecord, filters: &[FilterRecord], ifb: IfIndex) -> bool {
    let is_own = |filter: &FilterRecord| {
        filter.kind == "u32"
            && filter.priority == SOLE_PRIORITY
            && (filter.is_table || redirects(filter, ifb))
    };
    discipline.kind == "ingress" && !filters.is_empty() && filters.iter().all(is_own)
}

fn delete_filters(
    host: &mut Kernel,
    link: IfIndex,
    filters: &[FilterRecord],
    ifb: IfIndex,
) -> Result<(), CniError> {
    // Handle 0 is all filters of a priority, with the table that contains them.
    let is_whole = |filter: &FilterRecord| filter.priority == SHARED_PRIORITY && filter.handle == 0;
    let is_own = |filter: &&FilterRecord| filter.target == Some(ifb) || is_whole(filter);
    for filter in filters.iter().filter(is_own) {
        delete(host, &traffic::delete_filter(link, filter))?;
    }
    Ok(())
}

/// Whether a filter redirects packets to an IFB, or to a link that no longer exists.
fn redirects(filter: &FilterRecord, ifb: IfIndex) -> bool {
    filter.target.is_some_and(|target| target == ifb || target == IfIndex(0))
}

/// Deletes an object; one that does not exist is no error.
pub(super) fn delete(host: &mut Kernel, request: &Request) -> Result<(), KernelError> {
    match host.change_one(request) {
        Err(error) if error.is(Errno::ENOENT) || error.is(Errno::EINVAL) => Ok(()),
        other => other,
    }
}
