//! The affine x of a point of Ed25519, which curve25519-dalek keeps to itself.
//!
//! Arithmetic modulo p = 2^255 - 19 with four limbs of 64 bits, little-endian. It takes as long as the values
//! make it: every x that is computed here is published as a signature's r, or comes from a signature.

use curve25519_dalek::edwards::CompressedEdwardsY;

/// x, little-endian and below p, of a point that is on the curve: x² = (y² - 1) / (d·y² + 1), with the sign
/// that the compressed form carries.
pub(super) fn affine_x(point: &CompressedEdwardsY) -> [u8; 32] {
    let mut bytes = *point.as_bytes();
    let negative = bytes[31] >> 7 == 1;
    bytes[31] &= 0x7f;
    let y2 = square(&from_bytes(&bytes));
    let u = subtract(&y2, &ONE);
    let v = add(&multiply(&D, &y2), &ONE);
    // The candidate u·v³·(u·v⁷)^((p-5)/8) is a root of u/v or of -u/v.
    let v3 = multiply(&square(&v), &v);
    let v7 = multiply(&square(&v3), &v);
    let mut x = multiply(&multiply(&u, &v3), &power(&multiply(&u, &v7), &P58));
    if reduced(&multiply(&v, &square(&x))) != reduced(&u) {
        x = multiply(&x, &SQRT_M1);
    }
    let mut x = reduced(&x);
    if (x[0] & 1 == 1) != negative {
        x = reduced(&subtract(&[0; 4], &x));
    }
    let mut bytes = [0; 32];
    for (chunk, limb) in bytes.chunks_exact_mut(8).zip(x) {
        chunk.copy_from_slice(&limb.to_le_bytes());
    }
    bytes
}

/// A number below 2^256, counted modulo p.
type Field = [u64; 4];

const ONE: Field = [1, 0, 0, 0];
const P: Field = [0xffff_ffff_ffff_ffed, u64::MAX, u64::MAX, 0x7fff_ffff_ffff_ffff];
/// (p - 5) / 8.
const P58: Field = [0xffff_ffff_ffff_fffd, u64::MAX, u64::MAX, 0x0fff_ffff_ffff_ffff];
/// -121665/121666.
const D: Field = [0x75eb_4dca_1359_78a3, 0x0070_0a4d_4141_d8ab, 0x8cc7_4079_7779_e898, 0x5203_6cee_2b6f_fe73];
/// 2^((p-1)/4), whose square is -1.
const SQRT_M1: Field =
    [0xc4ee_1b27_4a0e_a0b0, 0x2f43_1806_ad2f_e478, 0x2b4d_0099_3dfb_d7a7, 0x2b83_2480_4fc1_df0b];

fn from_bytes(bytes: &[u8; 32]) -> Field {
    let mut field = [0; 4];
    for (n, byte) in bytes.iter().enumerate() {
        field[n / 8] |= u64::from(*byte) << (n % 8 * 8);
    }
    field
}

/// Adds `carry` · 2^256, which is `carry` · 38 modulo p, until nothing is carried.
fn fold(mut field: Field, mut carry: u64) -> Field {
    while carry > 0 {
        let mut wide = u128::from(carry) * 38;
        for limb in &mut field {
            wide += u128::from(*limb);
            *limb = wide as u64;
            wide >>= 64;
        }
        carry = wide as u64;
    }
    field
}

fn add(a: &Field, b: &Field) -> Field {
    let (mut sum, mut carry) = ([0; 4], 0u128);
    for n in 0..4 {
        carry += u128::from(a[n]) + u128::from(b[n]);
        sum[n] = carry as u64;
        carry >>= 64;
    }
    fold(sum, carry as u64)
}

/// a - b, as a + (p - b).
fn subtract(a: &Field, b: &Field) -> Field {
    add(a, &difference(&P, &reduced(b)).0)
}

/// a - b and whether that is below zero.
fn difference(a: &Field, b: &Field) -> (Field, bool) {
    let (mut result, mut borrow) = ([0; 4], false);
    for n in 0..4 {
        let (first, below) = a[n].overflowing_sub(b[n]);
        let (second, again) = first.overflowing_sub(u64::from(borrow));
        result[n] = second;
        borrow = below || again;
    }
    (result, borrow)
}

/// The same number, below p.
fn reduced(a: &Field) -> Field {
    let mut a = *a;
    loop {
        match difference(&a, &P) {
            (_, true) => return a,
            (less, false) => a = less,
        }
    }
}

fn multiply(a: &Field, b: &Field) -> Field {
    let mut wide = [0u64; 8];
    for i in 0..4 {
        let mut carry = 0u128;
        for j in 0..4 {
            carry += u128::from(a[i]) * u128::from(b[j]) + u128::from(wide[i + j]);
            wide[i + j] = carry as u64;
            carry >>= 64;
        }
        wide[i + 4] = carry as u64;
    }
    // The upper half counts 38 times.
    let (mut product, mut carry) = ([0; 4], 0u128);
    for n in 0..4 {
        carry += u128::from(wide[n + 4]) * 38 + u128::from(wide[n]);
        product[n] = carry as u64;
        carry >>= 64;
    }
    fold(product, carry as u64)
}

fn square(a: &Field) -> Field {
    multiply(a, a)
}

fn power(a: &Field, exponent: &Field) -> Field {
    let mut result = ONE;
    for bit in (0..256).rev() {
        result = square(&result);
        if exponent[bit / 64] >> (bit % 64) & 1 == 1 {
            result = multiply(&result, a);
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_point_has_the_x_of_rfc_7748() {
        let x = affine_x(&curve25519_dalek::constants::ED25519_BASEPOINT_COMPRESSED);
        let mut expected = data_encoding::HEXLOWER
            .decode(b"216936d3cd6e53fec0a4e231fdd6dc5c692cc7609525a7b2c9562d608f25d51a")
            .unwrap();
        expected.reverse();
        assert_eq!(x.as_slice(), expected);
    }

    #[test]
    fn a_point_and_its_negative_have_opposite_x() {
        let base = curve25519_dalek::constants::ED25519_BASEPOINT_POINT;
        for point in [base, base + base, base + base + base] {
            let (x, minus) = (from_bytes(&affine_x(&point.compress())), affine_x(&(-point).compress()));
            assert_eq!(reduced(&add(&x, &from_bytes(&minus))), [0; 4]);
        }
    }
}
