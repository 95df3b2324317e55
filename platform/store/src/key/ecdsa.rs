//! ECDSA with the points and the order of Ed25519, as libgcrypt does it for Guix.

use curve25519_dalek::edwards::EdwardsPoint;
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::Identity;
use hmac::{Hmac, KeyInit, Mac};

use super::curve;
use crate::Sha256Hash;

/// The public point of the secret integer `d`, big-endian.
pub(super) fn public_point(d: &[u8; 32]) -> EdwardsPoint {
    EdwardsPoint::mul_base(&reduced(d))
}

/// `r` and `s`, big-endian, of the signature of `hash` by `d`.
pub(super) fn sign(d: &[u8; 32], hash: &Sha256Hash) -> ([u8; 32], [u8; 32]) {
    let e = leftmost_bits(hash.as_bytes());
    let (e_scalar, d_scalar) = (reduced(&e), reduced(d));
    let mut nonces = Nonces::new(d, &e_scalar);
    loop {
        let k = nonces.next();
        // The x of this point is what r publishes, so it need not be kept from anybody's clock.
        let r = x_scalar(&EdwardsPoint::mul_base(&k));
        let s = k.invert() * (e_scalar + r * d_scalar);
        if r != Scalar::ZERO && s != Scalar::ZERO {
            return (big_endian(&r), big_endian(&s));
        }
    }
}

/// Whether `r` and `s` are a signature of `hash` by the key `q`.
pub(super) fn verify(q: &EdwardsPoint, hash: &Sha256Hash, r: &[u8; 32], s: &[u8; 32]) -> bool {
    let (Some(r), Some(s)) = (canonical(r), canonical(s)) else { return false };
    let w = s.invert();
    let e = reduced(&leftmost_bits(hash.as_bytes()));
    let point = EdwardsPoint::vartime_double_scalar_mul_basepoint(&(r * w), q, &(e * w));
    point != EdwardsPoint::identity() && x_scalar(&point) == r
}

/// RFC 6979, section 3.2, with HMAC-SHA-256. The key's octets are `d` as it is, not reduced: that is what
/// libgcrypt does, and its signatures could not be repeated otherwise.
struct Nonces {
    k: [u8; 32],
    v: [u8; 32],
    used: bool,
}

impl Nonces {
    fn new(d: &[u8; 32], e: &Scalar) -> Self {
        let mut nonces = Self { k: [0; 32], v: [1; 32], used: false };
        for step in [0, 1] {
            nonces.k = nonces.hmac(&[&nonces.v, &[step], d, &big_endian(e)]);
            nonces.v = nonces.hmac(&[&nonces.v]);
        }
        nonces
    }

    fn next(&mut self) -> Scalar {
        loop {
            if self.used {
                self.k = self.hmac(&[&self.v, &[0]]);
                self.v = self.hmac(&[&self.v]);
            }
            self.v = self.hmac(&[&self.v]);
            self.used = true;
            if let Some(k) = canonical(&leftmost_bits(&self.v)) {
                return k;
            }
        }
    }

    fn hmac(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = keyed(&self.k);
        for part in parts {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }
}

/// The leftmost 253 bits, as many as the order has, of 256: an integer, big-endian.
fn leftmost_bits(bytes: &[u8; 32]) -> [u8; 32] {
    let mut shifted = [0; 32];
    let mut carry = 0;
    for (to, from) in shifted.iter_mut().zip(bytes) {
        *to = carry | from >> 3;
        carry = from << 5;
    }
    shifted
}

/// The scalar of an integer from 1 to the order less 1, big-endian.
fn canonical(bytes: &[u8; 32]) -> Option<Scalar> {
    let scalar = Option::<Scalar>::from(Scalar::from_canonical_bytes(reversed(bytes)))?;
    (scalar != Scalar::ZERO).then_some(scalar)
}

/// The scalar of any integer, big-endian.
fn reduced(bytes: &[u8; 32]) -> Scalar {
    Scalar::from_bytes_mod_order(reversed(bytes))
}

fn big_endian(scalar: &Scalar) -> [u8; 32] {
    reversed(scalar.as_bytes())
}

fn x_scalar(point: &EdwardsPoint) -> Scalar {
    Scalar::from_bytes_mod_order(curve::affine_x(&point.compress()))
}

fn reversed(bytes: &[u8; 32]) -> [u8; 32] {
    let mut reversed = *bytes;
    reversed.reverse();
    reversed
}

fn keyed(key: &[u8; 32]) -> Hmac<sha2::Sha256> {
    // HMAC takes a key of one block of the hash as it is; a shorter key is one with zeros after it.
    let mut block = [0; 64];
    block[..32].copy_from_slice(key);
    Hmac::new(&block.into())
}
