use proptest::prelude::*;

use super::*;

const D: &str = "6F0088C58127C154C0952BC2F2E261E159A20FBCCEFB8526027F1CD7A2F7D810";
const Q: &str = "45FD5D90D345B379BC434B88D8ED6B1998B015830CFEC0B9BD263558C2963B9B";
const HASH: &str = "728C59ED6320918A07A30139488831FA5FEA4F29D20B60C8563822616DAE528B";
const R: &str = "076BA823874F9950B1F271AD1A994705CDE4CA5AE18060BEAF984EF4CF19B6F8";
const S: &str = "0FBF2CA578B2016AAF0DFE06EE177C6D2E2370FA131197A27A34C3B2C1EEF067";

fn vector_key() -> SecretKey {
    SecretKey::parse(&format!(
        "(key-data (public-key (ecc (curve Ed25519) (q #{Q}#))) \
         (private-key (ecc (curve Ed25519) (q #{Q}#) (d #{D}#))))"
    ))
    .unwrap()
}

fn vector_text() -> String {
    format!(
        "(signature (data (flags rfc6979) (hash sha256 #{HASH}#)) (sig-val (ecdsa (r #{R}#) (s #{S}#))) \
         (public-key (ecc (curve Ed25519) (q #{Q}#))))"
    )
}

#[test]
fn signing_makes_the_signature_that_guix_makes() {
    let signature = vector_key().sign(&Sha256Hash::from_hex(HASH).unwrap());
    assert_eq!(signature.to_text(), vector_text());
}

#[test]
fn a_signature_that_guix_made_holds() {
    let signature = Signature::parse(&vector_text()).unwrap();
    let hash = Sha256Hash::from_hex(HASH).unwrap();
    assert_eq!(vector_key().public().verify(&hash, &signature), Ok(()));
    assert_eq!(signature.to_text(), vector_text());
}

#[test]
fn a_changed_signature_does_not_hold() {
    let hash = Sha256Hash::from_hex(HASH).unwrap();
    for (from, to) in [(R, S), (S, R), (R, &"0".repeat(64)), (S, &"F".repeat(64))] {
        let changed = vector_text().replacen(from, to, 1);
        let result = Signature::parse(&changed).and_then(|signature| signature.verify(&hash));
        assert_eq!(result, Err(Error::Invalid), "{changed}");
    }
    let other = Sha256Hash::of(b"other");
    let signature = Signature::parse(&vector_text()).unwrap();
    assert_eq!(signature.verify(&other), Err(Error::Hash { signed: hash, data: other }));
    let changed = Signature::parse(&vector_text().replace(HASH, &other.hex())).unwrap();
    assert_eq!(changed.verify(&other), Err(Error::Invalid));
}

#[test]
fn a_signature_by_another_key_is_not_this_keys() {
    let other = SecretKey::generate().unwrap();
    let hash = Sha256Hash::of(b"drover");
    let signature = vector_key().sign(&hash);
    assert_eq!(other.public().verify(&hash, &signature), Err(Error::Unauthorized(*vector_key().public())));
}

#[test]
fn a_point_of_small_order_is_no_key() {
    let mut identity = [0; 32];
    identity[0] = 1;
    assert_eq!(PublicKey::from_bytes(identity), Err(Error::Point));
}

#[test]
fn halves_of_two_keys_are_refused() {
    let other = SecretKey::generate().unwrap().public().to_string();
    let mixed = vector_key().to_text().replacen(Q, &other, 1);
    assert_eq!(SecretKey::parse(&mixed).unwrap_err(), Error::Mismatch);
}

#[test]
fn an_access_list_authorizes_its_keys_for_import_only() {
    let key = vector_key();
    let entry = |tag: &str| format!("(entry {} (tag (guix {tag})))", key.public().to_text());
    let acl = Acl::parse(&format!("(acl {})", entry("import"))).unwrap();
    assert!(acl.authorizes(key.public()));
    assert!(!acl.authorizes(SecretKey::generate().unwrap().public()));
    assert!(!Acl::parse(&format!("(acl {})", entry("export"))).unwrap().authorizes(key.public()));
    assert!(!Acl::parse("(acl)").unwrap().authorizes(key.public()));
}

#[test]
fn a_list_of_keys_is_an_access_list_or_keys_one_after_another() {
    let (first, second) = (*vector_key().public(), *SecretKey::generate().unwrap().public());
    let plain = format!("{}\n\n{}\n", first.to_text(), second.to_text());
    assert_eq!(Acl::parse_keys(&plain).unwrap().keys(), [first, second]);
    let acl = format!("(acl (entry {} (tag (guix import))))", first.to_text());
    assert_eq!(Acl::parse_keys(&acl).unwrap().keys(), [first]);
    assert!(Acl::parse_keys("").unwrap().keys().is_empty());
    for (wrong, words) in [
        (format!("{plain}(public-key (ecc (curve Ed25519)))"), "key 3 of the list"),
        (format!("{acl}{acl}"), "key 1 of the list"),
        (format!("{plain}("), "a list of public keys"),
        (vector_key().to_text(), "key 1 of the list"),
    ] {
        let error = Acl::parse_keys(&wrong).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn what_a_key_signs_it_verifies_and_texts_read_back(d in any::<[u8; 32]>(), hash in any::<[u8; 32]>()) {
        let key = SecretKey::from_bytes(d).unwrap();
        let hash = Sha256Hash::from_bytes(hash);
        let signature = SecretKey::parse(&key.to_text()).unwrap().sign(&hash);
        let signature = Signature::parse(&signature.to_text()).unwrap();
        let public = PublicKey::parse(&key.public().to_text()).unwrap();
        prop_assert_eq!(public.verify(&hash, &signature), Ok(()));
    }

    #[test]
    fn arbitrary_text_never_panics(text in any::<String>(), bytes in any::<[u8; 32]>()) {
        let _ = (SecretKey::parse(&text), PublicKey::parse(&text), Signature::parse(&text), Acl::parse(&text));
        let _ = PublicKey::from_bytes(bytes);
    }
}
