//! The items of the daemon's export-path and import-paths: a nar, then this trailer, then a signature of both.

use crate::framing::{push_bytes, push_u64};
use crate::{Sha256, Sha256Hash, StorePath};

/// The integer between the nar and what is said about it.
pub const MAGIC: u64 = 0x4558_494e;

/// The bytes that follow the nar and are signed with it: magic, path, references, deriver. `references` are
/// written in the order given; the daemon's is ascending.
pub fn trailer(path: &StorePath, references: &[StorePath], deriver: Option<&StorePath>) -> Vec<u8> {
    let mut bytes = Vec::new();
    push_u64(&mut bytes, MAGIC);
    push_bytes(&mut bytes, path.as_str().as_bytes());
    push_u64(&mut bytes, references.len() as u64);
    for reference in references {
        push_bytes(&mut bytes, reference.as_str().as_bytes());
    }
    push_bytes(&mut bytes, deriver.map_or("", StorePath::as_str).as_bytes());
    bytes
}

/// The hash that the signature of an item is over: that of the nar and the trailer. `after_nar` is the state of
/// a hash that has had the nar.
pub fn export_hash(
    mut after_nar: Sha256,
    path: &StorePath,
    references: &[StorePath],
    deriver: Option<&StorePath>,
) -> Sha256Hash {
    after_nar.update(&trailer(path, references, deriver));
    after_nar.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framing::{read_bytes, read_list, read_u64};

    #[test]
    fn a_trailer_reads_as_the_daemon_reads_it() {
        let path = crate::path::text("hello", b"", &[]).unwrap();
        let deriver = crate::path::text("hello.drv", b"", &[]).unwrap();
        let bytes = trailer(&path, std::slice::from_ref(&path), Some(&deriver));
        let mut rest = &bytes[..];
        assert_eq!(read_u64(&mut rest, "the magic").unwrap(), MAGIC);
        assert_eq!(read_bytes(&mut rest, 300, "the path").unwrap(), path.as_str().as_bytes());
        assert_eq!(read_list(&mut rest, 9, 300, "references").unwrap(), [path.as_str().as_bytes()]);
        assert_eq!(read_bytes(&mut rest, 300, "the deriver").unwrap(), deriver.as_str().as_bytes());
        assert!(rest.is_empty());

        let mut state = Sha256::new();
        state.update(b"nar");
        let whole = [b"nar".as_slice(), &trailer(&path, &[], None)].concat();
        assert_eq!(export_hash(state, &path, &[], None), Sha256Hash::of(&whole));
    }
}
