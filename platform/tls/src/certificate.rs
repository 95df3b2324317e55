//! What has to be known of a certificate beyond whether it is good: from when to when it is valid, and its key.
//!
//! X.509 in DER, as RFC 5280 defines it (section 4.1); only as much of it as leads to these two.

use crate::date;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// The version, which is the only element that may be left out before the key.
const VERSION: u8 = 0xa0;

/// What a certificate says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts<'a> {
    /// From when on it is valid, in seconds since 1970; 0 for any time before.
    pub not_before: u64,
    /// Until when it is valid, in seconds since 1970.
    pub not_after: u64,
    /// Its public key, with the algorithm: a `SubjectPublicKeyInfo` in DER.
    pub key: &'a [u8],
}

impl<'a> Facts<'a> {
    /// Those of a certificate in DER; none if it is no certificate.
    #[must_use]
    pub fn of(der: &'a [u8]) -> Option<Self> {
        let (certificate, _) = Element::first(der)?.of_kind(SEQUENCE)?;
        let (signed, _) = Element::first(certificate)?.of_kind(SEQUENCE)?;
        let mut rest = signed;
        let mut next = || {
            let element = Element::first(rest)?;
            rest = element.rest;
            Some(element)
        };
        let mut number = next()?;
        if number.kind == VERSION {
            number = next()?;
        }
        number.of_kind(INTEGER)?;
        let (_algorithm, _issuer) = (next()?.of_kind(SEQUENCE)?, next()?.of_kind(SEQUENCE)?);
        let (validity, _) = next()?.of_kind(SEQUENCE)?;
        let _subject = next()?.of_kind(SEQUENCE)?;
        let (_, key) = next()?.of_kind(SEQUENCE)?;
        let from = Element::first(validity)?;
        let to = Element::first(from.rest)?;
        Some(Self { not_before: from.time()?, not_after: to.time()?, key })
    }
}

/// One element: what it is, what is in it, and what comes after it.
struct Element<'a> {
    kind: u8,
    inside: &'a [u8],
    whole: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Element<'a> {
    fn first(bytes: &'a [u8]) -> Option<Self> {
        let (&kind, after) = bytes.split_first()?;
        let (&first, mut after) = after.split_first()?;
        let length = if first < 0x80 {
            usize::from(first)
        } else {
            // The next bytes are the length, the highest first. More than four of them are no certificate's.
            let (length, behind) = after.split_at_checked(usize::from(first & 0x7f))?;
            after = behind;
            if length.is_empty() || length.len() > 4 {
                return None;
            }
            length.iter().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte))
        };
        let (inside, rest) = after.split_at_checked(length)?;
        let whole = bytes.get(..bytes.len() - rest.len())?;
        Some(Self { kind, inside, whole, rest })
    }

    /// What is in it, and all of it.
    fn of_kind(&self, kind: u8) -> Option<(&'a [u8], &'a [u8])> {
        (self.kind == kind).then_some((self.inside, self.whole))
    }

    /// `YYMMDDhhmmssZ` or `YYYYMMDDhhmmssZ`.
    fn time(&self) -> Option<u64> {
        let digits = self.inside.strip_suffix(b"Z")?;
        let pair = |at: usize| {
            let pair = std::str::from_utf8(digits.get(at..at + 2)?).ok()?;
            if pair.bytes().all(|byte| byte.is_ascii_digit()) { pair.parse::<u64>().ok() } else { None }
        };
        let (year, at) = match (self.kind, digits.len()) {
            // Two digits mean 1950 to 2049.
            (UTC_TIME, 12) => (pair(0).map(|year| if year < 50 { 2000 + year } else { 1900 + year })?, 2),
            (GENERALIZED_TIME, 14) => (pair(0)? * 100 + pair(2)?, 4),
            _ => return None,
        };
        let date = (year, pair(at)?, pair(at + 2)?);
        let time = (pair(at + 4)?, pair(at + 6)?, pair(at + 8)?);
        if year < 1970 { Some(0) } else { date::seconds(date, time) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate() -> (Vec<u8>, Vec<u8>) {
        let mut parameters = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap();
        parameters.not_before = rcgen::date_time_ymd(1975, 1, 2);
        parameters.not_after = rcgen::date_time_ymd(2060, 2, 29);
        let key = rcgen::KeyPair::generate().unwrap();
        let der = parameters.self_signed(&key).unwrap().der().to_vec();
        (der, rcgen::PublicKeyData::subject_public_key_info(&key))
    }

    #[test]
    fn a_certificate_says_when_it_is_valid_and_what_its_key_is() {
        let (der, key) = certificate();
        let facts = Facts::of(&der).unwrap();
        assert_eq!(date::utc(facts.not_before), "1975-01-02 00:00 UTC");
        assert_eq!(date::utc(facts.not_after), "2060-02-29 00:00 UTC");
        assert_eq!(facts.key, key);
    }

    #[test]
    fn damaged_bytes_are_read_without_a_panic() {
        let (der, _) = certificate();
        for end in 0..der.len() {
            assert_eq!(Facts::of(&der[..end]), None);
        }
        for at in 0..der.len().min(300) {
            for bits in [0x01, 0x80, 0xff] {
                let mut broken = der.clone();
                broken[at] ^= bits;
                let _ = Facts::of(&broken);
            }
        }
    }
}
