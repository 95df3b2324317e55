//! Guix's keys and signatures: ECDSA over the Ed25519 curve with RFC 6979, which is not EdDSA.
//! Ordinary ed25519 libraries neither make nor check these.

mod acl;
mod curve;
mod ecdsa;
mod signature;

use std::fmt;

use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};

use crate::Sha256Hash;
use crate::sexp::{self, Sexp};

pub use acl::Acl;
pub use signature::Signature;

/// Why something is no key, signature or access list, or why a signature does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text is no s-expression.
    #[error("cannot read {what}: {error}")]
    Sexp {
        /// What was to be read.
        what: &'static str,
        /// What is wrong.
        error: sexp::Error,
    },
    /// The s-expression is another one.
    #[error("cannot read {what}: it has no {missing}")]
    Shape {
        /// What was to be read.
        what: &'static str,
        /// The part that should be there.
        missing: &'static str,
    },
    /// One of several keys is none.
    #[error("key {number} of the list: {error}")]
    At {
        /// Which one; the first is 1.
        number: usize,
        /// What is wrong with it.
        error: Box<Error>,
    },
    /// The public key is no point on the curve that can be used.
    #[error("the public key is no valid point of Ed25519")]
    Point,
    /// The secret and the public part of a key do not belong together.
    #[error("the secret key does not belong to the public key that stands beside it")]
    Mismatch,
    /// The signature is over another hash.
    #[error("the signature is for sha256 {signed}, but the data has sha256 {data}")]
    Hash {
        /// The hash in the signature.
        signed: Sha256Hash,
        /// The hash of what should be signed.
        data: Sha256Hash,
    },
    /// The signature was not made by its key.
    #[error("the signature does not hold: it was not made for this hash by the key that it names")]
    Invalid,
    /// The signature is valid, but its key is not one that is trusted here.
    #[error("the signature is by the key {0}, which is not authorized")]
    Unauthorized(PublicKey),
    /// The system has no random bytes.
    #[error("cannot generate a key: the system gives no random bytes: {0}")]
    Random(String),
}

/// The public half: checks signatures.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey {
    /// Those of a point that was checked.
    bytes: [u8; 32],
}

impl PublicKey {
    /// The key with these 32 bytes, the usual compressed form of a point.
    ///
    /// # Errors
    /// When they are no point, or one of small order, with which anything could be signed.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, Error> {
        let key = Self { bytes };
        match key.point() {
            Some(point) if !point.is_small_order() => Ok(key),
            _ => Err(Error::Point),
        }
    }

    /// Reads `(public-key (ecc (curve Ed25519) (q #…#)))`, the text of `/etc/guix/signing-key.pub`.
    ///
    /// # Errors
    /// When the text is another one or its point is not valid.
    pub fn parse(text: &str) -> Result<Self, Error> {
        Self::from_sexp(&parse_sexp(text.as_bytes(), "a public key")?)
    }

    /// The text of this key, on one line.
    pub fn to_text(&self) -> String {
        self.to_sexp().to_string()
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// Checks that `signature` is this key's, for `hash`.
    ///
    /// # Errors
    /// When it names another key or another hash, or does not hold.
    pub fn verify(&self, hash: &Sha256Hash, signature: &Signature) -> Result<(), Error> {
        if signature.public() != self {
            return Err(Error::Unauthorized(*signature.public()));
        }
        signature.verify(hash)
    }

    fn point(&self) -> Option<EdwardsPoint> {
        CompressedEdwardsY(self.bytes).decompress()
    }

    pub(crate) fn to_sexp(self) -> Sexp {
        Sexp::tagged("public-key", [Sexp::tagged("ecc", [curve_sexp(), bytes_sexp("q", &self.bytes)])])
    }

    pub(crate) fn from_sexp(sexp: &Sexp) -> Result<Self, Error> {
        const WHAT: &str = "a public key";
        let missing = |missing| Error::Shape { what: WHAT, missing };
        let [ecc] = sexp.after("public-key").ok_or(missing("(public-key …)"))? else {
            return Err(missing("(ecc …)"));
        };
        check_curve(ecc, WHAT)?;
        let q = ecc.value("q").ok_or(missing("(q #…#)"))?;
        // libgcrypt may mark the compressed form with a byte in front.
        let q = match q {
            [0x40, rest @ ..] if q.len() == 33 => rest,
            q => q,
        };
        Self::from_bytes(q.try_into().map_err(|_| missing("(q #…#) of 32 bytes"))?)
    }
}

/// The `q` in hexadecimal, by which operators tell keys apart.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&data_encoding::HEXUPPER.encode(&self.bytes))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// The secret half: signs.
#[derive(Clone)]
pub struct SecretKey {
    /// Big-endian, as it stands in the file; may exceed the group's order.
    d: [u8; 32],
    public: PublicKey,
}

