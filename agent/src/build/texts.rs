//! Derivations and sources, from the coordinator into the store.

use std::collections::HashMap;
use std::io::{self, Read};

use drover_store::derivation::Derivation;
use drover_store::nar;
use drover_store::path::StorePath;
use drover_wire::agent::{BundleRequest, SetupStep, Text};
use drover_wire::bundle::{self, BundleError, DERIVATION_LIMIT, Kind};

use super::control::{Control, Heed};
use super::halt::Halt;
use super::host::{Host, Patience, Refusal, patiently};
use crate::executor::{Error, NewText, Workplace};

/// How many paths are asked for in one bundle.
const PER_BUNDLE: usize = 10_000;
/// Texts of so many bytes are added together.
const GATHERED_BYTES: usize = 256 * 1024;
/// The largest window that a compressed stream may ask for, as a power of two.
pub(super) const WINDOW_LOG_LIMIT: u32 = 27;

const STEP: SetupStep = SetupStep::AddDerivations;

/// Makes all of `texts` valid in the store. They are added in their order, each after what it refers to.
pub(super) fn add(
    host: &dyn Host,
    control: &Control,
    place: &mut dyn Workplace,
    texts: &[Text],
) -> Result<(), Halt> {
    let paths: Vec<StorePath> = texts.iter().map(|text| text.path().clone()).collect();
    let executor = |error| Halt::of(STEP, control, error);
    place.protect(&mut paths.iter()).map_err(executor)?;
    let mut missing = place.missing(&paths).map_err(executor)?;
    let by_path: HashMap<&StorePath, &Text> = texts.iter().map(|text| (text.path(), text)).collect();
    let mut patience = Patience::new();
    while !missing.is_empty() {
        let request = BundleRequest { paths: missing.iter().take(PER_BUNDLE).cloned().collect() };
        match add_bundle(host, control, place, &by_path, &request) {
            Ok(()) => {}
            Err(Trouble::Halt(halt)) => return Err(halt),
            Err(Trouble::Broken(error)) => {
                let what = "fetch derivations and sources";
                patience.wait(control, Heed::Any, what, &error).map_err(Halt::Ordered)?;
            }
        }
        let before = missing.len();
        missing = place.missing(&missing).map_err(executor)?;
        if missing.len() < before {
            patience.reset();
        }
    }
    Ok(())
}

enum Trouble {
    Halt(Halt),
    /// The stream broke off: what came before it is in the store.
    Broken(String),
}

/// A derivation or text that waits to be added.
struct Gathered {
    path: StorePath,
    text: Vec<u8>,
    references: Vec<StorePath>,
}

fn add_bundle(
    host: &dyn Host,
    control: &Control,
    place: &mut dyn Workplace,
    texts: &HashMap<&StorePath, &Text>,
    request: &BundleRequest,
) -> Result<(), Trouble> {
    let halt = |halt| Trouble::Halt(halt);
    let wrong = |what: String| Trouble::Halt(Halt::setup(STEP, format!("the coordinator's bundle: {what}")));
    let broken = |error: BundleError| match error {
        BundleError::Io { .. } => Trouble::Broken(error.to_string()),
        BundleError::Malformed { .. } => wrong(error.to_string()),
    };
    let download =
        patiently(control, Heed::Any, "fetch derivations and sources", || host.coordinator().bundle(request))
            .map_err(|refusal: Refusal| halt(Halt::refused(STEP, refusal)))?;
    let mut decoder =
        zstd::stream::read::Decoder::new(download).map_err(|error| Trouble::Broken(error.to_string()))?;
    decoder.window_log_max(WINDOW_LOG_LIMIT).map_err(|error| wrong(error.to_string()))?;
    let mut reader = bundle::Reader::new(decoder);
    let (mut gathered, mut bytes) = (Vec::new(), 0);
    let executor = |error| Trouble::Halt(Halt::of(STEP, control, error));
    let result = loop {
        let entry = match reader.next_entry() {
            Ok(Some(entry)) => entry,
            Ok(None) => break Ok(()),
            Err(error) => break Err(broken(error)),
        };
        let Some(text) = texts.get(&entry.path) else {
            break Err(wrong(format!("{} was not asked for", entry.path)));
        };
        let path = entry.path;
        let new = match (text, entry.kind) {
            (Text::Derivation { .. }, Kind::Derivation) => {
                let mut text = Vec::new();
                if let Err(error) = reader.contents().read_to_end(&mut text) {
                    break Err(Trouble::Broken(error.to_string()));
                }
                match Derivation::parse(&text) {
                    Ok(derivation) => Gathered { path, text, references: derivation.references() },
                    Err(error) => break Err(wrong(format!("{path}: {error}"))),
                }
            }
            (Text::Text { references, .. }, Kind::Source) => match text_of_nar(reader.contents(), entry.size)
            {
                Ok(text) => Gathered { path, text, references: references.clone() },
                Err(nar::Error::Io { error, .. }) => break Err(Trouble::Broken(error.to_string())),
                Err(error) => break Err(wrong(format!("{path}: {error}"))),
            },
            (Text::File { recursive, .. }, Kind::Source) => {
                match place.add_file(&path, *recursive, &mut reader.contents()) {
                    Ok(()) => continue,
                    Err(Error::Stream { source, .. }) => break Err(Trouble::Broken(source.to_string())),
                    Err(error) => break Err(executor(error)),
                }
            }
            _ => break Err(wrong(format!("{path} is of another kind"))),
        };
        bytes += new.text.len();
        gathered.push(new);
        if bytes >= GATHERED_BYTES {
            flush(place, &mut gathered).map_err(executor)?;
            bytes = 0;
        }
        if let Some(order) = control.ordered(Heed::Any) {
            return Err(halt(Halt::Ordered(order)));
        }
    };
    // What came whole counts, however the stream ended.
    flush(place, &mut gathered).map_err(executor)?;
    result
}

