use proptest::prelude::*;

use super::*;
use crate::Sha256Hash;

const TEXT: &str = concat!(
    r#"Derive([("out","/gnu/store/55gpjv8cs8fx815a90vnl9y6ws4lldsf-hello-2.12.2","","")],"#,
    r#"[("/gnu/store/1fyfsgy6vjh0shwir0vigqfvdgjvqq2x-xz-5.4.5.drv",["out"])],"#,
    r#"["/gnu/store/0r7lmmb9x0rp855mjvhlk2303pgq99a4-module-import"],"i586-gnu","/bin/guile","#,
    r#"["-L","a\"b\\c\nd\re\tf"],[("LC_CTYPE","C.UTF-8"),("out","/gnu/store")])"#,
);

#[test]
fn a_derivation_reads_as_what_it_says() {
    let derivation = Derivation::parse(TEXT.as_bytes()).unwrap();
    assert_eq!(derivation.system, "i586-gnu");
    assert_eq!(derivation.args[1], b"a\"b\\c\nd\re\tf");
    assert_eq!(derivation.env(b"LC_CTYPE"), Some(b"C.UTF-8".as_slice()));
    assert_eq!(derivation.env(b"none"), None);
    assert_eq!(derivation.references().len(), 2);
    assert!(!derivation.is_fixed_output());
    assert_eq!(derivation.builtin(), None);
}

#[test]
fn every_second_way_to_write_a_derivation_is_refused_with_its_place() {
    let refused = |from: &str, to: &str| {
        assert!(TEXT.contains(from), "{from}");
        Derivation::parse(TEXT.replacen(from, to, 1).as_bytes()).unwrap_err()
    };
    assert_eq!(refused("Derive(", "Derive ("), ParseError { offset: 0, expected: "'Derive('" });
    // A raw newline, an escape for a letter, bytes after the end, variables out of order, an empty list item.
    let offset = TEXT.find("\\n").unwrap();
    assert_eq!(refused("\\n", "\n").offset, offset);
    assert_eq!(refused("\\n", "\\d").offset, offset);
    assert_eq!(refused("\"/gnu/store\")])", "\"/gnu/store\")]) ").offset, TEXT.len());
    assert!(refused("LC_CTYPE", "zz").expected.contains("ascending"));
    refused("[\"-L\",", "[\"-L\",,");
    refused("[\"out\"]", "[]");
    refused("[\"out\"]", "[\"out\",\"lib\"]");
    refused("xz-5.4.5.drv", "xz-5.4.5");
    refused("\"\",\"\")]", "\"sha256\",\"\")]");
    refused("\"\",\"\")]", "\"sha256\",\"AB\")]");
    refused("\"\",\"\")]", "\"r:\",\"ab\")]");
    refused("\"i586-gnu\"", "\"\"");
}

#[test]
fn every_cut_is_refused() {
    for end in 0..TEXT.len() {
        assert!(Derivation::parse(&TEXT.as_bytes()[..end]).is_err(), "{end}");
    }
}

#[test]
fn a_fixed_output_counts_by_its_content() {
    let fixed = TEXT.replacen("\"\",\"\")]", "\"r:sha256\",\"00ff\")]", 1);
    let derivation = Derivation::parse(fixed.as_bytes()).unwrap();
    let text = "fixed:out:r:sha256:00ff:/gnu/store/55gpjv8cs8fx815a90vnl9y6ws4lldsf-hello-2.12.2";
    assert_eq!(derivation.hash_with(&[]), Sha256Hash::of(text.as_bytes()));
    assert_eq!(derivation.print(), fixed.as_bytes());
}

#[test]
fn inputs_with_one_hash_count_as_one_with_all_their_outputs() {
    let mut derivation = Derivation::parse(TEXT.as_bytes()).unwrap();
    let hash = Sha256Hash::of(b"same");
    let other = path::text("other.drv", b"", &[]).unwrap();
    derivation.inputs[0].outputs = vec!["lib".into(), "out".into()];
    let merged = derivation.hash_with(&[hash]);
    derivation.inputs[0].outputs = vec!["out".into()];
    derivation.inputs.push(Input { derivation: other, outputs: vec!["lib".into()] });
    assert_eq!(derivation.hash_with(&[hash, hash]), merged);
}

