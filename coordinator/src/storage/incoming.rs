//! An output as it arrives: decompressed, parsed, hashed and scanned while its bytes pass by, so that nothing is
//! believed about it.

use std::collections::HashSet;
use std::fmt;

use drover_store::derivation::Fixed;
use drover_store::nar::{Contents, Limits, OneFile, Parser};
use drover_store::references::Scanner;
use drover_store::{Sha256, Sha256Hash, StorePath};
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

use super::{Algorithm, WINDOW_LOG_MAX};

/// How many bytes a nar of so many may have when it is compressed: no compression makes it much longer.
pub fn packed_limit(nar_size: u64) -> u64 {
    nar_size.saturating_add(nar_size / 8).saturating_add(64 * 1024)
}

/// What an output is said to be.
#[derive(Debug, Clone)]
pub struct Expected {
    /// The SHA-256 of its nar.
    pub nar_hash: Sha256Hash,
    /// The bytes of its nar.
    pub nar_size: u64,
    /// What it refers to, sorted.
    pub references: Vec<StorePath>,
    /// All that it could refer to.
    pub candidates: HashSet<StorePath>,
    /// Whether references may be said that do not stand in it, as of a source that was added with them.
    pub unfound: bool,
    /// What its contents must be, for a fixed output.
    pub fixed: Option<Fixed>,
}

/// What an output turned out to be: what was expected, and this.
#[derive(Debug)]
pub struct Verified {
    /// The state of the SHA-256 after the whole nar, for what is hashed after it.
    pub after_nar: Sha256,
}

/// Why an output is not what it was said to be, in words that follow “the nar of PATH”.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused(pub String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn refused<T>(reason: impl Into<String>) -> Result<T, Refused> {
    Err(Refused(reason.into()))
}

/// Takes the plain bytes of a nar in any pieces: hashed, parsed, measured and scanned.
pub struct Judge {
    expected: Expected,
    size: u64,
    hash: Sha256,
    parser: Parser,
    scanner: Scanner,
    fixed: Option<OneFile<FixedHash>>,
}

impl fmt::Debug for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Judge").field("size", &self.size).finish_non_exhaustive()
    }
}

impl Judge {
    /// Starts before the first byte.
    pub fn new(expected: Expected) -> Self {
        Self {
            scanner: Scanner::new(expected.candidates.iter().chain(&expected.references)),
            fixed: expected.fixed.as_ref().and_then(FixedHash::new),
            size: 0,
            hash: Sha256::new(),
            parser: Parser::new(Limits::default()),
            expected,
        }
    }

    /// Judges the whole.
    ///
    /// # Errors
    /// When it is not what was expected.
    pub fn finish(self) -> Result<Verified, Refused> {
        let Expected { nar_hash, nar_size, references, .. } = &self.expected;
        if self.size < *nar_size {
            return refused(truncated(self.size, *nar_size));
        }
        if let Err(error) = self.parser.finish() {
            return refused(format!("is none: {error}"));
        }
        let found_hash = self.hash.clone().finish();
        if found_hash != *nar_hash {
            return refused(format!("has the SHA-256 {found_hash}, and not {nar_hash} as was said"));
        }
        if let (Some(hash), Some(fixed)) = (self.fixed, &self.expected.fixed) {
            let is_file = hash.is_one();
            hash.contents.check(is_file, fixed)?;
        }
        let found = self.scanner.found();
        if let Some(unsaid) = found.iter().find(|path| !references.contains(path)) {
            return refused(format!("refers to {unsaid}, which was not said"));
        }
        let absent = references.iter().find(|path| !self.expected.unfound && !found.contains(path));
        if let Some(absent) = absent {
            return refused(format!("does not refer to {absent}, as was said"));
        }
        Ok(Verified { after_nar: self.hash })
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// As soon as it cannot be what was expected.
    pub fn update(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        self.size += bytes.len() as u64;
        if self.size > self.expected.nar_size {
            return refused(format!("is longer than the {} bytes that were said", self.expected.nar_size));
        }
        self.hash.update(bytes);
        self.scanner.update(bytes);
        let taken = match &mut self.fixed {
            Some(hash) => {
                hash.contents.nar(bytes);
                self.parser.push(bytes, hash)
            }
            None => self.parser.push(bytes, &mut ()),
        };
        match taken {
            Ok(taken) if taken == bytes.len() => Ok(()),
            Ok(_) => refused(format!("has something after its end, at byte {}", self.parser.offset())),
            Err(error) => refused(format!("is none: {error}")),
        }
    }
}

/// Takes the zstd-compressed bytes of an output in any pieces.
pub struct Incoming {
    judge: Judge,
    decoder: Decoder<'static>,
    plain: Vec<u8>,
    /// Whether a zstd frame is open.
    in_frame: bool,
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").field("size", &self.judge.size).finish_non_exhaustive()
    }
}

