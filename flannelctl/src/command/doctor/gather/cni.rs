//! CNI configs, plugins, and the addresses that host-local keeps.

use rustix::fs::getxattr;
use serde_json::Value;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::{Places, host, names};
use crate::command::doctor::facts::{CniFacts, CniFile, Reservation, View};

/// Where host-local keeps addresses unless its config says otherwise.
const NETWORKS: &str = "/var/lib/cni/networks";

pub(super) fn look(places: &Places, view: Option<&View>) -> CniFacts {
    let files: Vec<CniFile> = names(&places.cni_configs)
        .into_iter()
        .filter(|(name, _)| {
            let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
            matches!(extension, Some("conf" | "conflist" | "json"))
        })
        .map(|(name, path)| CniFile { name, plugins: read(&path) })
        .collect();
    let plugins = places.cni_plugins.iter().flat_map(|directory| names(directory).into_keys()).collect();
    let directory = files
        .iter()
        .find_map(|file| file.flannel()?["delegate"]["ipam"]["dataDir"].as_str())
        .unwrap_or(NETWORKS)
        .to_owned();
    CniFacts {
        directory: places.cni_configs.clone(),
        files,
        plugin_directories: places.cni_plugins.clone(),
        plugins,
        reservations: reservations(Path::new(&directory), view),
    }
}

/// The plugins of a config, a list or a single one.
fn read(path: &Path) -> Result<Vec<Value>, String> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    let value: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    match (&value["plugins"], value["type"].is_string()) {
        (Value::Array(plugins), _) if !plugins.is_empty() => Ok(plugins.clone()),
        (_, true) => Ok(vec![value]),
        _ => Err("it has neither plugins nor a type".to_owned()),
    }
}

/// The addresses of our subnet that are in use, in whatever network of host-local.
fn reservations(root: &Path, view: Option<&View>) -> Vec<Reservation> {
    let Some((view, own)) = view.and_then(|view| Some((view, view.own.as_ref()?))) else { return Vec::new() };
    let subnets: Vec<_> = host::families(view).filter_map(|family| own.subnets.get(family)).collect();
    let mut found = Vec::new();
    for (network, directory) in names(root) {
        for (name, file) in names(&directory) {
            let Ok(address) = name.parse::<IpAddr>() else { continue };
            if subnets.iter().any(|subnet| subnet.trunc().contains(&address)) {
                let abandoned = abandoned(&network, &file);
                found.push(Reservation { address, file, abandoned });
            }
        }
    }
    found.sort_by_key(|reservation| reservation.address);
    found
}

/// Extended attribute in which our plugin notes the boot and the namespace of the pod.
const OWNER: &str = "user.flannel.owner";
/// What libcni keeps of an attachment.
const RESULTS: &str = "/var/lib/cni/results";

/// Why nobody can be using an address, if that is certain.
fn abandoned(network: &str, file: &Path) -> Option<String> {
    let mut buffer = vec![0; 8192];
    if let Ok(length) = getxattr(file, OWNER, &mut buffer[..]) {
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let mut parts = text.splitn(4, ' ');
        let (boot, device, inode, netns) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let current = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        if current.trim() != boot {
            return Some("given out before the last boot".to_owned());
        }
        return match fs::metadata(netns) {
            Ok(there)
                if (there.dev().to_string(), there.ino().to_string()) == (device.into(), inode.into()) =>
            {
                None
            }
            Ok(_) => Some(format!("another namespace is at {netns} now")),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Some(format!("the namespace {netns} is gone"))
            }
            Err(_) => None,
        };
    }
    // A file of another plugin: the runtime's memory of the attachment names its namespace.
    let content = fs::read_to_string(file).ok()?;
    let (container, interface) = content.trim().split_once("\r\n")?;
    let cache = fs::read(Path::new(RESULTS).join(format!("{network}-{container}-{interface}"))).ok()?;
    let cache: Value = serde_json::from_slice(&cache).ok()?;
    let netns = cache["netns"].as_str().filter(|netns| !netns.is_empty())?;
    (!Path::new(netns).exists()).then(|| format!("the namespace {netns} is gone"))
}
