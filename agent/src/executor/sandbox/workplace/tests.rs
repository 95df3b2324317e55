use std::io;

use drover_store::Sha256Hash;
use drover_store::nar::Node;
use drover_store::path;

use super::super::tests::executor;
use super::*;
use crate::executor::Executor as _;

/// A connection that breaks off after these bytes.
struct Broken<'a>(&'a [u8]);

impl Read for Broken<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(io::ErrorKind::ConnectionReset.into()),
            n => Ok(n),
        }
    }
}

#[test]
fn a_source_whose_connection_breaks_can_be_asked_for_again_and_one_that_is_wrong_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (executor, store) = executor(folder.path());
    let mut place = executor.open().unwrap();
    let nar = Node::Directory([(b"file".to_vec(), Node::file(vec![b'x'; 300_000]))].into()).to_nar();
    let source = path::source("source", &Sha256Hash::of(&nar)).unwrap();
    for end in [0, 7, 200_000, nar.len()] {
        let error = place.add_file(&source, true, &mut Broken(&nar[..end])).unwrap_err();
        let Error::Stream { attempted, source: broken } = error else { panic!("at {end}: {error}") };
        assert_eq!(broken.kind(), io::ErrorKind::ConnectionReset);
        assert!(attempted.contains(source.base_name()), "{attempted}");
        assert!(!store.has(&source));
    }
    let ends_early = place.add_file(&source, true, &mut &nar[..nar.len() - 8]).unwrap_err();
    assert!(matches!(ends_early, Error::Refused(_)), "{ends_early}");
    let other = Node::file("other").to_nar();
    let wrong = place.add_file(&source, true, &mut &other[..]).unwrap_err();
    assert!(matches!(wrong, Error::Refused(_)), "{wrong}");
    place.add_file(&source, true, &mut &nar[..]).unwrap();
    assert!(store.has(&source));
}
