//! Reads the tables of legacy iptables (`x_tables`) from the kernel, without starting a process and without creating a table.

use flannel_core::family::Family;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd as _;

use crate::sys::socket_option;

/// `IPT_SO_GET_INFO` and `IPT_SO_GET_ENTRIES`, with `struct ipt_getinfo` and the header of `struct ipt_get_entries`; IPv6 uses
/// the same (linux/netfilter_ipv4/ip_tables.h).
const INFO: i32 = 64;
const ENTRIES: i32 = 65;
const INFO_LENGTH: usize = 84;
const HEAD_LENGTH: usize = 40;
/// The length of the table name, in both structures.
const NAME_LENGTH: usize = 32;

/// The table may change between the requests for its size and its rules.
const ATTEMPTS: usize = 10;

/// Returns the rules of a table in the kernel's format, or `None` if the table does not exist.
pub(super) fn entries(family: Family, table: &str) -> io::Result<Option<Vec<u8>>> {
    if !exists(family, table)? {
        return Ok(None);
    }
    let (domain, level) = match family {
        Family::V4 => (AddressFamily::Inet, libc::IPPROTO_IP),
        Family::V6 => (AddressFamily::Inet6, libc::IPPROTO_IPV6),
    };
    // Any socket of the family works.
    let socket = socket(domain, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let get = |name, buffer: &mut [u8]| socket_option(socket.as_fd(), level, name, buffer);
    for _ in 0..ATTEMPTS {
        let mut info = named(table, INFO_LENGTH);
        get(INFO, &mut info)?;
        let (_, size) = info.split_last_chunk::<4>().ok_or(ErrorKind::InvalidData)?;
        let length = u32::from_ne_bytes(*size) as usize;
        let mut answer = named(table, HEAD_LENGTH + length);
        answer[NAME_LENGTH..NAME_LENGTH + 4].copy_from_slice(size);
        match get(ENTRIES, &mut answer) {
            Ok(_) => return Ok(Some(answer.split_off(HEAD_LENGTH))),
            Err(error) if error.raw_os_error() == Some(Errno::EAGAIN as i32) => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("the table changed repeatedly while it was read"))
}

fn exists(family: Family, table: &str) -> io::Result<bool> {
    let path = match family {
        Family::V4 => "/proc/thread-self/net/ip_tables_names",
        Family::V6 => "/proc/thread-self/net/ip6_tables_names",
    };
    match fs::read_to_string(path) {
        Ok(names) => Ok(names.lines().any(|name| name == table)),
        // The kernel has no legacy iptables.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn named(table: &str, length: usize) -> Vec<u8> {
    let mut buffer = vec![0; length];
    buffer[..table.len()].copy_from_slice(table.as_bytes());
    buffer
}
