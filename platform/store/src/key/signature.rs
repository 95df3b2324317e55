//! Signatures as Guix writes them.

use super::{Error, PublicKey, ecdsa, integer, parse_sexp};
use crate::Sha256Hash;
use crate::sexp::Sexp;

/// A signature, with the hash that it is over and the key that it is by. Nothing is checked before
/// [`verify`](Signature::verify) is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    hash: Sha256Hash,
    r: [u8; 32],
    s: [u8; 32],
    public: PublicKey,
}

impl Signature {
    pub(super) fn new(hash: Sha256Hash, r: [u8; 32], s: [u8; 32], public: PublicKey) -> Self {
        Self { hash, r, s, public }
    }

    /// Reads `(signature (data …) (sig-val …) (public-key …))`.
    ///
    /// # Errors
    /// When the text is another one.
    pub fn parse(text: &str) -> Result<Self, Error> {
        const WHAT: &str = "a signature";
        let missing = |missing| Error::Shape { what: WHAT, missing };
        let sexp = parse_sexp(text.as_bytes(), WHAT)?;
        sexp.after("signature").ok_or(missing("(signature …)"))?;

        let data = sexp.find("data").ok_or(missing("(data …)"))?;
        let hash = match data.iter().find_map(|item| item.after("hash")) {
            Some([kind, hash]) if kind.atom() == Some(b"sha256") => hash.atom(),
            _ => None,
        };
        let hash = hash.and_then(|hash| <[u8; 32]>::try_from(hash).ok());
        let hash = Sha256Hash::from_bytes(hash.ok_or(missing("(hash sha256 #…#) of 32 bytes"))?);

        let ecdsa = match sexp.find("sig-val") {
            Some([ecdsa]) if ecdsa.after("ecdsa").is_some() => ecdsa,
            _ => return Err(missing("(sig-val (ecdsa …))")),
        };
        let r = ecdsa.value("r").and_then(integer).ok_or(missing("(r #…#) of at most 32 bytes"))?;
        let s = ecdsa.value("s").and_then(integer).ok_or(missing("(s #…#) of at most 32 bytes"))?;

        let key = sexp.find("public-key").ok_or(missing("(public-key …)"))?;
        let public = PublicKey::from_sexp(&Sexp::tagged("public-key", key.iter().cloned()))?;
        Ok(Self { hash, r, s, public })
    }

    /// The text, on one line.
    pub fn to_text(&self) -> String {
        let bytes = |bytes: &[u8]| Sexp::Atom(bytes.to_vec());
        let flags = Sexp::tagged("flags", [Sexp::word("rfc6979")]);
        let hash = Sexp::tagged("hash", [Sexp::word("sha256"), bytes(self.hash.as_bytes())]);
        let integers = [Sexp::tagged("r", [bytes(&self.r)]), Sexp::tagged("s", [bytes(&self.s)])];
        Sexp::tagged(
            "signature",
            [
                Sexp::tagged("data", [flags, hash]),
                Sexp::tagged("sig-val", [Sexp::tagged("ecdsa", integers)]),
                self.public.to_sexp(),
            ],
        )
        .to_string()
    }

    /// The hash that was signed, as the signature says.
    pub fn hash(&self) -> &Sha256Hash {
        &self.hash
    }

    /// The key that signed, as the signature says.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Checks that the key in the signature made it, for `hash`. Whether that key is trusted is another question.
    ///
    /// # Errors
    /// When it is for another hash, or does not hold.
    pub fn verify(&self, hash: &Sha256Hash) -> Result<(), Error> {
        if self.hash != *hash {
            return Err(Error::Hash { signed: self.hash, data: *hash });
        }
        let point = self.public.point().ok_or(Error::Point)?;
        if ecdsa::verify(&point, hash, &self.r, &self.s) { Ok(()) } else { Err(Error::Invalid) }
    }
}
