//! Narinfos: what a substitute server says about a store item.

use std::fmt::Write as _;

use crate::hash::shortened;
use crate::key::{self, Acl, SecretKey, Signature};
use crate::path::{self, StorePath};
use crate::{Sha256Hash, hash};

/// The most bytes of a narinfo that are read.
pub const SIZE_MAX: usize = 4 * 1024 * 1024;

/// Why a text is no narinfo, or why one is not to be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text is not UTF-8 or too long.
    #[error("cannot read the narinfo: it is {0}")]
    Text(&'static str),
    /// A line is not `Key: value`.
    #[error("cannot read the narinfo: line {0} is not 'Key: value'")]
    Line(usize),
    /// A line that must be there is not, or not above the signature when there is one.
    #[error("the narinfo has no {0} (if it is signed, it must be above the signature)")]
    Missing(&'static str),
    /// A line that may be there once is there twice.
    #[error("the narinfo has {0} twice")]
    Twice(&'static str),
    /// A value that cannot be read.
    #[error("cannot read the narinfo's {field} '{value}'")]
    Value {
        /// The key of the line.
        field: &'static str,
        /// What stands there.
        value: String,
    },
    /// A path that is none.
    #[error("cannot read the narinfo's {field}: {error}")]
    Path {
        /// The key of the line.
        field: &'static str,
        /// What is wrong.
        error: path::Error,
    },
    /// A hash that is none.
    #[error("cannot read the narinfo's NarHash: {0}")]
    Hash(#[from] hash::Error),
    /// The signature cannot be read, or does not hold.
    #[error("narinfo refused: {0}")]
    Signature(#[from] key::Error),
    /// There is no signature.
    #[error("narinfo refused: it is not signed")]
    Unsigned,
}

/// A narinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NarInfo {
    /// The item.
    pub store_path: StorePath,
    /// Where its nar can be had.
    pub urls: Vec<Url>,
    /// SHA-256 of the nar.
    pub nar_hash: Sha256Hash,
    /// Bytes of the nar.
    pub nar_size: u64,
    /// What the item refers to.
    pub references: Vec<StorePath>,
    /// What built it.
    pub deriver: Option<StorePath>,
    /// For which system.
    pub system: Option<String>,
    /// The signature and what it is over. Not to be trusted before [`NarInfo::verify`].
    pub signature: Option<Signed>,
}

/// One of the forms in which a nar can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// Absolute, or relative to the narinfo.
    pub url: String,
    /// `zstd`, `lzip`, `gzip`, `none`.
    pub compression: String,
    /// Bytes of the compressed nar, if known.
    pub file_size: Option<u64>,
}

/// A signature over the first part of a narinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// The text above the signature, to the byte.
    pub text: String,
    /// Who says to have signed. Informative: the key counts.
    pub host: String,
    /// The signature.
    pub signature: Signature,
}

impl NarInfo {
    /// Reads a narinfo. Of what can be above and below a signature, only what is above is taken.
    ///
    /// # Errors
    /// When a line that is needed is missing, doubled or cannot be read. Unknown lines are skipped.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        if text.len() > SIZE_MAX {
            return Err(Error::Text("too long"));
        }
        let text = std::str::from_utf8(text).map_err(|_| Error::Text("not UTF-8"))?;
        let mut lines = Lines::default();
        let mut offset = 0;
        for (n, whole) in text.split_inclusive('\n').enumerate() {
            let line = whole.strip_suffix('\n').unwrap_or(whole);
            if !line.is_empty() {
                let (key, value) = line.split_once(':').ok_or(Error::Line(n + 1))?;
                let value = value.strip_prefix(' ').unwrap_or(value);
                lines.take(key, value, &text[..offset])?;
            }
            offset += whole.len();
        }
        lines.finish()
    }

    /// The part that a signature is over: everything but URLs and signature. That of the signature, if there
    /// is one, to the byte as it was signed.
    pub fn signed_part(&self) -> String {
        if let Some(signed) = &self.signature {
            return signed.text.clone();
        }
        let references: Vec<_> = self.references.iter().map(StorePath::base_name).collect();
        let mut text = format!(
            "StorePath: {}\nNarHash: sha256:{}\nNarSize: {}\nReferences: {}\n",
            self.store_path,
            self.nar_hash.base32(),
            self.nar_size,
            references.join(" ")
        );
        // Writing to a string cannot fail.
        if let Some(deriver) = &self.deriver {
            let _ = writeln!(text, "Deriver: {}", deriver.base_name());
        }
        if let Some(system) = &self.system {
            let _ = writeln!(text, "System: {system}");
        }
        text
    }

    /// Signs it as it is now, in the name of `host`. Fields that are changed later are not printed.
    pub fn sign(&mut self, host: &str, key: &SecretKey) {
        self.signature = None;
        let text = self.signed_part();
        let signature = key.sign(&Sha256Hash::of(text.as_bytes()));
        self.signature = Some(Signed { text, host: host.to_owned(), signature });
    }

    /// The text: what is signed, the signature, and the URLs, which need no signature.
    pub fn print(&self) -> String {
        let mut text = self.signed_part();
        let above: Vec<String> = match &self.signature {
            Some(signed) => {
                signed.text.lines().filter_map(|line| line.strip_prefix("URL: ")).map(str::to_owned).collect()
            }
            None => Vec::new(),
        };
        if let Some(signed) = &self.signature {
            let encoded = data_encoding::BASE64.encode(signed.signature.to_text().as_bytes());
            let _ = writeln!(text, "Signature: 1;{};{encoded}", signed.host);
        }
        for url in self.urls.iter().filter(|url| !above.contains(&url.url)) {
            let _ = writeln!(text, "URL: {}\nCompression: {}", url.url, url.compression);
            if let Some(size) = url.file_size {
                let _ = writeln!(text, "FileSize: {size}");
            }
        }
        text
    }

    /// Checks that it is signed by a key of `keys`.
    ///
    /// # Errors
    /// When it is not signed, the signature does not hold, or its key is not one of these.
    pub fn verify(&self, keys: &Acl) -> Result<(), Error> {
        let signed = self.signature.as_ref().ok_or(Error::Unsigned)?;
        signed.signature.verify(&Sha256Hash::of(signed.text.as_bytes()))?;
        let key = signed.signature.public();
        if !keys.authorizes(key) {
            return Err(key::Error::Unauthorized(*key).into());
        }
        Ok(())
    }
}