#[test]
fn a_chain_of_any_length_takes_no_stack_and_a_circle_ends() {
    let template = Derivation::parse(TEXT.as_bytes()).unwrap();
    let path_of = |n: u32| path::text("link.drv", &n.to_le_bytes(), &[]).unwrap();
    let numbers: std::collections::HashMap<_, _> = (0..50_000).map(|n| (path_of(n), n)).collect();
    let link = |n: u32, last: u32| {
        let mut derivation = template.clone();
        derivation.inputs = if n == last {
            Vec::new()
        } else {
            vec![Input { derivation: path_of((n + 1) % 50_000), outputs: vec!["out".into()] }]
        };
        derivation
    };
    let run = |last| {
        HashModulo::new().derivation_hash(&path_of(0), &link(0, last), |path| {
            numbers.get(path).map(|n| link(*n, last)).ok_or("not there")
        })
    };
    assert!(run(49_999).is_ok());
    assert!(matches!(run(u32::MAX), Err(ModuloError::Cycle(path)) if path == path_of(0)));
    let lost = HashModulo::new().derivation_hash(&path_of(0), &link(0, 9), |_| Err("not there"));
    assert!(matches!(lost, Err(ModuloError::Lookup { input, .. }) if input == path_of(1)));
}

fn store_path(suffix: &'static str) -> impl Strategy<Value = StorePath> {
    ("[a-z][a-z0-9.+-]{0,8}", any::<u8>())
        .prop_map(move |(name, n)| path::text(&format!("{name}{suffix}"), &[n], &[]).unwrap())
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![any::<Vec<u8>>(), "[a-z\"\\\\\n\r\t]{0,12}".prop_map(String::into_bytes)]
}

fn derivation() -> impl Strategy<Value = Derivation> {
    use proptest::collection::{btree_map, btree_set, vec};
    let names = || btree_set("[a-z]{1,5}", 1..3);
    let outputs = prop_oneof![
        btree_map("[a-z]{1,5}", store_path(""), 1..4).prop_map(|outputs| outputs
            .into_iter()
            .map(|(name, path)| Output { name, path, fixed: None })
            .collect::<Vec<_>>()),
        (store_path(""), any::<bool>(), vec(any::<u8>(), 1..33)).prop_map(|(path, recursive, hash)| {
            let fixed = Some(Fixed { recursive, algorithm: "sha256".into(), hash });
            vec![Output { name: "out".into(), path, fixed }]
        }),
    ];
    let inputs = btree_map(store_path(".drv"), names(), 0..4).prop_map(|inputs| {
        inputs
            .into_iter()
            .map(|(derivation, outputs)| Input { derivation, outputs: outputs.into_iter().collect() })
            .collect()
    });
    let sources = btree_set(store_path(""), 0..4).prop_map(|paths| paths.into_iter().collect());
    let rest = (bytes(), vec(bytes(), 0..4), btree_map(bytes(), bytes(), 0..4));
    (outputs, inputs, sources, "[a-z0-9_]{1,8}-[a-z]{1,5}", rest).prop_map(
        |(outputs, inputs, sources, system, (builder, args, env))| Derivation {
            outputs,
            inputs,
            sources,
            system,
            builder,
            args,
            env: env.into_iter().collect(),
        },
    )
}

proptest! {
    #[test]
    fn what_is_printed_parses_to_the_same(derivation in derivation()) {
        let text = derivation.print();
        prop_assert_eq!(Derivation::parse(&text), Ok(derivation));
    }

    #[test]
    fn a_changed_byte_never_panics_and_what_parses_prints_itself(
        derivation in derivation(),
        place in any::<proptest::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut text = derivation.print();
        let place = place.index(text.len());
        text[place] = byte;
        if let Ok(parsed) = Derivation::parse(&text) {
            prop_assert_eq!(parsed.print(), text);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in any::<Vec<u8>>()) {
        let _ = Derivation::parse(&bytes);
        let _ = Derivation::parse(&[b"Derive([(\"".as_slice(), &bytes].concat());
    }
}
