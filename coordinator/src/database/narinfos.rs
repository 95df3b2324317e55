//! The column `narinfo` of what is published: the text in about half of its bytes, so that one read of one row gives
//! it.
//!
//! Hashes stand as bytes, what most narinfos say in the same words has a byte for each of these, and a signature is its
//! four numbers. The text comes back to the byte; one for which that is not so is kept as it is.

use std::sync::OnceLock;

use drover_store::base32::{self, ALPHABET};

/// In front of what is packed, and in front of a text that begins with one of these. Other texts have nothing there.
const PACKED: u8 = 1;
const PLAIN: u8 = 0;

/// Bytes that are none of a text: 20 bytes as base32 and a dash; the same with a space before; 32 bytes as base32.
const PATH_HASH: u8 = 0x80;
const REFERENCE: u8 = 0x81;
const NAR_HASH: u8 = 0x82;
/// A signature as drover writes it, and as Guix does: hash, r, s and q.
const SIGNATURE: u8 = 0x83;
const GUIX_SIGNATURE: u8 = 0x84;
/// The base name of the item, and what follows the hash in it.
const BASE: u8 = 0x85;
const NAME: u8 = 0x86;
/// The first of the [`WORDS`].
const WORD: u8 = 0x88;

/// What every narinfo begins with that is packed.
const STORE_PATH: &str = "StorePath: /gnu/store/";

/// Words that have a byte. Databases have these bytes in them: only ever add words, at the end, at most 120 in all.
const WORDS: &[&str] = &[
    STORE_PATH,
    "\nNarHash: sha256:",
    "\nNarSize: ",
    "\nReferences: ",
    "\nDeriver: ",
    "\nSystem: ",
    "\nSignature: 1;",
    "\nURL: nar/zstd/",
    "\nURL: nar/lzip/",
    "\nURL: nar/gzip/",
    "\nURL: nar/",
    "\nURL: /guix/nar/zstd/",
    "\nURL: /guix/nar/lzip/",
    "\nURL: /guix/nar/gzip/",
    "\nCompression: zstd\nFileSize: ",
    "\nCompression: lzip\nFileSize: ",
    "\nCompression: gzip\nFileSize: ",
    "\nCompression: none\nFileSize: ",
    "\nCompression: ",
    "\nFileSize: ",
    "x86_64-linux",
    "i686-linux",
    "aarch64-linux",
    "armhf-linux",
    "riscv64-linux",
    "powerpc64le-linux",
    "i586-gnu",
    ".drv",
    "glibc-2.",
    "gcc-",
    "-lib",
    "-static",
    "-doc",
    "-debug",
    "-minimal-",
    "-checkout",
    ".tar.",
    "bash-minimal-5.",
    "bash-static-5.",
    "guile-",
    "python-",
    "perl-",
    "ruby-",
    "rust-",
    "ghc-",
    "emacs-",
    "texlive-",
    "ocaml-",
    "java-",
    "julia-",
    "lib",
    "linux-libre-headers-",
    "ncurses-6.",
    "zlib-1.",
    "openssl-3.",
    "glib-2.",
    "gtk+-",
    "qtbase-",
    "coreutils-",
    "pkg-config-",
    "-profile",
    "module-import-compiled",
    "module-import",
    "-builder",
    "-source",
    "-bootstrap-",
    "-1.",
    "-2.",
    "-3.",
    "-0.",
    "\nURL: ",
];

