use std::fs;
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

#[test]
fn an_input_of_which_nobody_can_read_what_it_is_is_missing_and_comes_again_unless_another_build_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let (executor, store) = executor(folder.path());
    let [base, fine] = ["base", "fine"].map(|text| path::text(text, text.as_bytes(), &[]).unwrap());
    let top = path::text("top", b"top", std::slice::from_ref(&base)).unwrap();
    let add = |place: &mut dyn Workplace| {
        for (path, references) in [(&base, vec![]), (&fine, vec![]), (&top, vec![base.clone()])] {
            let text = NewText { path, text: path.name().as_bytes(), references: &references };
            place.add_texts(&[text]).unwrap();
        }
    };
    let open = || {
        let mut place = executor.open().unwrap();
        place.protect(&mut [&base, &fine, &top].into_iter()).unwrap();
        place
    };
    let all = [base.clone(), fine.clone(), top.clone()];
    let (mut place, other) = (open(), open());
    add(place.as_mut());
    assert_eq!(place.missing(&all).unwrap(), []);
    fs::write(store.folder().join(".drover/items").join(base.base_name()), "noise").unwrap();
    assert_eq!(place.missing(&all).unwrap(), [], "another build may be using it");
    drop(other);
    assert_eq!(place.missing(&all).unwrap(), [base.clone(), top.clone()]);
    add(place.as_mut());
    assert_eq!(place.missing(&all).unwrap(), []);
    assert_eq!(store.closure(std::slice::from_ref(&top)).unwrap().len(), 2);
}
