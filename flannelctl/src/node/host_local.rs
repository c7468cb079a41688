//! The files of one network of host-local, and what the host shows of their containers.

use crate::failure::{Failure, Kind};
use anyhow::Context as _;
use flannel_core::host_local::{ATTRIBUTE, ATTRIBUTE_MAX, Attachment, Evidence, Holder, Owner, RESULTS, Use};
use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A network and its addresses in use.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) name: String,
    pub(crate) given: Vec<Given>,
    /// Files of addresses that cannot be read.
    pub(crate) unreadable: Vec<PathBuf>,
    directory: PathBuf,
}

/// An address in use.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    pub(crate) address: IpAddr,
    pub(crate) holder: Holder,
    pub(crate) owner: Option<Owner>,
    pub(crate) age: Option<Duration>,
    pub(crate) usage: Use,
    file: PathBuf,
}

impl Network {
    /// Reads a directory, without the lock: a listing may be as old as it is printed.
    pub(crate) fn read(data: &Path, name: &str) -> anyhow::Result<Self> {
        let directory = data.join(name);
        let (mut given, mut unreadable) = (Vec::new(), Vec::new());
        let entries =
            fs::read_dir(&directory).with_context(|| format!("could not read {}", directory.display()))?;
        for entry in entries.filter_map(Result::ok) {
            let Some(address) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            match Given::read(&entry.path(), address, name) {
                Ok(one) => given.push(one),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    let message = format!("{} may not be read", entry.path().display());
                    return Err(Failure::new(Kind::Error, message, "be root").into());
                }
                Err(_) => unreadable.push(entry.path()),
            }
        }
        given.sort_by_key(|one| one.address);
        Ok(Self { name: name.to_owned(), given, unreadable, directory })
    }

    /// Removes the file of an address, if it is still as it was judged. `force` removes it whoever has it.
    pub(crate) fn release(&self, given: &Given, force: bool) -> anyhow::Result<bool> {
        let path = self.directory.join("lock");
        let lock = File::open(&path).or_else(|_| File::options().append(true).create(true).open(&path));
        let lock = lock.with_context(|| format!("could not open {}", path.display()))?;
        lock.lock().with_context(|| format!("could not lock {}", path.display()))?;
        let now = Given::read(&given.file, given.address, &self.name);
        if !force && now.is_ok_and(|now| now.holder != given.holder || now.usage != Use::Abandoned) {
            return Ok(false);
        }
        match fs::remove_file(&given.file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("could not remove {}", given.file.display()))
            }
            _ => Ok(true),
        }
    }
}

/// An address of a network that a living container has.
pub(crate) fn living(data: &Path, name: &str) -> Option<String> {
    let network = Network::read(data, name).ok()?;
    let given = network.given.iter().find(|given| given.usage == Use::Alive)?;
    Some(format!("container {} has {}", holder(&given.holder).0, given.address))
}

/// The container and the interface of a holder.
pub(crate) fn holder(holder: &Holder) -> (&str, &str) {
    match holder {
        Holder::Attachment(attachment) => (&attachment.container_id, &attachment.ifname),
        Holder::Container(id) => (id, ""),
        Holder::Nobody => ("", ""),
    }
}

impl Given {
    fn read(file: &Path, address: IpAddr, network: &str) -> io::Result<Self> {
        let holder = Holder::parse(&String::from_utf8_lossy(&fs::read(file)?));
        let owner = owner_of(file);
        let age = SystemTime::now().duration_since(fs::symlink_metadata(file)?.modified()?).ok();
        let evidence = Evidence {
            owner_gone: owner.as_ref().map(is_gone),
            age,
            uptime: uptime(),
            remembered: match &holder {
                Holder::Attachment(attachment) => is_remembered(attachment, network),
                Holder::Container(_) | Holder::Nobody => false,
            },
        };
        let usage = Use::of(&holder, &evidence);
        Ok(Self { address, holder, owner, age, usage, file: file.to_owned() })
    }
}

fn owner_of(file: &Path) -> Option<Owner> {
    let mut buffer = vec![0; ATTRIBUTE_MAX];
    let length = rustix::fs::getxattr(file, ATTRIBUTE, &mut buffer[..]).ok()?;
    Owner::parse(std::str::from_utf8(&buffer[..length]).ok()?)
}

fn is_gone(owner: &Owner) -> bool {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
    boot.is_some_and(|boot| boot.trim() != owner.boot)
        || match fs::metadata(&owner.netns) {
            Ok(metadata) => (metadata.dev(), metadata.ino()) != (owner.device, owner.inode),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
}

/// The runtime knows the attachment, and its namespace is there.
fn is_remembered(attachment: &Attachment, network: &str) -> bool {
    let file = format!("{RESULTS}/{network}-{}-{}", attachment.container_id, attachment.ifname);
    let Ok(text) = fs::read(file) else { return false };
    let Ok(cache) = serde_json::from_slice::<serde_json::Value>(&text) else { return true };
    cache["netns"].as_str().is_none_or(|netns| Path::new(netns).exists())
}

fn uptime() -> Option<Duration> {
    let text = fs::read_to_string("/proc/uptime").ok()?;
    Duration::try_from_secs_f64(text.split(' ').next()?.parse().ok()?).ok()
}
