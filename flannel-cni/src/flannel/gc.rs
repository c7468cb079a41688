//! GC: cleans up after containers that no longer exist.

use flannel_core::host_local::Attachment;

use super::{CallError, CniError, Command, Delegate, NetConf, Request, Scratch, load, note};
use crate::request::valid_attachments;
use crate::scratch::Entry;

/// The first interface that runtimes give a container. The files of Go flannel do not name the interface.
const FIRST_INTERFACE: &str = "eth0";

/// Removes everything that is not in the runtime's list of valid attachments. Does nothing without a list. It continues after an
/// error and returns the first one with the number of the others.
pub(super) fn gc(request: &Request) -> Result<(), CniError> {
    let conf = load(request)?;
    let Some(valid) = valid_attachments(&request.config)? else { return Ok(()) };
    let mut errors = Vec::new();
    let scratch = Scratch::new(&conf.data_dir);
    // Files of interfaces first: the file of a container is removed with its last one.
    for per_interface in [true, false] {
        for entry in scratch.entries(|name| name.contains('.') == per_interface)? {
            if let Some(mut delegate) = stale(&entry, &valid, request, &conf)
                && let Err(error) = collect(&scratch, &entry, &mut delegate)
            {
                errors.push(error);
            }
        }
    }
    errors.extend(scratch.remove_stale().err().map(CniError::from));
    errors.extend(forward(request, &conf).err());
    let others = errors.len().saturating_sub(1);
    match errors.into_iter().next() {
        None => Ok(()),
        Some(first) if others == 0 => Err(first),
        Some(mut first) => {
            first.msg = format!("{} (and {others} more)", first.msg);
            Err(first)
        }
    }
}

/// The attachments that a file name may mean: `a.b` is interface `b` of `a`, or Go flannel's file of the container `a.b`.
fn readings(file_name: &str) -> Vec<Attachment> {
    let attachment = |container_id: &str, ifname: &str| Attachment {
        container_id: container_id.to_owned(),
        ifname: ifname.to_owned(),
    };
    let split =
        file_name.match_indices('.').map(|(at, _)| attachment(&file_name[..at], &file_name[at + 1..]));
    split
        .filter(|reading| !reading.ifname.is_empty())
        .chain([attachment(file_name, FIRST_INTERFACE)])
        .collect()
}

/// Returns the delegate of a saved config that belongs to this network and, in any reading, to no valid attachment.
fn stale(entry: &Entry, valid: &[Attachment], request: &Request, conf: &NetConf) -> Option<Delegate> {
    let delegate = Delegate::saved(entry.text.clone(), &request.environment, conf.native).ok()?;
    if delegate.request.network != conf.name {
        return None;
    }
    let of_container = valid.iter().any(|one| one.container_id == entry.file_name);
    let of_interface = readings(&entry.file_name).iter().any(|reading| valid.contains(reading));
    (!of_container && !of_interface).then_some(delegate)
}

fn collect(scratch: &Scratch, entry: &Entry, delegate: &mut Delegate) -> Result<(), CniError> {
    for reading in readings(&entry.file_name) {
        let environment = &mut delegate.request.environment;
        environment.attachment = reading.clone();
        // The namespace no longer exists.
        environment.netns = "".into();
        environment.args.clear();
        match delegate.call(Command::Del) {
            Ok(_) => {}
            Err(CallError::Find(error)) => note!("delegate skipped: {error}"),
            Err(error) => return Err(delegate.error(error)),
        }
        scratch.remove(&reading)?;
    }
    Ok(scratch.remove_entry(entry)?)
}

/// Forwards the GC to the delegate, with the same list.
fn forward(request: &Request, conf: &NetConf) -> Result<(), CniError> {
    let mut config = Delegate::rebuilt(conf, &request.environment).request.config;
    for name in ["cni.dev/attachments", "cni.dev/valid-attachments"] {
        if let Some(list) = request.config.get(name) {
            config.insert(name, list.clone());
        }
    }
    Delegate::new(config.sorted(), &request.environment, conf).require(Command::Gc).map(drop)
}
