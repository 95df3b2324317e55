//! Trees of files that look like what a farm builds, the same for the same seed.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::random::Random;

/// Makes a tree of about `size` bytes at `dest`, unless it is there: of 20 parts 6 text, 6 program code, 3 random,
/// 1 small files of up to 8 KiB, 4 a little of everything; with links and executables, in nested folders.
///
/// # Errors
/// When the disk refuses.
pub fn make(dest: &Path, seed: u64, size: u64) -> io::Result<()> {
    if dest.exists() {
        return Ok(());
    }
    // Under another name until it is complete: half a tree would be measured as a whole one.
    let unfinished = dest.with_extension("unfinished");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    fs::create_dir_all(&unfinished)?;
    let mut random = Random::new(seed);
    let words = words(&mut random);
    let part = size / 20;
    let mut tree = Tree { root: unfinished.clone(), random, words, files: 0 };
    tree.files("share/doc", 6 * part, 400_000, &[Kind::Text])?;
    tree.files("lib", 6 * part, 2_000_000, &[Kind::Code])?;
    tree.files("share/media", 3 * part, 1_500_000, &[Kind::Noise])?;
    tree.files("share/src", part, 8_192, &[Kind::Text])?;
    tree.files("libexec", size - 16 * part, 150_000, &[Kind::Text, Kind::Code, Kind::Noise])?;
    fs::rename(unfinished, dest)
}

#[derive(Clone, Copy)]
enum Kind {
    Text,
    Code,
    Noise,
}

struct Tree {
    root: PathBuf,
    random: Random,
    words: Vec<String>,
    files: u64,
}

impl Tree {
    /// Files below `folder` that are `total` bytes together and none larger than `largest`.
    fn files(&mut self, folder: &str, total: u64, largest: usize, kinds: &[Kind]) -> io::Result<()> {
        let mut left = total;
        while left > 0 {
            let kind = kinds[self.random.number() as usize % kinds.len()];
            let size = (self.random.skewed(largest) as u64 + 1).min(left);
            let nesting = format!("{folder}/{:x}/{:x}", self.files / 400 % 16, self.files / 20 % 20);
            let path = self.root.join(nesting).join(format!("file-{}", self.files));
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            let mut file = BufWriter::new(File::create(&path)?);
            self.contents(&mut file, kind, size as usize)?;
            file.flush()?;
            if self.random.number() % 4 == 0 {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
            }
            if self.random.number() % 12 == 0 {
                symlink(format!("file-{}", self.files), path.with_extension("link"))?;
            }
            self.files += 1;
            left -= size;
        }
        Ok(())
    }

    fn contents(&mut self, to: &mut impl Write, kind: Kind, size: usize) -> io::Result<()> {
        let mut piece = Vec::with_capacity(128);
        let mut left = size;
        while left > 0 {
            piece.clear();
            match kind {
                Kind::Noise => piece.extend_from_slice(&self.random.number().to_le_bytes()),
                Kind::Text => {
                    let word = self.random.skewed(self.words.len());
                    piece.extend_from_slice(self.words[word].as_bytes());
                    piece.push(if self.random.number() % 10 == 0 { b'\n' } else { b' ' });
                }
                Kind::Code => {
                    // An operation of few, registers of few, sometimes an address: as machine code is.
                    let random = self.random.number();
                    let operation = self.random.skewed(90) as u8;
                    piece.extend_from_slice(&[0x48, operation, (random % 13) as u8 | 0xc0]);
                    if random % 3 == 0 {
                        let address = (random >> 32) as u32 & 0x0003_ffff;
                        piece.extend_from_slice(&address.to_le_bytes());
                    }
                }
            }
            let len = piece.len().min(left);
            to.write_all(&piece[..len])?;
            left -= len;
        }
        Ok(())
    }
}

fn words(random: &mut Random) -> Vec<String> {
    (0..6000)
        .map(|_| {
            let len = 2 + random.number() as usize % 9;
            (0..len).map(|_| char::from(b'a' + random.skewed(26) as u8)).collect()
        })
        .collect()
}
