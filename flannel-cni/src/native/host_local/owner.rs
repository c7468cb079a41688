//! Whether the container that an address was given to can still be there.
//!
//! An address outlives its container when nobody says DEL: power loss, a wiped runtime, a namespace deleted by
//! hand. Go's plugin then runs out of addresses. Here each file carries, in an extended attribute that Go's plugin
//! neither sees nor loses, the boot and the namespace of its container.

use rustix::fs::XattrFlags;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use flannel_core::json::Value;

use super::store::{Holder, Reservation, Store};
use crate::netconf::Attachment;

const ATTRIBUTE: &str = "user.flannel.owner";
/// Longest attribute that is read; a path has at most 4096 bytes.
const ATTRIBUTE_MAX: usize = 8192;
/// What runtimes with libcni keep of an attachment, its namespace among it.
const RESULTS: &str = "/var/lib/cni/results";
/// Younger files may be of an ADD that is going on.
const GRACE: Duration = Duration::from_secs(60);

/// The life of a container as far as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    boot: String,
    device: u64,
    inode: u64,
    netns: String,
}

impl Owner {
    /// The namespace at a path, in this boot.
    pub(crate) fn of(netns: &Path) -> Option<Self> {
        let metadata = fs::metadata(netns).ok()?;
        Some(Self {
            boot: boot_id()?,
            device: metadata.dev(),
            inode: metadata.ino(),
            netns: netns.to_str()?.to_owned(),
        })
    }

    fn to_text(&self) -> String {
        format!("{} {} {} {}", self.boot, self.device, self.inode, self.netns)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(4, ' ');
        Some(Self {
            boot: parts.next()?.to_owned(),
            device: parts.next()?.parse().ok()?,
            inode: parts.next()?.parse().ok()?,
            netns: parts.next()?.to_owned(),
        })
    }

    /// Writes it to a file. Where the file system keeps no attributes, an address is only not taken back by itself.
    pub(crate) fn mark(&self, file: &File) {
        let _ = rustix::fs::fsetxattr(file, ATTRIBUTE, self.to_text().as_bytes(), XattrFlags::empty());
    }

    fn of_file(path: &Path) -> Option<Self> {
        let mut buffer = vec![0; ATTRIBUTE_MAX];
        let length = rustix::fs::getxattr(path, ATTRIBUTE, &mut buffer[..]).ok()?;
        Self::parse(std::str::from_utf8(&buffer[..length]).ok()?)
    }

    /// The namespace is gone, or what is at its path now is another one.
    fn is_gone(&self) -> bool {
        boot_id().is_some_and(|boot| boot != self.boot)
            || match fs::metadata(&self.netns) {
                Ok(metadata) => (metadata.dev(), metadata.ino()) != (self.device, self.inode),
                Err(error) => error.kind() == io::ErrorKind::NotFound,
            }
    }
}

/// True if an address is certainly used by nobody: its namespace is gone, or it was given out before this boot.
pub(crate) fn is_abandoned(store: &Store, reservation: &Reservation, network: &str) -> bool {
    let now = SystemTime::now();
    let Some(taken_at) = store.taken_at(reservation) else { return false };
    // A file from the future tells nothing: the clock was set.
    let Ok(age) = now.duration_since(taken_at) else { return false };
    if let Some(owner) = Owner::of_file(&store.path_of(reservation)) {
        return owner.is_gone();
    }
    if age < GRACE {
        return false;
    }
    match &reservation.holder {
        Holder::Nobody => true,
        // A file of Go's plugin: both its age and the runtime's memory must speak against it, because the clock may have
        // been set since the boot.
        Holder::Attachment(attachment) => {
            uptime().is_some_and(|uptime| age > uptime + GRACE) && !is_remembered(attachment, network)
        }
        Holder::Container(_) => false,
    }
}

/// The runtime knows the attachment, and its namespace is there.
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
