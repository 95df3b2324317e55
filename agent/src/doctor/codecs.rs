//! What every output goes through, on the processor as it is.

use std::io::Read;

use drover_store::Sha256Hash;

use super::{Finding, Glance, Outcome, expect, failed};

const BYTES: usize = 1 << 20;
/// SHA-256 of `abc`, the first example of FIPS 180.
const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

pub(super) fn examine(_: &Glance) -> Outcome {
    expect(Sha256Hash::of(b"abc").hex() == ABC, || "SHA-256 of “abc” is another one here".into())?;
    let plain: Vec<u8> = (0..BYTES).map(|index| (index % 251) as u8).collect();
    let compressed = zstd::encode_all(&plain[..], 3).map_err(failed("compress"))?;
    let mut again = Vec::new();
    zstd::Decoder::new(&compressed[..])
        .and_then(|mut decoder| decoder.read_to_end(&mut again))
        .map_err(failed("decompress"))?;
    expect(again == plain, || "what was compressed is another thing when it is decompressed".into())?;
    Ok(Finding::Works(format!("SHA-256, and zstd: {BYTES} bytes to {} and back", compressed.len())))
}
