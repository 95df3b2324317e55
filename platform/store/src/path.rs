//! Store paths: what a valid one is, and how the hash in one is made from what it names.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::hash::shortened;
use crate::{STORE_DIR, Sha256, Sha256Hash, base32};

/// Characters of the hash part.
pub const HASH_LEN: usize = 32;

/// The longest name: with the hash part and the dash it must fit a file name of 255 bytes.
pub const NAME_MAX: usize = 255 - HASH_LEN - 1;

/// The suffix of derivations.
pub const DERIVATION_SUFFIX: &str = ".drv";

/// Bytes of `/gnu/store/`.
const PREFIX_LEN: usize = STORE_DIR.len() + 1;

/// Why a text is no store path, or why none can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It does not start with the store's folder.
    #[error("'{0}' is no store path: it must start with {STORE_DIR}/")]
    NotInStore(String),
    /// The part before the dash is no hash.
    #[error("'{0}' is no store path: 32 base32 digits and a dash must come before the name")]
    HashPart(String),
    /// The name is empty, too long, or has a character that a store name must not have.
    #[error(
        "'{0}' is no name of a store item: 1 to {NAME_MAX} characters, letters, digits and +-._?= only, \
         no dot in front"
    )]
    Name(String),
    /// References must be given sorted, each once; anything else would change the hash.
    #[error("cannot make the path of '{0}': its references are not in ascending order, each once")]
    Unsorted(String),
}

/// A valid path of a store item, `/gnu/store/HASH-NAME`, without anything below it. Cheap to clone.
/// The order is that of the bytes, as references and inputs are sorted.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StorePath(Arc<str>);

impl StorePath {
    /// Reads a full path, `/gnu/store/HASH-NAME`.
    ///
    /// # Errors
    /// When it is outside the store or below an item, or when hash or name are not valid.
    pub fn parse(full: &str) -> Result<Self, Error> {
        match full.strip_prefix(STORE_DIR).and_then(|rest| rest.strip_prefix('/')) {
            Some(base) => {
                check_base(base)?;
                Ok(Self(full.into()))
            }
            None => Err(Error::NotInStore(shortened(full))),
        }
    }

    /// Reads a base name, `HASH-NAME`.
    ///
    /// # Errors
    /// As [`StorePath::parse`].
    pub fn parse_base(base: &str) -> Result<Self, Error> {
        check_base(base)?;
        Ok(Self(format!("{STORE_DIR}/{base}").into()))
    }

    /// The 32 characters of the hash.
    pub fn hash_part(&self) -> &str {
        &self.0[PREFIX_LEN..PREFIX_LEN + HASH_LEN]
    }

    /// What comes after the hash and the dash.
    pub fn name(&self) -> &str {
        &self.0[PREFIX_LEN + HASH_LEN + 1..]
    }

    /// `HASH-NAME`.
    pub fn base_name(&self) -> &str {
        &self.0[PREFIX_LEN..]
    }

    /// The full path as an owned string.
    pub fn full(&self) -> String {
        self.0.as_ref().to_owned()
    }

    /// The full path, `/gnu/store/HASH-NAME`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this names a derivation (`….drv`).
    pub fn is_derivation(&self) -> bool {
        self.name().ends_with(DERIVATION_SUFFIX)
    }

    /// The name without `.drv`: what the outputs of this derivation are named after. The whole name when
    /// this is no derivation.
    pub fn derivation_name(&self) -> &str {
        self.name().strip_suffix(DERIVATION_SUFFIX).unwrap_or(self.name())
    }
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for StorePath {
    type Err = Error;

    fn from_str(full: &str) -> Result<Self, Error> {
        Self::parse(full)
    }
}

impl AsRef<str> for StorePath {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<std::path::Path> for StorePath {
    fn as_ref(&self) -> &std::path::Path {
        std::path::Path::new(self.as_str())
    }
}

/// Checks the name of a store item (what follows the hash and the dash).
///
/// # Errors
/// When it is empty, too long, starts with a dot, or has a character outside `A-Za-z0-9+-._?=`.
pub fn check_name(name: &str) -> Result<(), Error> {
    let bytes = name.as_bytes();
    let valid = !bytes.is_empty()
        && bytes.len() <= NAME_MAX
        && bytes[0] != b'.'
        && bytes.iter().all(|byte| is_name_byte(*byte));
    if valid { Ok(()) } else { Err(Error::Name(shortened(name))) }
}

/// The path of a text file: builder scripts and derivations get into a store this way.
/// `references` must be in ascending order, each once.
///
/// # Errors
/// When the name is not valid or the references are not sorted.
pub fn text(name: &str, contents: &[u8], references: &[StorePath]) -> Result<StorePath, Error> {
    text_of_hash(name, &Sha256Hash::of(contents), references)
}

/// [`text`] for contents of which only the SHA-256 is at hand.
///
/// # Errors
/// As [`text`].
pub fn text_of_hash(name: &str, contents: &Sha256Hash, references: &[StorePath]) -> Result<StorePath, Error> {
    if references.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err(Error::Unsorted(shortened(name)));
    }
    make(name, contents, |hash| {
        hash.update(b"text");
        for reference in references {
            hash.update(b":");
            hash.update(reference.as_str().as_bytes());
        }
    })
}

/// The path of a tree or file that was added recursively, from the SHA-256 of its nar.
///
/// # Errors
/// When the name is not valid.
pub fn source(name: &str, nar_hash: &Sha256Hash) -> Result<StorePath, Error> {
    make(name, nar_hash, |hash| hash.update(b"source"))
}

/// The path of an output whose content is fixed by `hash` of algorithm `algorithm` (`sha256`, `sha1`, …), over
/// the nar when `recursive`, else over the file. A source added with a flat hash has the same path.
///
/// # Errors
/// When the name is not valid.
pub fn fixed_output(name: &str, recursive: bool, algorithm: &str, hash: &[u8]) -> Result<StorePath, Error> {
    if recursive && algorithm == "sha256" {
        if let Ok(bytes) = <[u8; 32]>::try_from(hash) {
            return source(name, &Sha256Hash::from_bytes(bytes));
        }
    }
    let marker = if recursive { "r:" } else { "" };
    let hex = data_encoding::HEXLOWER.encode(hash);
    let inner = Sha256Hash::of(format!("fixed:out:{marker}{algorithm}:{hex}:").as_bytes());
    make(name, &inner, |hash| hash.update(b"output:out"))
}

/// The path of output `out_name` of a derivation, from the hash modulo of the derivation with its own outputs
/// blanked, and the derivation's name without `.drv`.
///
/// # Errors
/// When the name that results is not valid.
pub fn output(out_name: &str, drv_hash: &Sha256Hash, drv_name: &str) -> Result<StorePath, Error> {
    let kind = |hash: &mut Sha256| {
        hash.update(b"output:");
        hash.update(out_name.as_bytes());
    };
    if out_name == "out" {
        make(drv_name, drv_hash, kind)
    } else {
        make(&format!("{drv_name}-{out_name}"), drv_hash, kind)
    }
}

/// Whether a store name may have this byte.
pub(crate) fn is_name_byte(byte: u8) -> bool {
    NAME_BYTES[usize::from(byte)]
}

/// One load for each byte: derivations are little else than names.
static NAME_BYTES: [bool; 256] = {
    let mut allowed = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        allowed[byte] = matches!(byte as u8,
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'+' | b'-' | b'.' | b'_' | b'?' | b'=');
        byte += 1;
    }
    allowed
};

