//! What host-local keeps of each address that it has given out, and whether its container can still be there.
//!
//! Compatibility: a file `<dataDir>/<network>/<address>` holds `<container>\r\n<interface>`, as Go's plugin writes it. An
//! extended attribute, which Go's plugin neither sees nor loses, holds the boot and the namespace of the container.

use std::time::Duration;

#[cfg(test)]
mod tests;

/// Where networks are kept unless the config says otherwise.
pub const DATA_DIRECTORY: &str = "/var/lib/cni/networks";
/// What runtimes with libcni keep of an attachment, its namespace among it: `<network>-<container>-<interface>`.
pub const RESULTS: &str = "/var/lib/cni/results";
/// The extended attribute with an [`Owner`].
pub const ATTRIBUTE: &str = "user.flannel.owner";
/// Longest attribute that is read; a path has at most 4096 bytes.
pub const ATTRIBUTE_MAX: usize = 8192;

/// Younger files may be of an ADD that is going on.
const GRACE: Duration = Duration::from_secs(60);

/// One interface of one container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attachment {
    /// The runtime's name of the container.
    pub container_id: String,
    /// The interface in the container.
    pub ifname: String,
}

/// Who uses an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// An interface of a container.
    Attachment(Attachment),
    /// Compatibility: old plugins wrote the container alone.
    Container(String),
    /// The file is empty: power was lost before its content was on disk.
    Nobody,
}

impl Holder {
    /// Reads the content of a file.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let text = text.trim();
        match text.split_once("\r\n") {
            _ if text.is_empty() => Self::Nobody,
            None => Self::Container(text.to_owned()),
            Some((container_id, ifname)) => Self::Attachment(Attachment {
                container_id: container_id.to_owned(),
                ifname: ifname.to_owned(),
            }),
        }
    }

    /// Go's plugin prefers the full form and takes the old one for any interface of the container.
    #[must_use]
    pub fn is(&self, attachment: &Attachment) -> bool {
        match self {
            Self::Attachment(holder) => holder == attachment,
            Self::Container(id) => *id == attachment.container_id,
            Self::Nobody => false,
        }
    }
}

/// The life of a container as far as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The boot in which it was made (`/proc/sys/kernel/random/boot_id`).
    pub boot: String,
    /// Device of its network namespace.
    pub device: u64,
    /// Inode of its network namespace.
    pub inode: u64,
    /// Path of its network namespace.
    pub netns: String,
}

impl Owner {
    /// The text of the attribute.
    #[must_use]
    pub fn to_text(&self) -> String {
        format!("{} {} {} {}", self.boot, self.device, self.inode, self.netns)
    }

    /// Reads the text of the attribute.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(4, ' ');
        Some(Self {
            boot: parts.next()?.to_owned(),
            device: parts.next()?.parse().ok()?,
            inode: parts.next()?.parse().ok()?,
            netns: parts.next()?.to_owned(),
        })
    }
}

/// What the host shows of the container of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// Whether the namespace of the [`Owner`] is gone; `None` without an owner.
    pub owner_gone: Option<bool>,
    /// Age of the file; `None` where it is unknown or lies in the future, because the clock was set.
    pub age: Option<Duration>,
    /// Time since the boot.
    pub uptime: Option<Duration>,
    /// The runtime knows the attachment, and its namespace is there.
    pub remembered: bool,
}

/// Whether an address is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Its container is there.
    Alive,
    /// Certainly used by nobody: its namespace is gone, or it was given out before this boot.
    Abandoned,
    /// Nothing tells.
    Unknown,
}

impl Use {
    /// Judges an address.
    #[must_use]
    pub fn of(holder: &Holder, evidence: &Evidence) -> Self {
        let Some(age) = evidence.age else {
            return if evidence.remembered || evidence.owner_gone == Some(false) {
                Self::Alive
            } else {
                Self::Unknown
            };
        };
        match evidence.owner_gone {
            Some(true) => return Self::Abandoned,
            Some(false) => return Self::Alive,
            None => {}
        }
        match holder {
            Holder::Nobody if age >= GRACE => Self::Abandoned,
            _ if evidence.remembered => Self::Alive,
            // A file of Go's plugin: both its age and the runtime's memory must speak against it, because the clock may
            // have been set since the boot.
            Holder::Attachment(_)
                if age >= GRACE && evidence.uptime.is_some_and(|uptime| age > uptime + GRACE) =>
            {
                Self::Abandoned
            }
            _ => Self::Unknown,
        }
    }
}