impl Incoming {
    /// Starts before the first byte.
    ///
    /// # Errors
    /// When there is no memory for a decoder.
    pub fn new(expected: Expected) -> std::io::Result<Self> {
        let mut decoder = Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))?;
        let judge = Judge::new(expected);
        Ok(Self { judge, decoder, plain: vec![0; 128 * 1024], in_frame: false })
    }

    /// Takes the next compressed bytes.
    ///
    /// # Errors
    /// As soon as it cannot be what was expected.
    pub fn update(&mut self, compressed: &[u8]) -> Result<(), Refused> {
        if compressed.is_empty() {
            return Ok(());
        }
        let mut input = InBuffer::around(compressed);
        loop {
            let mut output = OutBuffer::around(&mut self.plain[..]);
            let hint = match self.decoder.run(&mut input, &mut output) {
                Ok(hint) => hint,
                Err(error) => return refused(format!("is not zstd-compressed as it must be: {error}")),
            };
            let filled = output.pos();
            self.in_frame = hint != 0;
            self.judge.update(&self.plain[..filled])?;
            if input.pos() == compressed.len() && (filled < self.plain.len() || hint == 0) {
                return Ok(());
            }
        }
    }

    /// Judges the whole.
    ///
    /// # Errors
    /// When it is not what was expected.
    pub fn finish(self) -> Result<Verified, Refused> {
        if self.in_frame {
            return refused(truncated(self.judge.size, self.judge.expected.nar_size));
        }
        self.judge.finish()
    }
}

fn truncated(came: u64, said: u64) -> String {
    format!("is truncated: {came} of its {said} bytes came")
}

/// The hash that fixes an output, over the contents of its one file or over its nar.
struct FixedHash {
    algorithm: Algorithm,
    recursive: bool,
}

impl FixedHash {
    /// None for an algorithm that is not known here: guix-daemon has checked it on the agent.
    fn new(fixed: &Fixed) -> Option<OneFile<Self>> {
        let Some(algorithm) = Algorithm::named(&fixed.algorithm) else {
            tracing::warn!(algorithm = fixed.algorithm, "the hash of a fixed output cannot be checked here");
            return None;
        };
        Some(OneFile::new(Self { algorithm, recursive: fixed.recursive }))
    }

    fn nar(&mut self, bytes: &[u8]) {
        if self.recursive {
            self.algorithm.update(bytes);
        }
    }

    fn check(self, is_file: bool, fixed: &Fixed) -> Result<(), Refused> {
        if !self.recursive && !is_file {
            return refused("is not that of a plain file, as its derivation says");
        }
        let found = self.algorithm.finish();
        if found == fixed.hash {
            return Ok(());
        }
        let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
        let (algorithm, wanted) = (&fixed.algorithm, hex(&fixed.hash));
        refused(format!(
            "has contents with the {algorithm} {}, and its derivation fixes {wanted}",
            hex(&found)
        ))
    }
}

