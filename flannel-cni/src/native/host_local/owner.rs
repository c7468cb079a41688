//! Whether the container that an address was allocated to may still exist.
//!
//! An address outlives its container if the runtime does not call DEL: after a power loss, a reinstalled runtime, a namespace that
//! was deleted manually. Go's plugin then runs out of addresses. Here each file records the boot and the namespace of its container,
//! in an extended attribute that Go's plugin neither reads nor removes.

use rustix::fs::XattrFlags;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use flannel_core::host_local::{ATTRIBUTE, ATTRIBUTE_MAX, Attachment, Evidence, Holder, RESULTS, Use};
use flannel_core::json::Value;

pub(crate) use flannel_core::host_local::Owner;

/// Returns the owner in the namespace at a path, in this boot.
pub(crate) fn of_netns(netns: &Path) -> Option<Owner> {
    let metadata = fs::metadata(netns).ok()?;
    Some(Owner {
        boot: boot_id()?,
        device: metadata.dev(),
        inode: metadata.ino(),
        netns: netns.to_str()?.to_owned(),
    })
}

/// Writes an owner to a file. On a file system without extended attributes, addresses are not released automatically.
pub(crate) fn mark(owner: &Owner, file: &File) {
    let _ = rustix::fs::fsetxattr(file, ATTRIBUTE, owner.to_text().as_bytes(), XattrFlags::empty());
}

fn of_file(path: &Path) -> Option<Owner> {
    let mut buffer = vec![0; ATTRIBUTE_MAX];
    let length = rustix::fs::getxattr(path, ATTRIBUTE, &mut buffer[..]).ok()?;
    Owner::parse(std::str::from_utf8(&buffer[..length]).ok()?)
}

/// Whether the namespace no longer exists or its path leads to another one.
fn is_gone(owner: &Owner) -> bool {
    boot_id().is_some_and(|boot| boot != owner.boot)
        || match fs::metadata(&owner.netns) {
            Ok(metadata) => (metadata.dev(), metadata.ino()) != (owner.device, owner.inode),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
}

/// Whether the address of a file is certainly unused: its namespace no longer exists, or it was allocated before this boot.
pub(crate) fn is_abandoned(file: &Path, holder: &Holder, network: &str) -> bool {
    let taken_at = fs::symlink_metadata(file).and_then(|metadata| metadata.modified()).ok();
    let evidence = Evidence {
        owner_gone: of_file(file).map(|owner| is_gone(&owner)),
        age: taken_at.and_then(|taken_at| SystemTime::now().duration_since(taken_at).ok()),
        uptime: uptime(),
        remembered: match holder {
            Holder::Attachment(attachment) => is_remembered(attachment, network),
            Holder::Container(_) | Holder::Nobody => false,
        },
    };
    Use::of(holder, &evidence) == Use::Abandoned
}

/// Whether the runtime knows the attachment, and its namespace exists.
fn is_remembered(attachment: &Attachment, network: &str) -> bool {
    let file = format!("{RESULTS}/{network}-{}-{}", attachment.container_id, attachment.ifname);
    let Ok(text) = fs::read(file) else { return false };
    let Ok(Value::Object(cache)) = Value::parse(&text) else { return true };
    cache.field("netns").and_then(Value::as_str).is_none_or(|netns| Path::new(netns).exists())
}

fn boot_id() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|id| id.trim().to_owned())
}

fn uptime() -> Option<Duration> {
    let text = fs::read_to_string("/proc/uptime").ok()?;
    let seconds: f64 = text.split(' ').next()?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests;
