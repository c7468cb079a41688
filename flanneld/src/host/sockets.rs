//! The sockets of this network namespace that are bound to a port, and their processes.

use flannel_core::dataplane::UdpPort;
use flannel_core::family::Family;
use flannel_core::obstacle::UdpSocket;
use std::collections::BTreeMap;
use std::fs;

/// Returns the sockets that are bound to a UDP port. The process is known if this one may read it.
#[must_use]
pub fn udp(number: u16) -> Vec<UdpSocket> {
    let found = read("udp", number, |_| true);
    if found.is_empty() {
        return Vec::new();
    }
    let mut processes = processes();
    found
        .into_iter()
        .map(|(port, inode)| UdpSocket { port, process: processes.remove(&format!("socket:[{inode}]")) })
        .collect()
}

/// Returns id and name of the process that listens on a TCP port, if this one may read it.
#[must_use]
pub fn tcp_listener(number: u16) -> Option<(u32, String)> {
    let found = read("tcp", number, |state| state == LISTEN);
    let mut processes = processes();
    found.into_iter().find_map(|(_, inode)| processes.remove(&format!("socket:[{inode}]")))
}

/// `TCP_LISTEN`.
const LISTEN: &str = "0A";

fn read(protocol: &str, number: u16, is_wanted: impl Fn(&str) -> bool) -> Vec<(UdpPort, u64)> {
    let tables = [(Family::V4, ""), (Family::V6, "6")].map(|(family, suffix)| {
        let table = fs::read_to_string(format!("/proc/net/{protocol}{suffix}")).unwrap_or_default();
        parse(&table, family, number, &is_wanted)
    });
    tables.concat()
}

/// Reads ports and inodes from a table of the kernel (`udp4_format_sock`). A socket for all IPv6 addresses receives from
/// IPv4, too, unless it asked for IPv6 only, which the table does not contain.
fn parse(table: &str, family: Family, number: u16, is_wanted: impl Fn(&str) -> bool) -> Vec<(UdpPort, u64)> {
    let socket = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (address, port) = words.get(1)?.split_once(':')?;
        let inode = words.get(9).filter(|_| is_wanted(words[3]))?.parse().ok()?;
        let is_both = family == Family::V6 && address.bytes().all(|byte| byte == b'0');
        let family = Some(family).filter(|_| !is_both);
        let found = u16::from_str_radix(port, 16).ok()?;
        (found == number).then_some((UdpPort { number, family }, inode))
    };
    table.lines().skip(1).filter_map(socket).collect()
}

/// Id and name of processes, by the text of the link below `/proc/PID/fd` to each of their files.
fn processes() -> BTreeMap<String, (u32, String)> {
    let mut found = BTreeMap::new();
    let entries = fs::read_dir("/proc").into_iter().flatten();
    let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    for pid in ids {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten();
        let targets = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
        let sockets = targets.filter_map(|target| Some(target.to_str()?.to_owned()));
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        for socket in sockets.filter(|target| target.starts_with("socket:")) {
            found.entry(socket).or_insert_with(|| (pid, name.trim_end().to_owned()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, UdpSocket as Socket};

    #[test]
    fn tables_of_the_kernel() {
        let table = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
                     \x20 12: 0100007F:2118 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2 0 0\n\
                     \x20 13: 00000000:0044 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4712 2 0 0\n";
        let port = |family| UdpPort { number: 8472, family };
        assert_eq!(parse(table, Family::V4, 8472, |state| state == "07"), [(port(Some(Family::V4)), 4711)]);
        let all = table.replace("0100007F", &"0".repeat(32));
        assert_eq!(parse(&all, Family::V6, 8472, |_| true), [(port(None), 4711)]);
        assert!(parse(table, Family::V4, 8472, |state| state == LISTEN).is_empty());
        assert!(parse("", Family::V4, 8472, |_| true).is_empty());
    }

    #[test]
    fn own_socket_is_found_with_its_process() {
        let socket = Socket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let found = udp(socket.local_addr().unwrap().port());
        let own = found
            .iter()
            .filter_map(|socket| socket.process.as_ref())
            .find(|(pid, _)| *pid == std::process::id());
        assert!(own.is_some_and(|(_, name)| !name.is_empty()), "{found:?}");
    }
}
