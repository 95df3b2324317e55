//! Guix's base32: an alphabet without `e`, `o`, `t` and `u`, least significant bits first, written backwards.

/// The 32 digits, in the order of their value.
pub const ALPHABET: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

/// What is wrong with a base32 text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text has not the one length that belongs to the number of bytes.
    #[error("base32 text of {found} characters where {expected} were expected for {bytes} bytes")]
    Length {
        /// Characters that were expected.
        expected: usize,
        /// Characters that are there.
        found: usize,
        /// Bytes that were asked for.
        bytes: usize,
    },
    /// A byte that is no base32 digit.
    #[error(
        "byte {byte:#04x} at offset {offset} is no base32 digit (digits are 0-9 and a-z without e, o, t, u)"
    )]
    Digit {
        /// The byte that is there.
        byte: u8,
        /// Its place in the text.
        offset: usize,
    },
    /// The bits that no byte covers are not zero, so the text is not the one that encoding would write.
    #[error("the first base32 digit is too large: its unused bits must be zero")]
    Padding,
}

/// The number of characters that `bytes` bytes take.
pub const fn encoded_len(bytes: usize) -> usize {
    (bytes * 8).div_ceil(5)
}

/// Writes `bytes` as base32: 20 bytes give 32 characters, 32 bytes give 52.
pub fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(encoded_len(bytes.len()));
    for n in (0..encoded_len(bytes.len())).rev() {
        let (index, shift) = (n * 5 / 8, n * 5 % 8);
        let low = bytes[index] >> shift;
        let high = bytes.get(index + 1).map_or(0, |next| (u16::from(*next) << (8 - shift)) as u8);
        text.push(char::from(ALPHABET[usize::from((low | high) & 31)]));
    }
    text
}

/// Reads a base32 text that must stand for exactly `out_len` bytes.
///
/// # Errors
/// When the length is another one, a digit is none, or unused bits are set: each value has one text only.
pub fn decode(text: &str, out_len: usize) -> Result<Vec<u8>, Error> {
    let digits = text.as_bytes();
    let expected = out_len.checked_mul(8).map(|bits| bits.div_ceil(5));
    if expected != Some(digits.len()) {
        return Err(Error::Length {
            expected: expected.unwrap_or(usize::MAX),
            found: digits.len(),
            bytes: out_len,
        });
    }
    let mut bytes = vec![0u8; out_len];
    for (n, &digit) in digits.iter().rev().enumerate() {
        let value = VALUES[usize::from(digit)];
        if value == NONE {
            return Err(Error::Digit { byte: digit, offset: digits.len() - 1 - n });
        }
        let (index, shift) = (n * 5 / 8, n * 5 % 8);
        let wide = u16::from(value) << shift;
        bytes[index] |= wide as u8;
        let rest = (wide >> 8) as u8;
        match bytes.get_mut(index + 1) {
            Some(next) => *next |= rest,
            None if rest != 0 => return Err(Error::Padding),
            None => {}
        }
    }
    Ok(bytes)
}

/// Whether `byte` is one of the 32 digits.
pub fn is_digit(byte: u8) -> bool {
    VALUES[usize::from(byte)] != NONE
}

const NONE: u8 = 255;

/// The value of every byte as a digit, or [`NONE`].
static VALUES: [u8; 256] = {
    let mut values = [NONE; 256];
    let mut value = 0;
    while value < 32 {
        values[ALPHABET[value] as usize] = value as u8;
        value += 1;
    }
    values
};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_empty_hash_has_the_text_that_guix_prints() {
        let hash = crate::Sha256Hash::of(b"");
        assert_eq!(hash.base32(), "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73");
    }

    #[test]
    fn a_set_bit_beyond_the_last_byte_is_refused() {
        // 32 bytes are 256 bits and 52 digits are 260: the first digit carries one bit only.
        let text = format!("2{}", "0".repeat(51));
        assert_eq!(decode(&text, 32), Err(Error::Padding));
        assert_eq!(decode("10", 1), Ok(vec![32]));
    }

    #[test]
    fn a_letter_outside_the_alphabet_is_named_with_its_place() {
        assert_eq!(decode("0e", 1), Err(Error::Digit { byte: b'e', offset: 1 }));
    }

    proptest! {
        #[test]
        fn decoding_gives_back_what_was_encoded(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            prop_assert_eq!(decode(&encode(&bytes), bytes.len()).unwrap(), bytes);
        }

        #[test]
        fn what_decodes_encodes_to_itself(text in "[0-9a-z]{0,60}", len in 0usize..40) {
            if let Ok(bytes) = decode(&text, len) {
                prop_assert_eq!(encode(&bytes), text);
            }
        }

        #[test]
        fn arbitrary_text_never_panics(text in any::<String>(), len in any::<usize>()) {
            let _ = decode(&text, len);
        }
    }
}