/// What stands around the four numbers of a signature.
type Frame = [&'static str; 5];
const OWN_FRAME: Frame = [
    "(signature (data (flags rfc6979) (hash sha256 #",
    "#)) (sig-val (ecdsa (r #",
    "#) (s #",
    "#))) (public-key (ecc (curve Ed25519) (q #",
    "#))))",
];
const GUIX_FRAME: Frame = [
    "(signature \n (data \n  (flags rfc6979)\n  (hash sha256 #",
    "#)\n  )\n (sig-val \n  (ecdsa \n   (r #",
    "#)\n   (s #",
    "#)\n   )\n  )\n (public-key \n  (ecc \n   (curve Ed25519)\n   (q #",
    "#)\n   )\n  )\n )\n",
];

/// The column for a text.
pub fn pack(text: &str) -> Vec<u8> {
    if let Some(packed) = packed(text) {
        // What is not sure to come back is not packed.
        if packed.len() < text.len() && unpack(&packed).as_deref() == Some(text.as_bytes()) {
            return packed;
        }
    }
    match text.as_bytes().first() {
        Some(&(PACKED | PLAIN)) => [&[PLAIN], text.as_bytes()].concat(),
        _ => text.as_bytes().to_vec(),
    }
}

/// The text of a column; none if no text has this column.
pub fn text(column: Vec<u8>) -> Option<String> {
    let bytes = match column.first() {
        Some(&PACKED) => unpack(&column)?,
        Some(&PLAIN) => column.get(1..)?.to_vec(),
        _ => column,
    };
    String::from_utf8(bytes).ok()
}

fn packed(text: &str) -> Option<Vec<u8>> {
    let base = base_of(text.as_bytes())?;
    let name = base.get(33..).unwrap_or_default();
    let text = text.as_bytes();
    let mut out = Vec::with_capacity(text.len());
    out.push(PACKED);
    let mut at = 0;
    let mut after_hash = false;
    while let Some(&byte) = text.get(at) {
        let rest = &text[at..];
        let was_hash = std::mem::take(&mut after_hash);
        if at > STORE_PATH.len() && rest.starts_with(base) {
            out.push(BASE);
            at += base.len();
        } else if was_hash && at > STORE_PATH.len() + base.len() && name.len() > 2 && rest.starts_with(name) {
            out.push(NAME);
            at += name.len();
        } else if let Some((token, bytes, length)) = hash(rest) {
            out.push(token);
            out.extend(bytes);
            at += length;
            after_hash = token != NAR_HASH;
        } else if let Some((token, numbers, length)) = signature(rest) {
            out.push(token);
            out.extend(numbers);
            at += length;
        } else if let Some((number, word)) = word(rest) {
            out.push(WORD + number);
            at += word.len();
        } else if byte >= PATH_HASH {
            return None;
        } else {
            out.push(byte);
            at += 1;
        }
    }
    Some(out)
}

/// The base name that a text begins with.
fn base_of(text: &[u8]) -> Option<&[u8]> {
    let rest = text.strip_prefix(STORE_PATH.as_bytes())?;
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    Some(&rest[..end]).filter(|base| base.len() > 33)
}

/// The longest word that this begins with, and its number.
fn word(rest: &[u8]) -> Option<(u8, &'static str)> {
    static BY_FIRST: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    let by_first = BY_FIRST.get_or_init(|| {
        let mut all = vec![Vec::new(); 256];
        for (number, word) in (0..).zip(WORDS) {
            if let Some(first) = word.as_bytes().first() {
                all[usize::from(*first)].push(number);
            }
        }
        all
    });
    let candidates = by_first.get(usize::from(*rest.first()?))?;
    let words = candidates.iter().filter_map(|number| Some((*number, *WORDS.get(usize::from(*number))?)));
    words.filter(|(_, word)| rest.starts_with(word.as_bytes())).max_by_key(|(_, word)| word.len())
}

/// A hash in base32 that this begins with: its byte, its own bytes, and the characters that it stands for.
fn hash(rest: &[u8]) -> Option<(u8, Vec<u8>, usize)> {
    let space = usize::from(rest.first() == Some(&b' '));
    let digits = rest[space..].iter().take(53).take_while(|byte| base32::is_digit(**byte)).count();
    let decoded = |length: usize| {
        let text = std::str::from_utf8(rest.get(space..space + digits)?).ok()?;
        base32::decode(text, length).ok()
    };
    match digits {
        32 if rest.get(space + 32) == Some(&b'-') => {
            Some((if space == 1 { REFERENCE } else { PATH_HASH }, decoded(20)?, space + 33))
        }
        52 if space == 0 => Some((NAR_HASH, decoded(32)?, 52)),
        _ => None,
    }
}

/// A signature in base64 that this begins with, after a semicolon.
fn signature(rest: &[u8]) -> Option<(u8, Vec<u8>, usize)> {
    // What a signature in base64 begins with, its first bytes being `(signatu`.
    const BEGIN: &[u8] = b";KHNpZ25hdHVy";
    if !rest.starts_with(BEGIN) {
        return None;
    }
    let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    let text = data_encoding::BASE64.decode(rest.get(1..end)?).ok()?;
    for (token, frame) in [(SIGNATURE, OWN_FRAME), (GUIX_SIGNATURE, GUIX_FRAME)] {
        if let Some(numbers) = numbers(&text, frame) {
            return Some((token, numbers, end));
        }
    }
    None
}

fn numbers(text: &[u8], frame: Frame) -> Option<Vec<u8>> {
    let [first, others @ ..] = frame;
    let mut rest = text.strip_prefix(first.as_bytes())?;
    let mut numbers = Vec::with_capacity(128);
    for part in others {
        numbers.extend(data_encoding::HEXUPPER.decode(rest.get(..64)?).ok()?);
        rest = rest.get(64..)?.strip_prefix(part.as_bytes())?;
    }
    rest.is_empty().then_some(numbers)
}

fn unpack(packed: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(packed.len() * 2 + 600);
    let mut rest = packed.strip_prefix(&[PACKED])?;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            0..PATH_HASH => {
                // Names and numbers: as many at a time as there are.
                let more = rest.iter().position(|byte| *byte >= PATH_HASH).unwrap_or(rest.len());
                out.push(byte);
                out.extend_from_slice(&rest[..more]);
                rest = &rest[more..];
            }
            PATH_HASH | REFERENCE => {
                let (hash, after) = rest.split_first_chunk::<20>()?;
                rest = after;
                if byte == REFERENCE {
                    out.push(b' ');
                }
                push_base32(&mut out, hash);
                out.push(b'-');
            }
            NAR_HASH => {
                let (hash, after) = rest.split_first_chunk::<32>()?;
                rest = after;
                push_base32(&mut out, hash);
            }
            SIGNATURE | GUIX_SIGNATURE => {
                let (numbers, after) = rest.split_first_chunk::<128>()?;
                rest = after;
                let frame = if byte == SIGNATURE { OWN_FRAME } else { GUIX_FRAME };
                push_signature(&mut out, frame, numbers);
            }
            BASE | NAME => {
                let (start, end) = (STORE_PATH.len(), STORE_PATH.len() + base_of(&out)?.len());
                out.extend_from_within(if byte == BASE { start..end } else { start + 33..end });
            }
            _ => out.extend_from_slice(WORDS.get(usize::from(byte.checked_sub(WORD)?))?.as_bytes()),
        }
    }
    Some(out)
}