impl SecretKey {
    /// A new key from the system's random bytes.
    ///
    /// # Errors
    /// When the system has none.
    pub fn generate() -> Result<Self, Error> {
        loop {
            let mut d = [0; 32];
            getrandom::fill(&mut d).map_err(|error| Error::Random(error.to_string()))?;
            match Self::from_bytes(d) {
                // Zero, or a multiple of the order: not in this universe.
                Err(Error::Point) => continue,
                key => return key,
            }
        }
    }

    /// The key with this integer, big-endian.
    ///
    /// # Errors
    /// When it is a multiple of the group's order.
    pub fn from_bytes(d: [u8; 32]) -> Result<Self, Error> {
        let public = PublicKey::from_bytes(ecdsa::public_point(&d).compress().to_bytes())?;
        Ok(Self { d, public })
    }

    /// Reads `(private-key (ecc … (q #…#) (d #…#)))`, the text of `/etc/guix/signing-key.sec`, or the same within
    /// `(key-data (public-key …) (private-key …))`.
    ///
    /// # Errors
    /// When the text is another one, or its halves do not belong together.
    pub fn parse(text: &str) -> Result<Self, Error> {
        const WHAT: &str = "a secret key";
        let missing = |missing| Error::Shape { what: WHAT, missing };
        let sexp = parse_sexp(text.as_bytes(), WHAT)?;
        // Guix's files have the private half alone, which has the public one in it.
        let bare = sexp.after("private-key");
        if bare.is_none() {
            sexp.after("key-data").ok_or(missing("(private-key …) and no (key-data …)"))?;
        }
        let private = match bare.or_else(|| sexp.find("private-key")) {
            Some([ecc]) => ecc,
            _ => return Err(missing("(private-key (ecc …))")),
        };
        check_curve(private, WHAT)?;
        let d = private.value("d").and_then(integer).ok_or(missing("(d #…#) of at most 32 bytes"))?;
        let key = Self::from_bytes(d)?;
        if let Some(q) = private.value("q") {
            let q: [u8; 32] = q
                .strip_prefix(&[0x40])
                .filter(|q| q.len() == 32)
                .unwrap_or(q)
                .try_into()
                .map_err(|_| missing("(q #…#) of 32 bytes"))?;
            if q != key.public.bytes {
                return Err(Error::Mismatch);
            }
        }
        if let Some([ecc]) = sexp.find("public-key") {
            let public = PublicKey::from_sexp(&Sexp::tagged("public-key", [ecc.clone()]))?;
            if public != key.public {
                return Err(Error::Mismatch);
            }
        }
        Ok(key)
    }

    /// The text of this key. Keep it where only its owner can read it.
    pub fn to_text(&self) -> String {
        let q = bytes_sexp("q", &self.public.bytes);
        let ecc = Sexp::tagged("ecc", [curve_sexp(), q, bytes_sexp("d", &self.d)]);
        Sexp::tagged("private-key", [ecc]).to_string()
    }

    /// The public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Signs a hash. The same hash gets the same signature.
    pub fn sign(&self, hash: &Sha256Hash) -> Signature {
        let (r, s) = ecdsa::sign(&self.d, hash);
        Signature::new(*hash, r, s, self.public)
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.public)
    }
}

fn parse_sexp(text: &[u8], what: &'static str) -> Result<Sexp, Error> {
    Sexp::parse(text).map_err(|error| Error::Sexp { what, error })
}

fn check_curve(ecc: &Sexp, what: &'static str) -> Result<(), Error> {
    let named = ecc.after("ecc").is_some()
        && ecc.value("curve").is_some_and(|name| name.eq_ignore_ascii_case(b"Ed25519"));
    if named { Ok(()) } else { Err(Error::Shape { what, missing: "(ecc (curve Ed25519) …)" }) }
}

fn curve_sexp() -> Sexp {
    Sexp::tagged("curve", [Sexp::word("Ed25519")])
}

fn bytes_sexp(tag: &str, bytes: &[u8]) -> Sexp {
    Sexp::tagged(tag, [Sexp::Atom(bytes.to_vec())])
}

/// An integer as libgcrypt writes it: big-endian, zeros in front left out or one put there.
fn integer(bytes: &[u8]) -> Option<[u8; 32]> {
    let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
    let digits = &bytes[start..];
    let mut integer = [0; 32];
    integer.get_mut(32usize.checked_sub(digits.len())?..)?.copy_from_slice(digits);
    Some(integer)
}

#[cfg(test)]
mod tests;
