use std::fmt::Write as _;

use drover_store::key::SecretKey;
use drover_store::narinfo::{NarInfo, Url};
use drover_store::{Sha256Hash, StorePath};
use proptest::prelude::*;

use super::*;

/// A signature that the code of Guix 1.5.0 made, in its layout.
const GUIX: &str = "(signature \n (data \n  (flags rfc6979)\n  (hash sha256 \
    #2D711642B726B04401627CA9FBAC32F5C8530FB1903CC4DB02258717921A4881#)\n  )\n (sig-val \n  (ecdsa \n   (r \
    #07D6443482FB67D8CE44EFBEC13DF08513F075783D262B9C2C2344A7C0B2BACA#)\n   (s \
    #0C2E943613CA75402687B481D00C9E9520DA089403915FAE162AD5A943C3463F#)\n   )\n  )\n (public-key \n  (ecc \n   \
    (curve Ed25519)\n   (q #D6684EC684E24B29C42D4201DA90295074567363E39956BD3472D2BD7BAA50F4#)\n   )\n  )\n )\n";

fn path(n: u8, name: &str) -> StorePath {
    let hash = base32::encode(&Sha256Hash::of(&[n]).as_bytes()[..20]);
    StorePath::parse_base(&format!("{hash}-{name}")).unwrap()
}

fn info(names: &[&str]) -> NarInfo {
    NarInfo {
        store_path: path(0, "python-requests-2.32.3"),
        urls: vec![Url {
            url: format!("nar/zstd/{}", path(0, "python-requests-2.32.3").base_name()),
            compression: "zstd".to_owned(),
            file_size: Some(123_456),
        }],
        nar_hash: Sha256Hash::of(b"nar"),
        nar_size: 1_234_567,
        references: (1..).zip(names).map(|(n, name)| path(n, name)).collect(),
        deriver: Some(path(100, "python-requests-2.32.3.drv")),
        system: Some("x86_64-linux".to_owned()),
        signature: None,
    }
}

fn is_kept(text: &str) -> usize {
    let column = pack(text);
    assert_eq!(super::text(column.clone()).as_deref(), Some(text));
    column.len()
}

const NAMES: [&str; 11] = [
    "glibc-2.41",
    "gcc-14.3.0-lib",
    "bash-minimal-5.2.37",
    "python-3.11.14",
    "python-urllib3-2.3.0",
    "python-idna-3.10",
    "python-certifi-2024.8.30",
    "python-charset-normalizer-3.4.0",
    "openssl-3.0.8",
    "zlib-1.3.1",
    "python-requests-2.32.3",
];

#[test]
fn a_narinfo_of_ours_takes_half_of_its_text() {
    let mut info = info(&NAMES);
    info.sign("bayfront.guix.gnu.org", &SecretKey::generate().unwrap());
    let text = info.print();
    let length = is_kept(&text);
    assert!(length * 2 < text.len() + 40, "{length} of {}", text.len());
}

#[test]
fn a_narinfo_of_guix_publish_comes_back_with_its_own_line_breaks() {
    let mut text = info(&NAMES).print();
    let urls = text.split_off(text.find("URL: ").unwrap());
    let signature = data_encoding::BASE64.encode(GUIX.as_bytes());
    write!(text, "Signature: 1;host;{signature}\n{urls}").unwrap();
    let length = is_kept(&text);
    assert!(length * 2 < text.len(), "{length} of {}", text.len());
}

#[test]
fn what_is_no_narinfo_comes_back_too() {
    for text in ["", "\0", "\u{1}", "\u{1}\u{1}x", "StorePath: /gnu/store/\n", "Schöne Grüße\n", STORE_PATH]
    {
        is_kept(text);
    }
    // Its numbers are shorter than usual.
    let short = GUIX.replace("#07D6", "#D6");
    let line = format!("Signature: 1;h;{}\n", data_encoding::BASE64.encode(short.as_bytes()));
    is_kept(&format!("{}{line}", info(&[]).print()));
}

#[test]
fn columns_that_nothing_packs_to_are_no_text() {
    for column in [&[PACKED, PATH_HASH, 0][..], &[PACKED, BASE], &[PACKED, 0x87], &[PACKED, 0xff], &[0xff]] {
        assert_eq!(super::text(column.to_vec()), None, "{column:?}");
    }
}

#[test]
fn every_word_has_a_byte() {
    assert!(WORDS.len() <= usize::from(u8::MAX - WORD) + 1);
}

fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        proptest::sample::select(WORDS).prop_map(str::to_owned),
        any::<[u8; 20]>().prop_map(|hash| format!("{}-", base32::encode(&hash))),
        any::<[u8; 32]>().prop_map(|hash| base32::encode(&hash)),
        "[0-9a-z]{30,54}",
        "[ -~\n;]{0,8}",
        any::<String>(),
        Just(format!(";{}", data_encoding::BASE64.encode(GUIX.as_bytes()))),
    ]
}

proptest! {
    #[test]
    fn every_text_comes_back_to_the_byte(
        pieces in proptest::collection::vec(piece(), 0..30),
        begins in any::<bool>(),
    ) {
        let begin = if begins { info(&[]).signed_part() } else { String::new() };
        is_kept(&(begin + &pieces.concat()));
    }

    #[test]
    fn any_column_is_read_without_a_panic(mut column in any::<Vec<u8>>(), packed in any::<bool>()) {
        if packed {
            column.insert(0, PACKED);
        }
        let _ = super::text(column);
    }

    #[test]
    fn hashes_are_written_as_the_store_writes_them(hash in any::<[u8; 32]>()) {
        for length in [20, 32] {
            let mut out = Vec::new();
            push_base32(&mut out, &hash[..length]);
            prop_assert_eq!(String::from_utf8(out).unwrap(), base32::encode(&hash[..length]));
        }
    }
}
