//! The column `makers` of derivations: the numbers of a derivation's inputs in a few bytes, so that walks through
//! large parts of the graph read one row for each derivation and not one for each of its edges.
//!
//! Sorted, each once, the first and then the differences, each in groups of seven bits, the lowest first, with the
//! eighth bit set in all but the last.

use rusqlite::Transaction;

/// The column for these numbers, which are not negative.
#[must_use]
pub fn encode(mut makers: Vec<i64>) -> Vec<u8> {
    makers.sort_unstable();
    makers.dedup();
    let mut bytes = Vec::with_capacity(makers.len() * 3);
    let mut before = 0;
    for maker in makers {
        let mut rest = maker.wrapping_sub(before) as u64;
        before = maker;
        while rest >= 0x80 {
            bytes.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        bytes.push(rest as u8);
    }
    bytes
}

/// The numbers of a column. Bytes that are none, at the end, are left out.
pub fn decode(bytes: &[u8]) -> impl Iterator<Item = i64> {
    let mut rest = bytes.iter();
    let mut before = 0_i64;
    std::iter::from_fn(move || {
        let (mut difference, mut shift) = (0_u64, 0_u32);
        loop {
            let byte = *rest.next()?;
            difference |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        before = before.wrapping_add(difference as i64);
        Some(before)
    })
}

/// Fills the column where a database had none.
pub(super) fn fill(tx: &Transaction<'_>) -> rusqlite::Result<()> {
    let mut select = tx.prepare("SELECT derivation, maker FROM derivation_inputs ORDER BY derivation")?;
    let mut update = tx.prepare("UPDATE derivations SET makers = ?2 WHERE id = ?1")?;
    let mut rows = select.query([])?;
    let mut current = None;
    let mut makers = Vec::new();
    while let Some(row) = rows.next()? {
        let (derivation, maker): (i64, i64) = (row.get(0)?, row.get(1)?);
        if current != Some(derivation) {
            if let Some(before) = current.replace(derivation) {
                update.execute((before, encode(std::mem::take(&mut makers))))?;
            }
        }
        makers.push(maker);
    }
    if let Some(last) = current {
        update.execute((last, encode(makers)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_come_back_sorted_and_each_once(
            mut numbers in proptest::collection::vec(0..i64::MAX, 0..50),
        ) {
            let bytes = encode(numbers.clone());
            numbers.sort_unstable();
            numbers.dedup();
            prop_assert_eq!(decode(&bytes).collect::<Vec<_>>(), numbers);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            prop_assert!(decode(&bytes).count() <= bytes.len());
        }
    }
}
