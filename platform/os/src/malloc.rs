//! What glibc's allocator is told, on every system that has it. musl has no such habits.

/// Sets the sizes from which it takes memory from the system, and gives it back, and so keeps it from raising them each
/// time that a larger buffer is freed.
pub(crate) fn hoard_no_memory() {
    #[cfg(target_env = "gnu")]
    {
        // As large as the buffers of connections: among them in the heap would lie small things that stay, each of which
        // keeps a page.
        const MAPPED: std::ffi::c_int = 16 * 1024;
        const TRIMMED: std::ffi::c_int = 64 * 1024;
        // SAFETY: numbers are set under the allocator's own lock. Whether it takes them changes nothing but sizes.
        unsafe {
            libc::mallopt(parameter::MMAP_THRESHOLD, MAPPED);
            libc::mallopt(parameter::TRIM_THRESHOLD, TRIMMED);
        }
    }
}

/// Has it use one arena, as musl does.
pub(crate) fn share_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: a number is set under the allocator's own lock.
    unsafe {
        libc::mallopt(parameter::ARENA_MAX, 1);
    }
}

/// What musl frees goes back by itself; glibc keeps it until it is told.
pub(crate) fn release_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: only pages that the allocator has free are given back, under its own lock.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The parameters of `mallopt`, as glibc's malloc.h has them for all its systems.
#[cfg(target_env = "gnu")]
mod parameter {
    use std::ffi::c_int;

    pub(super) const TRIM_THRESHOLD: c_int = -1;
    pub(super) const MMAP_THRESHOLD: c_int = -3;
    pub(super) const ARENA_MAX: c_int = -8;
}