impl Contents for FixedHash {
    fn update(&mut self, bytes: &[u8]) {
        if !self.recursive {
            self.algorithm.update(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use drover_store::nar::Node;

    use super::*;

    fn path(name: &str) -> StorePath {
        StorePath::parse_base(&format!("00a3xasf5iyzfv23danwy7pilf2yyxjz-{name}")).unwrap()
    }

    fn expected(nar: &[u8], references: &[StorePath]) -> Expected {
        Expected {
            nar_hash: Sha256Hash::of(nar),
            nar_size: nar.len() as u64,
            references: references.to_vec(),
            candidates: [path("a")].into(),
            unfound: false,
            fixed: None,
        }
    }

    fn judge(expected: Expected, nar: &[u8], piece: usize) -> Result<(), String> {
        let bytes = zstd::encode_all(nar, 3).unwrap();
        let mut incoming = Incoming::new(expected).unwrap();
        for piece in bytes.chunks(piece) {
            incoming.update(piece).map_err(|refused| refused.0)?;
        }
        incoming.finish().map(drop).map_err(|refused| refused.0)
    }

    fn nar() -> Vec<u8> {
        Node::file(format!("needs {} to run{}", path("a"), "x".repeat(500_000))).to_nar()
    }

    #[test]
    fn what_was_said_is_accepted_in_pieces_of_any_size() {
        for piece in [1, 7, 1_000_000] {
            judge(expected(&nar(), &[path("a")]), &nar(), piece).unwrap();
        }
    }

    #[test]
    fn an_unsaid_reference_is_refused_and_so_is_one_that_is_not_there() {
        let error = judge(expected(&nar(), &[]), &nar(), 4096).unwrap_err();
        assert!(error.contains("which was not said"), "{error}");
        let none = Node::file("nothing").to_nar();
        let error = judge(expected(&none, &[path("a")]), &none, 4096).unwrap_err();
        assert!(error.contains("does not refer"), "{error}");
    }

    #[test]
    fn a_source_may_be_said_to_refer_to_what_does_not_stand_in_it() {
        let none = Node::file("nothing").to_nar();
        judge(Expected { unfound: true, ..expected(&none, &[path("a")]) }, &none, 4096).unwrap();
    }

    #[test]
    fn a_nar_that_is_cut_padded_or_longer_than_said_is_refused() {
        let nar = nar();
        let said = || expected(&nar, &[path("a")]);
        let error = judge(said(), &nar[..nar.len() - 8], 4096).unwrap_err();
        assert!(error.contains("truncated"), "{error}");
        let padded = [&nar[..], &[0; 8]].concat();
        let error = judge(said(), &padded, 4096).unwrap_err();
        assert!(error.contains("longer"), "{error}");
        let error = judge(expected(&padded, &[path("a")]), &padded, 4096).unwrap_err();
        assert!(error.contains("after its end"), "{error}");
    }

    #[test]
    fn a_stream_that_ends_within_its_frame_is_truncated() {
        let nar = nar();
        let bytes = zstd::encode_all(&nar[..], 3).unwrap();
        let mut incoming = Incoming::new(expected(&nar, &[path("a")])).unwrap();
        incoming.update(&bytes[..bytes.len() - 1]).unwrap();
        assert!(incoming.finish().unwrap_err().0.contains("truncated"));
    }

    #[test]
    fn bytes_that_are_not_zstd_are_refused() {
        let mut incoming = Incoming::new(expected(&nar(), &[])).unwrap();
        assert!(incoming.update(b"this is no zstd frame").is_err());
    }

    #[test]
    fn a_bomb_is_refused_as_soon_as_it_is_larger_than_was_said() {
        let said = nar();
        let mut bomb = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        bomb.write_all(&said[..1000]).unwrap();
        for _ in 0..1000 {
            bomb.write_all(&[b'x'; 1 << 20]).unwrap();
        }
        let bomb = bomb.finish().unwrap();
        assert!(bomb.len() < 1 << 20, "a thousand million bytes in {}", bomb.len());
        let mut incoming = Incoming::new(expected(&said, &[path("a")])).unwrap();
        let refused = incoming.update(&bomb).unwrap_err();
        assert!(refused.0.contains("longer"), "{refused}");
        assert!(incoming.judge.size <= said.len() as u64 + 256 * 1024, "no more was unpacked than tells");
    }

    #[test]
    fn a_nar_in_another_form_than_the_canonical_one_is_refused_though_its_hash_is_as_said() {
        let good = Node::file("abc").to_nar();
        judge(expected(&good, &[]), &good, 7).unwrap();
        // Padding that is not zero; a name in front of one that comes before it.
        let mut padded = good.clone();
        let at = padded.windows(3).position(|three| three == b"abc").unwrap() + 3;
        padded[at] = 1;
        let error = judge(expected(&padded, &[]), &padded, 7).unwrap_err();
        assert!(error.contains("is none"), "{error}");
        let tree = [("a", "1"), ("b", "2")].map(|(name, text)| (name.as_bytes().to_vec(), Node::file(text)));
        let mut swapped = Node::Directory(tree.into_iter().collect()).to_nar();
        let place = |nar: &[u8], name: u8| {
            nar.windows(9).position(|nine| nine == [1, 0, 0, 0, 0, 0, 0, 0, name]).unwrap() + 8
        };
        let (a, b) = (place(&swapped, b'a'), place(&swapped, b'b'));
        swapped.swap(a, b);
        let error = judge(expected(&swapped, &[]), &swapped, 7).unwrap_err();
        assert!(error.contains("is none"), "{error}");
    }

    #[test]
    fn a_fixed_output_must_have_the_contents_that_fix_it() {
        let file = Node::file("fixed").to_nar();
        let said = |recursive, hashed: &[u8]| Expected {
            fixed: Some(Fixed {
                recursive,
                algorithm: "sha256".to_owned(),
                hash: Sha256Hash::of(hashed).as_bytes().to_vec(),
            }),
            ..expected(&file, &[])
        };
        judge(said(false, b"fixed"), &file, 9).unwrap();
        judge(said(true, &file), &file, 9).unwrap();
        assert!(judge(said(false, b"other"), &file, 9).unwrap_err().contains("fixes"));
        let program = Node::program("fixed").to_nar();
        let said = Expected { fixed: said(false, b"fixed").fixed, ..expected(&program, &[]) };
        assert!(judge(said, &program, 9).unwrap_err().contains("plain file"));
    }
}
