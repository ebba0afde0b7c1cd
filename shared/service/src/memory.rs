//! How the C library's allocator keeps memory.
//!
//! Columns come and go in buffers of megabytes, on threads that change. By default glibc gives each
//! thread an arena of its own and learns to keep ever larger buffers in them: a flusher of 700 MB of
//! live data then held 1.7 GB. Few arenas, and large buffers straight from the system and back to it,
//! cost some percent of speed and keep memory what it is said to be.

/// Applies to the whole process; call it before any thread is started.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "the C library offers no safe way")]
pub fn return_large_buffers() {
    const ARENAS_MAX: libc::c_int = 4;
    const MAPPED_FROM_BYTES: libc::c_int = 4 << 20;
    const KEPT_FREE_BYTES_MAX: libc::c_int = 64 << 20;
    // SAFETY: sets numbers of the allocator; unknown ones are ignored.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS_MAX);
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_FREE_BYTES_MAX);
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn return_large_buffers() {}
