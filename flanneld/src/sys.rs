//! Calls of the C library that have no safe form elsewhere: the only place with `unsafe`.

/// Threads beyond the first share one heap: a daemon that mostly waits needs no more, and every further one keeps what it once
/// had.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "mallopt has no safe form")]
pub fn share_heap() {
    // SAFETY: mallopt takes plain numbers, and nothing runs beside us yet that could allocate meanwhile.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives freed memory back to the system. A round over a large cluster needs several megabytes for a moment; the heap
/// would keep them.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "malloc_trim has no safe form")]
pub(crate) fn release_memory() {
    // SAFETY: it takes a plain number and locks the heap itself.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Other C libraries have one heap.
#[cfg(not(target_env = "gnu"))]
pub const fn share_heap() {}

/// Other C libraries give memory back by themselves.
#[cfg(not(target_env = "gnu"))]
pub(crate) const fn release_memory() {}
