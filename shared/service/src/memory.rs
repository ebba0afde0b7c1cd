//! Where memory comes from.
//!
//! Small allocations, of which a request makes hundreds, come from mimalloc: a lookup costs a third
//! less than with the C library. It keeps what is freed, though, and of columns that is much: the
//! same upserts then took 1,100 MB instead of 450. So large ones come from the C library, told to
//! give them back.
//!
//! Columns come and go in buffers of megabytes, on threads that change. By default glibc gives each
//! thread an arena of its own and learns to keep ever larger buffers in them: a flusher of 700 MB of
//! live data then held 1.7 GB. Few arenas, and large buffers straight from the system and back to it,
//! cost some percent of speed and keep memory what it is said to be.

use std::alloc::{GlobalAlloc, Layout, System};

use mimalloc::MiMalloc;

/// What is larger comes from the C library.
const SMALL_BYTES_MAX: usize = 32 << 10;

/// The allocator of our programs; see the module.
#[derive(Debug, Clone, Copy, Default)]
pub struct Allocator;

fn is_small(layout: Layout) -> bool {
    layout.size() <= SMALL_BYTES_MAX
}

// SAFETY: each allocation is given back to the allocator that it came from, as both are told its
// layout, and the layout alone decides.
#[expect(unsafe_code, reason = "the trait of allocators is unsafe")]
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are passed on.
        unsafe {
            match is_small(layout) {
                true => MiMalloc.alloc(layout),
                false => System.alloc(layout),
            }
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are passed on.
        unsafe {
            match is_small(layout) {
                true => MiMalloc.alloc_zeroed(layout),
                false => System.alloc_zeroed(layout),
            }
        }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the layout says where it came from.
        unsafe {
            match is_small(layout) {
                true => MiMalloc.dealloc(ptr, layout),
                false => System.dealloc(ptr, layout),
            }
        }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller promises that the size, rounded up to the alignment, does not overflow;
        // what moves from one allocator to the other is copied as far as both reach.
        unsafe {
            let new = Layout::from_size_align_unchecked(new_size, layout.align());
            match (is_small(layout), is_small(new)) {
                (true, true) => MiMalloc.realloc(ptr, layout, new_size),
                (false, false) => System.realloc(ptr, layout, new_size),
                _ => {
                    let to = self.alloc(new);
                    if !to.is_null() {
                        std::ptr::copy_nonoverlapping(ptr, to, layout.size().min(new_size));
                        self.dealloc(ptr, layout);
                    }
                    to
                }
            }
        }
    }
}

/// How the C library keeps memory. Applies to the whole process; call it before any thread is started.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grows_and_shrinks_over_the_border_keeps_its_bytes() {
        let pattern = |bytes: usize| (0..bytes).map(|at| at as u8);
        for (from, to) in [
            (100, 200),
            (100, 100_000),
            (100_000, 200),
            (100_000, 300_000),
        ] {
            let layout = Layout::from_size_align(from, 64).unwrap();
            #[expect(unsafe_code, reason = "an allocator is asked by hand")]
            // SAFETY: allocated, written, moved and freed with the layouts that they have.
            unsafe {
                let ptr = Allocator.alloc(layout);
                std::slice::from_raw_parts_mut(ptr, from)
                    .iter_mut()
                    .zip(pattern(from))
                    .for_each(|(byte, value)| *byte = value);
                let ptr = Allocator.realloc(ptr, layout, to);
                let kept = from.min(to);
                let found = std::slice::from_raw_parts(ptr, kept);
                assert!(found.iter().copied().eq(pattern(kept)), "{from} to {to}");
                assert_eq!(ptr as usize % 64, 0);
                Allocator.dealloc(ptr, Layout::from_size_align(to, 64).unwrap());
            }
        }
    }
}