/// As [`base32::encode`], eight digits at a time.
fn push_base32(out: &mut Vec<u8>, bytes: &[u8]) {
    let digits = base32::encoded_len(bytes.len());
    let start = out.len();
    out.resize(start + digits, 0);
    let Some(text) = out.get_mut(start..) else { return };
    for (group, digits) in bytes.chunks(5).zip(text.rchunks_mut(8)) {
        let mut wide = group.iter().rev().fold(0_u64, |wide, byte| wide << 8 | u64::from(*byte));
        for digit in digits.iter_mut().rev() {
            *digit = ALPHABET[(wide & 31) as usize];
            wide >>= 5;
        }
    }
}

fn push_signature(out: &mut Vec<u8>, frame: Frame, numbers: &[u8; 128]) {
    let mut text = [0_u8; 640];
    let mut length = 0;
    let mut push = |bytes: &[u8]| {
        if let Some(place) = text.get_mut(length..length + bytes.len()) {
            place.copy_from_slice(bytes);
            length += bytes.len();
        }
    };
    let mut numbers = numbers.chunks_exact(32);
    for part in frame {
        push(part.as_bytes());
        if let Some(number) = numbers.next() {
            let mut digits = [0; 64];
            data_encoding::HEXUPPER.encode_mut(number, &mut digits);
            push(&digits);
        }
    }
    let text = text.get(..length).unwrap_or_default();
    out.push(b';');
    let start = out.len();
    out.resize(start + data_encoding::BASE64.encode_len(text.len()), 0);
    if let Some(place) = out.get_mut(start..) {
        data_encoding::BASE64.encode_mut(text, place);
    }
}

#[cfg(test)]
mod tests;
