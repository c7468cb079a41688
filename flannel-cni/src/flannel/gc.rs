//! GC: undoes what was added for containers that are gone.

use super::{
    CallError, CniError, Command, DelegateConf, Environment, NetConf, Request, Scratch, complain,
    delegate_error, load, rebuild, run_delegate,
};
use crate::netconf::{Attachment, ValidAttachments};
use crate::scratch::Entry;

/// The interface that runtimes give a container first. Go flannel's files do not tell the interface.
const FIRST_INTERFACE: &str = "eth0";

/// Removes what the list of the runtime does not hold. Without a list nothing is touched. All is tried; the first error is told
/// with the number of the others.
pub(super) fn gc(request: &Request) -> Result<String, CniError> {
    let conf = load(request)?;
    let ValidAttachments::Only(valid) = &conf.valid_attachments else { return Ok(String::new()) };
    let mut errors = Vec::new();
    let scratch = Scratch::new(&conf.data_dir);
    // Files of interfaces first: with the last one goes the file of its container.
    for per_interface in [true, false] {
        for entry in scratch.entries()? {
            if entry.file_name.contains('.') == per_interface
                && let Some(delegate) = stale(&entry, valid, &conf.name)
                && let Err(error) = collect(&scratch, &entry, &delegate, request, conf.native)
            {
                errors.push(error);
            }
        }
    }
    if let Err(error) = scratch.remove_leftovers() {
        errors.push(error.into());
    }
    if let Err(error) = forward(request, &conf) {
        errors.push(error);
    }
    let others = errors.len().saturating_sub(1);
    match errors.into_iter().next() {
        None => Ok(String::new()),
        Some(first) if others == 0 => Err(first),
        Some(mut first) => {
            first.msg = format!("{} (and {others} more)", first.msg);
            Err(first)
        }
    }
}

/// What a file may stand for: `a.b` is interface `b` of `a`, or Go flannel's file of a container `a.b`.
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

/// The saved config, if this network saved it and it belongs to no valid attachment in any reading.
fn stale(entry: &Entry, valid: &[Attachment], network: &str) -> Option<DelegateConf> {
    let delegate = DelegateConf::saved(entry.text.clone()).ok()?;
    if delegate.member("name") != network {
        return None;
    }
    let of_container = valid.iter().any(|one| one.container_id == entry.file_name);
    let of_interface = readings(&entry.file_name).iter().any(|reading| valid.contains(reading));
    (!of_container && !of_interface).then_some(delegate)
}

fn collect(
    scratch: &Scratch,
    entry: &Entry,
    delegate: &DelegateConf,
    request: &Request,
    native: bool,
) -> Result<(), CniError> {
    for reading in readings(&entry.file_name) {
        let environment = Environment {
            command: Command::Del,
            container_id: reading.container_id.clone(),
            // The namespace went with the container.
            netns: "".into(),
            ifname: reading.ifname.clone(),
            args: String::new(),
            ..request.environment.clone()
        };
        match run_delegate(&Command::Del, delegate, &environment, native) {
            Ok(_) => {}
            Err(CallError::Find(error)) => complain("nothing to clean up with", &error.to_string()),
            Err(error) => return Err(delegate_error(&Command::Del, error)),
        }
        scratch.remove(&reading)?;
    }
    Ok(scratch.remove_entry(entry)?)
}

/// Lets the delegate collect as well, with the same list.
fn forward(request: &Request, conf: &NetConf) -> Result<(), CniError> {
    let mut object = rebuild(conf).object;
    for name in ["cni.dev/attachments", "cni.dev/valid-attachments"] {
        if let Some(list) = request.config.get(name) {
            object.insert(name, list.clone());
        }
    }
    let delegate = DelegateConf::new(super::sorted(object));
    run_delegate(&Command::Gc, &delegate, &request.environment, conf.native)
        .map(drop)
        .map_err(|error| delegate_error(&Command::Gc, error))
}