/// The lines as they come.
#[derive(Default)]
struct Lines {
    store_path: Option<StorePath>,
    urls: Vec<Url>,
    nar_hash: Option<Sha256Hash>,
    nar_size: Option<u64>,
    references: Option<Vec<StorePath>>,
    deriver: Option<Option<StorePath>>,
    system: Option<String>,
    signature: Option<Signed>,
}

impl Lines {
    /// Takes one line; `above` is the text before it.
    fn take(&mut self, key: &str, value: &str, above: &str) -> Result<(), Error> {
        // What the signature must cover is not believed from below it.
        let signed = self.signature.is_some();
        match key {
            "StorePath" if !signed => once(&mut self.store_path, "StorePath", path_of("StorePath", value)?),
            "NarHash" if !signed => once(&mut self.nar_hash, "NarHash", nar_hash(value)?),
            "NarSize" if !signed => once(&mut self.nar_size, "NarSize", number("NarSize", value)?),
            "References" if !signed => {
                let references = value.split(' ').filter(|name| !name.is_empty());
                let references =
                    references.map(|name| base_of("References", name)).collect::<Result<_, _>>()?;
                once(&mut self.references, "References", references)
            }
            "Deriver" if !signed => {
                let deriver = match value {
                    "" | "unknown-deriver" => None,
                    base => Some(base_of("Deriver", base)?),
                };
                once(&mut self.deriver, "Deriver", deriver)
            }
            "System" if !signed => once(&mut self.system, "System", value.to_owned()),
            "Signature" => once(&mut self.signature, "Signature", signature(value, above)?),
            "URL" => {
                self.urls.push(Url {
                    url: value.to_owned(),
                    compression: "none".to_owned(),
                    file_size: None,
                });
                Ok(())
            }
            "Compression" => {
                self.url("Compression")?.compression = value.to_owned();
                Ok(())
            }
            "FileSize" => {
                self.url("FileSize")?.file_size = Some(number("FileSize", value)?);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The URL that a line about it belongs to.
    fn url(&mut self, field: &'static str) -> Result<&mut Url, Error> {
        let value = "(before any URL)".to_owned();
        self.urls.last_mut().ok_or(Error::Value { field, value })
    }

    fn finish(self) -> Result<NarInfo, Error> {
        Ok(NarInfo {
            store_path: self.store_path.ok_or(Error::Missing("StorePath"))?,
            urls: self.urls,
            nar_hash: self.nar_hash.ok_or(Error::Missing("NarHash"))?,
            nar_size: self.nar_size.ok_or(Error::Missing("NarSize"))?,
            references: self.references.ok_or(Error::Missing("References"))?,
            deriver: self.deriver.flatten(),
            system: self.system,
            signature: self.signature,
        })
    }
}

fn once<T>(place: &mut Option<T>, field: &'static str, value: T) -> Result<(), Error> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(Error::Twice(field)),
    }
}

fn path_of(field: &'static str, value: &str) -> Result<StorePath, Error> {
    StorePath::parse(value).map_err(|error| Error::Path { field, error })
}

fn base_of(field: &'static str, value: &str) -> Result<StorePath, Error> {
    StorePath::parse_base(value).map_err(|error| Error::Path { field, error })
}

fn number(field: &'static str, value: &str) -> Result<u64, Error> {
    value.parse().map_err(|_| Error::Value { field, value: shortened(value) })
}

fn nar_hash(value: &str) -> Result<Sha256Hash, Error> {
    let digits =
        value.strip_prefix("sha256:").ok_or(Error::Value { field: "NarHash", value: shortened(value) })?;
    Ok(if digits.len() == 64 { Sha256Hash::from_hex(digits)? } else { Sha256Hash::from_base32(digits)? })
}

fn signature(value: &str, above: &str) -> Result<Signed, Error> {
    let wrong = || Error::Value { field: "Signature", value: shortened(value) };
    let (host, encoded) = value.strip_prefix("1;").and_then(|rest| rest.split_once(';')).ok_or_else(wrong)?;
    let text = data_encoding::BASE64.decode(encoded.as_bytes()).map_err(|_| wrong())?;
    let text = String::from_utf8(text).map_err(|_| wrong())?;
    Ok(Signed { text: above.to_owned(), host: host.to_owned(), signature: Signature::parse(&text)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn info() -> NarInfo {
        let path = path::text("hello", b"", &[]).unwrap();
        NarInfo {
            references: vec![path.clone()],
            deriver: Some(path::text("hello.drv", b"", &[]).unwrap()),
            store_path: path,
            urls: vec![Url { url: "nar/zstd/x".into(), compression: "zstd".into(), file_size: Some(7) }],
            nar_hash: Sha256Hash::of(b"nar"),
            nar_size: 12,
            system: Some("x86_64-linux".into()),
            signature: None,
        }
    }

    #[test]
    fn a_url_added_below_the_signature_needs_no_key() {
        let key = SecretKey::generate().unwrap();
        let keys: Acl = [*key.public()].into_iter().collect();
        let mut signed = info();
        signed.sign("farm", &key);
        let mut parsed = NarInfo::parse(signed.print().as_bytes()).unwrap();
        assert_eq!(parsed, signed);
        parsed.urls.push(Url { url: "nar/lzip/x".into(), compression: "lzip".into(), file_size: None });
        let parsed = NarInfo::parse(parsed.print().as_bytes()).unwrap();
        assert_eq!(parsed.urls.len(), 2);
        assert_eq!(parsed.verify(&keys), Ok(()));
        assert!(matches!(parsed.verify(&Acl::default()), Err(Error::Signature(_))));
    }

    #[test]
    fn what_is_changed_above_the_signature_is_refused() {
        let key = SecretKey::generate().unwrap();
        let keys: Acl = [*key.public()].into_iter().collect();
        let mut signed = info();
        signed.sign("farm", &key);
        let text = signed.print().replace("NarSize: 12", "NarSize: 13");
        let changed = NarInfo::parse(text.as_bytes()).unwrap();
        assert!(matches!(changed.verify(&keys), Err(Error::Signature(key::Error::Hash { .. }))));
        assert_eq!(info().verify(&keys), Err(Error::Unsigned));
    }

    #[test]
    fn what_must_be_signed_does_not_count_below_the_signature() {
        let mut signed = info();
        signed.sign("farm", &SecretKey::generate().unwrap());
        let text = signed.print();
        let references = text.lines().find(|line| line.starts_with("References")).unwrap();
        let moved = format!("{}{references}\n", text.replace(&format!("{references}\n"), ""));
        assert_eq!(NarInfo::parse(moved.as_bytes()), Err(Error::Missing("References")));
    }

    #[test]
    fn urls_above_the_signature_are_printed_once() {
        let mut unsigned = info();
        let text = format!("URL: a\nCompression: lzip\n{}", unsigned.signed_part());
        let key = SecretKey::generate().unwrap();
        let signature = key.sign(&Sha256Hash::of(text.as_bytes()));
        unsigned.urls[0].url = "a".into();
        unsigned.signature = Some(Signed { text, host: "h".into(), signature });
        assert_eq!(unsigned.print().matches("URL: ").count(), 1);
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(noise in any::<Vec<u8>>(), place in any::<proptest::sample::Index>()) {
            let _ = NarInfo::parse(&noise);
            let mut text = info().print().into_bytes();
            let place = place.index(text.len());
            text.splice(place..place, noise);
            let _ = NarInfo::parse(&text);
        }
    }
}