fn flush(place: &mut dyn Workplace, gathered: &mut Vec<Gathered>) -> Result<(), Error> {
    let texts: Vec<NewText<'_>> = gathered
        .iter()
        .map(|g| NewText { path: &g.path, text: &g.text, references: &g.references })
        .collect();
    if !texts.is_empty() {
        place.add_texts(&texts)?;
    }
    gathered.clear();
    Ok(())
}

/// The bytes of the one plain file that a nar is.
fn text_of_nar(nar: impl Read, size: u64) -> Result<Vec<u8>, nar::Error> {
    struct File(Vec<u8>, bool);
    impl nar::Visitor for File {
        fn regular(&mut self, executable: bool, _: u64) -> Result<(), nar::Error> {
            self.1 = !executable;
            Ok(())
        }
        fn contents(&mut self, bytes: &[u8]) -> Result<(), nar::Error> {
            self.0.extend_from_slice(bytes);
            Ok(())
        }
        fn end_regular(&mut self) -> Result<(), nar::Error> {
            Ok(())
        }
        fn symlink(&mut self, _: &[u8]) -> Result<(), nar::Error> {
            Ok(())
        }
        fn directory(&mut self) -> Result<(), nar::Error> {
            Ok(())
        }
        fn entry(&mut self, _: &[u8]) -> Result<(), nar::Error> {
            Ok(())
        }
        fn leave(&mut self) -> Result<(), nar::Error> {
            Ok(())
        }
    }
    let limits = nar::Limits { contents: DERIVATION_LIMIT, entries: 0, ..nar::Limits::default() };
    let mut file = File(Vec::new(), false);
    nar::parse(&mut io::BufReader::with_capacity(8 * 1024, nar.take(size)), limits, &mut file)?;
    if file.1 {
        Ok(file.0)
    } else {
        Err(nar::Error::Syntax { offset: 0, expected: "a plain file, because this source is a text" })
    }
}

#[cfg(test)]
mod tests {
    use drover_store::nar::Node;

    use super::*;

    fn text(node: &Node) -> Result<Vec<u8>, nar::Error> {
        let nar = node.to_nar();
        text_of_nar(&nar[..], nar.len() as u64)
    }

    #[test]
    fn a_text_is_the_bytes_of_its_file_and_nothing_else_is_one() {
        assert_eq!(text(&Node::file("bytes\n")).unwrap(), b"bytes\n");
        assert!(text(&Node::program("x")).is_err());
        assert!(text(&Node::Symlink(b"x".to_vec())).is_err());
        assert!(text(&Node::Directory([(b"a".to_vec(), Node::file("x"))].into())).is_err());
        let nar = Node::file("bytes").to_nar();
        assert!(text_of_nar(&nar[..20], 20).is_err());
    }
}
