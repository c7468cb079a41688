//! The files of host-local, one for each allocated address, and whether the container of an address may still exist.
//!
//! Compatibility: a file `<dataDir>/<network>/<address>` contains `<container>\r\n<interface>`, as Go's plugin writes it. An
//! extended attribute, which Go's plugin neither reads nor removes, contains the boot and the namespace of the container.

use std::time::Duration;

#[cfg(test)]
mod tests;

/// Directory of the networks, unless the config contains another one.
pub const DATA_DIRECTORY: &str = "/var/lib/cni/networks";
/// Directory in which runtimes with libcni store each attachment with its namespace: `<network>-<container>-<interface>`.
pub const RESULTS: &str = "/var/lib/cni/results";
/// The extended attribute with an [`Owner`].
pub const ATTRIBUTE: &str = "user.flannel.owner";
/// Maximum length of the attribute; a path has at most 4096 bytes.
pub const ATTRIBUTE_MAX: usize = 8192;

/// Files of this age or less may belong to an ADD in progress.
const GRACE: Duration = Duration::from_secs(60);

/// One interface of one container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attachment {
    /// The runtime's name of the container.
    pub container_id: String,
    /// The interface in the container.
    pub ifname: String,
}

/// The holder of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// An interface of a container.
    Attachment(Attachment),
    /// A container, without its interface. Compatibility: the format of old plugins.
    Container(String),
    /// None: the file is empty, because of a power loss before its content was on disk.
    Nobody,
}

impl Holder {
    /// Parses the content of a file.
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

    /// Whether the holder is this attachment. As in Go's plugin, the old format means any interface of the container.
    #[must_use]
    pub fn is(&self, attachment: &Attachment) -> bool {
        match self {
            Self::Attachment(holder) => holder == attachment,
            Self::Container(id) => *id == attachment.container_id,
            Self::Nobody => false,
        }
    }
}

/// The boot and the namespace of a container, which identify it for the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The boot in which it was created (`/proc/sys/kernel/random/boot_id`).
    pub boot: String,
    /// Device of its network namespace.
    pub device: u64,
    /// Inode of its network namespace.
    pub inode: u64,
    /// Path of its network namespace.
    pub netns: String,
}

impl Owner {
    /// Returns the text of the attribute.
    #[must_use]
    pub fn to_text(&self) -> String {
        format!("{} {} {} {}", self.boot, self.device, self.inode, self.netns)
    }

    /// Parses the text of the attribute.
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

/// Observations of the container of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The namespace of the [`Owner`] no longer exists; `None` without an owner.
    pub owner_gone: Option<bool>,
    /// Age of the file; `None` if it is unknown, or negative because the clock was set.
    pub age: Option<Duration>,
    /// Time since the boot.
    pub uptime: Option<Duration>,
    /// The runtime has stored the attachment, and its namespace exists.
    pub remembered: bool,
}

/// Whether an address is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Yes: its container exists.
    Alive,
    /// No: its namespace no longer exists, or it was allocated before this boot.
    Abandoned,
    /// This could not be determined.
    Unknown,
}

impl Use {
    /// Determines whether an address is used.
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
            // A file of Go's plugin. Its age alone is not sufficient, because the clock may have been set since the boot.
            Holder::Attachment(_)
                if age >= GRACE && evidence.uptime.is_some_and(|uptime| age > uptime + GRACE) =>
            {
                Self::Abandoned
            }
            _ => Self::Unknown,
        }
    }
}
