//! Extended attributes of files.

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Removes extended attributes, as far as the system lets.
pub(crate) fn clear(path: &Path) {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return };
    // SAFETY: the path ends with a zero; with no room, nothing is written.
    let length = unsafe { libc::llistxattr(path.as_ptr(), std::ptr::null_mut(), 0) };
    // None, which is the rule, or a file system that has no such thing.
    let Some(length) = usize::try_from(length).ok().filter(|length| *length > 0) else { return };
    let mut names = vec![0_u8; length];
    // SAFETY: as above, and `names` is ours and as long as said; nothing is kept.
    let length = unsafe { libc::llistxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    let Some(names) = usize::try_from(length).ok().and_then(|length| names.get(..length)) else { return };
    for name in names.split_inclusive(|byte| *byte == 0) {
        if let Ok(name) = CStr::from_bytes_with_nul(name) {
            // SAFETY: both end with a zero; nothing is kept. What stays is the system's, such as a label.
            unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) };
        }
    }
}

/// Whether there are some.
pub(crate) fn are_there(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: the path ends with a zero; with no room, nothing is written.
    unsafe { libc::llistxattr(path.as_ptr(), std::ptr::null_mut(), 0) > 0 }
}
