//! The addresses that host-local keeps for one network, and whether their containers still exist.

use anyhow::Context as _;
use flannel_core::family::Family;
use flannel_core::host_local::{ATTRIBUTE, ATTRIBUTE_MAX, Attachment, Evidence, Holder, Owner, RESULTS, Use};
use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::failure::{Kind, fail};
use crate::node::process::uptime;

/// A network and its allocated addresses.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) name: String,
    pub(crate) allocations: Vec<Allocation>,
    /// Files of addresses that could not be read.
    pub(crate) unreadable: Vec<PathBuf>,
    directory: PathBuf,
}

/// An allocated address.
#[derive(Clone, Debug)]
pub(crate) struct Allocation {
    pub(crate) address: IpAddr,
    holder: Holder,
    pub(crate) owner: Option<Owner>,
    pub(crate) age: Option<Duration>,
    pub(crate) usage: Use,
    file: PathBuf,
}

impl Network {
    /// Reads a directory without the lock: a listing may be outdated when it is printed.
    pub(crate) fn read(data: &Path, name: &str) -> anyhow::Result<Self> {
        let directory = data.join(name);
        let (mut allocations, mut unreadable) = (Vec::new(), Vec::new());
        let entries =
            fs::read_dir(&directory).with_context(|| format!("could not read {}", directory.display()))?;
        for entry in entries.filter_map(Result::ok) {
            let Some(address) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            match Allocation::read(&entry.path(), address, name) {
                Ok(one) => allocations.push(one),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    let message = format!("no permission to read {}", entry.path().display());
                    return fail(Kind::Error, message, "Run the command as root.");
                }
                Err(_) => unreadable.push(entry.path()),
            }
        }
        allocations.sort_by_key(|one| one.address);
        Ok(Self { name: name.to_owned(), allocations, unreadable, directory })
    }

    /// Removes the file of an address unless its state has changed; with `force` in any case.
    pub(crate) fn release(&self, allocation: &Allocation, force: bool) -> anyhow::Result<bool> {
        let path = self.directory.join("lock");
        let lock = File::open(&path).or_else(|_| File::options().append(true).create(true).open(&path));
        let lock = lock.with_context(|| format!("could not open {}", path.display()))?;
        lock.lock().with_context(|| format!("could not lock {}", path.display()))?;
        let now = Allocation::read(&allocation.file, allocation.address, &self.name);
        if !force && now.is_ok_and(|now| now.holder != allocation.holder || now.usage != Use::Abandoned) {
            return Ok(false);
        }
        match fs::remove_file(&allocation.file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("could not remove {}", allocation.file.display()))
            }
            _ => Ok(true),
        }
    }
}

/// Describes an address of a network whose container exists.
pub(crate) fn living(data: &Path, name: &str) -> Option<String> {
    let network = Network::read(data, name).ok()?;
    let living = network.allocations.iter().find(|allocation| allocation.usage == Use::Alive)?;
    Some(format!("container {} has {}", living.container().0, living.address))
}

/// Number of addresses for pods in a subnet: all but network, gateway and, for IPv4, broadcast.
pub(crate) fn usable(family: Family, prefix_len: u8) -> u128 {
    let all = 1_u128.checked_shl(u32::from(family.bits() - prefix_len)).unwrap_or(u128::MAX);
    all.saturating_sub(if family == Family::V4 { 3 } else { 2 })
}

impl Allocation {
    /// Container and interface that have the address; empty if unknown.
    pub(crate) fn container(&self) -> (&str, &str) {
        match &self.holder {
            Holder::Attachment(attachment) => (&attachment.container_id, &attachment.ifname),
            Holder::Container(id) => (id, ""),
            Holder::Nobody => ("", ""),
        }
    }

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

/// Whether the runtime keeps the attachment, and its namespace exists.
fn is_remembered(attachment: &Attachment, network: &str) -> bool {
    let file = format!("{RESULTS}/{network}-{}-{}", attachment.container_id, attachment.ifname);
    let Ok(text) = fs::read(file) else { return false };
    let Ok(cache) = serde_json::from_slice::<serde_json::Value>(&text) else { return true };
    cache["netns"].as_str().is_none_or(|netns| Path::new(netns).exists())
}
