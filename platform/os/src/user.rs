//! Who runs this program.

/// The effective user id: whose permissions count.
pub fn effective_id() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// Whether this program may do everything.
pub fn is_root() -> bool {
    effective_id() == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn our_own_files_are_ours() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(file.as_file().metadata().unwrap().uid(), effective_id());
        assert_eq!(is_root(), effective_id() == 0);
    }
}