fn check_base(base: &str) -> Result<(), Error> {
    let bytes = base.as_bytes();
    let hash_is_valid = bytes.len() > HASH_LEN
        && bytes[HASH_LEN] == b'-'
        && bytes[..HASH_LEN].iter().all(|byte| base32::is_digit(*byte));
    if !hash_is_valid {
        return Err(Error::HashPart(shortened(base)));
    }
    check_name(&base[HASH_LEN + 1..])
}

/// Hashes `KIND:sha256:HEX:/gnu/store:NAME` and folds the result to the 20 bytes of a path.
fn make(name: &str, inner: &Sha256Hash, kind: impl FnOnce(&mut Sha256)) -> Result<StorePath, Error> {
    check_name(name)?;
    let mut hash = Sha256::new();
    kind(&mut hash);
    hash.update(b":sha256:");
    hash.update(&inner.hex_digits());
    hash.update(b":");
    hash.update(STORE_DIR.as_bytes());
    hash.update(b":");
    hash.update(name.as_bytes());
    let mut folded = [0u8; 20];
    for (n, byte) in hash.finish().as_bytes().iter().enumerate() {
        folded[n % 20] ^= byte;
    }
    Ok(StorePath(format!("{STORE_DIR}/{}-{name}", base32::encode(&folded)).into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HASH: &str = "55gpjv8cs8fx815a90vnl9y6ws4lldsf";

    #[test]
    fn a_path_comes_apart_into_hash_and_name() {
        let path: StorePath = format!("/gnu/store/{HASH}-hello-2.12.2.drv").parse().unwrap();
        assert_eq!(path.hash_part(), HASH);
        assert_eq!(path.name(), "hello-2.12.2.drv");
        assert_eq!(path.derivation_name(), "hello-2.12.2");
        assert!(path.is_derivation());
        assert_eq!(StorePath::parse_base(path.base_name()).unwrap(), path);
    }

    #[test]
    fn what_is_no_item_of_the_store_is_refused() {
        for text in [
            format!("/nix/store/{HASH}-hello"),
            format!("/gnu/store/{HASH}-hello/bin"),
            format!("/gnu/store/{HASH}-"),
            format!("/gnu/store/{HASH}hello"),
            format!("/gnu/store/{HASH}-.hello"),
            format!("/gnu/store/{}-hello", HASH.replace('5', "e")),
            format!("/gnu/store/{HASH}-{}", "a".repeat(NAME_MAX + 1)),
            format!("/gnu/store/{HASH}-gr\u{fc}n"),
            "/gnu/store/\u{fc}".to_owned(),
            "/gnu/store/..".to_owned(),
        ] {
            assert!(StorePath::parse(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn unsorted_references_are_refused() {
        let a = source("a", &Sha256Hash::of(b"")).unwrap();
        assert_eq!(text("x", b"", &[a.clone(), a]), Err(Error::Unsorted("x".into())));
    }

    #[test]
    fn a_fixed_output_of_a_recursive_sha256_is_a_source() {
        let hash = Sha256Hash::of(b"tree");
        assert_eq!(fixed_output("tree", true, "sha256", hash.as_bytes()), source("tree", &hash));
        assert_ne!(fixed_output("tree", true, "sha1", hash.as_bytes()), source("tree", &hash));
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics_and_valid_text_prints_itself(text in any::<String>()) {
            if let Ok(path) = StorePath::parse(&text) {
                prop_assert_eq!(path.to_string(), text.as_str());
            }
            let _ = StorePath::parse_base(&text);
        }

        #[test]
        fn a_made_path_is_a_valid_path(name in "[a-z+_?=0-9-][a-zA-Z0-9+._?=-]{0,100}", hash in any::<[u8; 32]>()) {
            let path = source(&name, &Sha256Hash::from_bytes(hash)).unwrap();
            prop_assert_eq!(StorePath::parse(path.as_str()), Ok(path));
        }
    }
}
