//! Calls of the C library that have no safe form elsewhere: the only place with `unsafe`.

use std::ffi::c_int;
#[cfg(target_env = "gnu")]
use std::ffi::{CStr, c_char};
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// Lets all threads share one heap: a daemon that mostly waits needs no more, and each further heap keeps its memory. Large pieces
/// never become part of the heap, which glibc otherwise allows after the first one: their pages return to the system with them.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "mallopt has no safe form")]
pub fn keep_heap_small() {
    // SAFETY: mallopt takes plain numbers, and no other thread exists yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}

/// The default size from which on glibc maps a piece of memory by itself.
#[cfg(target_env = "gnu")]
const LARGE: c_int = 128 << 10;

/// Returns freed memory to the system. A round in a large cluster temporarily needs several megabytes, which the heap would keep.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "malloc_trim has no safe form")]
pub(crate) fn release_memory() {
    // SAFETY: it takes a plain number and locks the heap itself.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Other C libraries do this themselves.
#[cfg(not(target_env = "gnu"))]
pub const fn keep_heap_small() {}

/// Other C libraries return memory themselves.
#[cfg(not(target_env = "gnu"))]
pub(crate) const fn release_memory() {}

/// getsockopt(2) for options that are plain bytes: `buffer` is read and overwritten. Returns the length of the result.
#[expect(unsafe_code, reason = "no crate has the options of x_tables")]
pub(crate) fn socket_option(
    socket: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
    buffer: &mut [u8],
) -> io::Result<usize> {
    let size = libc::socklen_t::try_from(buffer.len()).map_err(io::Error::other)?;
    let mut filled = size;
    // SAFETY: the kernel reads and writes `size` bytes of the buffer at most, any of which are valid bytes.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, name, buffer.as_mut_ptr().cast(), &raw mut filled)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(filled.min(size) as usize) }
}

/// Lets a statically linked program resolve names with `/etc/hosts` and the DNS, independently of `nsswitch.conf`. Call it first in
/// `main`, with `cfg!(target_feature = "crt-static")`.
///
/// Other services in `nsswitch.conf` are shared libraries of the host. glibc loads them into static programs, too, but they must
/// belong to the glibc that the program was linked with, otherwise it resolves no name or crashes. Both services here are part of
/// glibc since 2.34.
pub fn resolve_names_without_plugins(static_program: bool) {
    if static_program {
        #[cfg(target_env = "gnu")]
        configure_lookup(c"hosts", c"files dns");
    }
}

#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "glibc documents it in <nss.h>; no crate declares it")]
fn configure_lookup(database: &CStr, services: &CStr) {
    // SAFETY: declared as in <nss.h>.
    unsafe extern "C" {
        fn __nss_configure_lookup(database: *const c_char, services: *const c_char) -> c_int;
    }
    // SAFETY: both strings end in NUL, and glibc copies them. It fails only for an unknown
    // database, and without memory.
    unsafe { __nss_configure_lookup(database.as_ptr(), services.as_ptr()) };
}
