use std::path::PathBuf;

use super::*;

/// A log in a folder of its own.
struct Log {
    raw: PathBuf,
    packed: PathBuf,
    _folder: tempfile::TempDir,
}

impl Log {
    fn of(bytes: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = Self {
            raw: folder.path().join("x.log"),
            packed: folder.path().join("x.log.zst"),
            _folder: folder,
        };
        std::fs::write(&log.raw, bytes).unwrap();
        log
    }

    fn pack(&self) -> Option<u64> {
        pack(&self.raw, &self.packed).unwrap()
    }

    fn read(&self, offset: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        LogReader::open(&self.raw, &self.packed, offset)?.expect("a log").read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn length(&self, effort: Effort) -> io::Result<Option<u64>> {
        length(&self.raw, &self.packed, effort)
    }

    fn packed(&self) -> Vec<u8> {
        std::fs::read(&self.packed).unwrap()
    }

    fn damage(&self, bytes: &[u8]) {
        std::fs::write(&self.packed, bytes).unwrap();
    }
}

/// Lines that tell where in the log they are.
fn lines(bytes: usize) -> Vec<u8> {
    let mut text =
        (0_u64..).flat_map(|n| format!("line {n} of a log that is not very exciting\n").into_bytes());
    text.by_ref().take(bytes).collect()
}

#[test]
fn a_log_reads_the_same_raw_and_packed_from_any_offset() {
    // Several frames, the last of them short; whole ones alone; less than one; nothing.
    for size in [3 * FRAME + 12_345, 2 * FRAME, 77, 0] {
        let bytes = lines(size);
        let log = Log::of(&bytes);
        let offsets =
            [0, 1, 76, FRAME - 1, FRAME, FRAME + 1, 3 * FRAME, size.saturating_sub(1), size, size + 1];
        let check = || {
            for offset in offsets {
                let rest = bytes.get(offset..).unwrap_or_default();
                assert!(log.read(offset as u64).unwrap() == rest, "{size} from {offset}");
            }
            assert_eq!(log.length(Effort::Little).unwrap(), Some(size as u64));
        };
        check();
        assert_eq!(log.pack(), Some(size as u64));
        assert!(!log.raw.exists());
        check();
        // Whoever knows zstd reads it.
        assert!(zstd::decode_all(&log.packed()[..]).unwrap() == bytes, "{size} as zstd reads it");
        assert_eq!(log.pack(), Some(size as u64), "packing again changes nothing");
    }
}

#[test]
fn a_log_of_before_is_read_as_it_was() {
    let bytes = lines(2 * FRAME);
    let log = Log::of(&[]);
    std::fs::remove_file(&log.raw).unwrap();
    let mut old = zstd::stream::write::Encoder::new(Vec::new(), LEVEL).unwrap();
    old.write_all(&bytes).unwrap();
    log.damage(&old.finish().unwrap());
    for offset in [0, 12_345, bytes.len(), bytes.len() + 1] {
        assert!(log.read(offset as u64).unwrap() == bytes.get(offset..).unwrap_or_default(), "from {offset}");
    }
    assert_eq!(log.length(Effort::Little).unwrap(), None);
    assert_eq!(log.length(Effort::Any).unwrap(), Some(bytes.len() as u64));
    assert_eq!(log.pack(), Some(bytes.len() as u64));
}

#[test]
fn what_comes_before_the_end_of_a_log_is_not_read() {
    let bytes = lines(20 * FRAME + 5);
    let log = Log::of(&bytes);
    log.pack();
    // Were it read it would be an error.
    let mut packed = log.packed();
    let first_frames = packed.len() / 2;
    packed[..first_frames].fill(0);
    log.damage(&packed);
    assert!(log.read(0).is_err());
    let tail = bytes.len() - 5_000;
    assert!(log.read(tail as u64).unwrap() == bytes[tail..]);
}

#[test]
fn a_try_without_a_log_has_nothing_to_pack() {
    let log = Log::of(&[]);
    std::fs::remove_file(&log.raw).unwrap();
    assert_eq!(log.pack(), None);
    assert_eq!(log.length(Effort::Any).unwrap(), None);
}

#[test]
fn a_packed_log_that_was_cut_anywhere_is_an_error_and_no_shorter_log() {
    let bytes = lines(2 * FRAME + 100);
    let log = Log::of(&bytes);
    log.pack();
    let whole = log.packed();
    let index = whole.len() - (3 * 8 + 17);
    let mut cuts: Vec<usize> = (1..whole.len()).step_by(997).collect();
    // All of the index, and whole frames.
    cuts.extend(index..whole.len());
    for cut in cuts {
        log.damage(&whole[..cut]);
        let read = log.read(0);
        assert!(
            read.is_err(),
            "cut after {cut} of {} bytes it reads as {}",
            whole.len(),
            read.unwrap().len()
        );
    }
}

#[test]
fn an_index_that_lies_is_an_error_and_takes_no_memory() {
    let bytes = lines(2 * FRAME + 100);
    let log = Log::of(&bytes);
    log.pack();
    let whole = log.packed();
    let end = whole.len();
    let entries = end - 9 - 3 * 8;
    let lie = |at: usize, with: &[u8]| {
        let mut lying = whole.clone();
        lying[at..at + with.len()].copy_from_slice(with);
        log.damage(&lying);
        // Not all of them can be told from the beginning; none may be believed to the end.
        let outcome =
            [0, FRAME as u64, 2 * FRAME as u64 + 50].map(|offset| log.read(offset).map(|all| all.len()));
        assert!(outcome.iter().any(Result::is_err), "{with:?} at {at}: {outcome:?}");
    };
    // How many frames there are: too many for the file, or for any memory; too few; none.
    for count in [4_u32, 1_000, u32::MAX, u32::MAX / 8, 2, 0] {
        lie(end - 9, &count.to_le_bytes());
    }
    // What it has in it.
    for kind in [0x04, 0x7c, 0x80, 0xff] {
        lie(end - 5, &[kind]);
    }
    // How long it is itself.
    for size in [0_u32, 1, u32::MAX] {
        lie(entries - 4, &size.to_le_bytes());
    }
    for frame in 0..3 {
        for size in [0_u32, 1, u32::MAX] {
            // How long a frame is, and what it has of the log.
            lie(entries + frame * 8, &size.to_le_bytes());
            lie(entries + frame * 8 + 4, &size.to_le_bytes());
        }
    }
}
