//! What a builder finds in its environment.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use drover_store::STORE_DIR;
use drover_store::derivation::Derivation;

/// The prefix of variables of the agent's own, which may hold secrets.
const OURS: &[u8] = b"DROVER_";

/// The whole environment: what every builder gets, over that what the derivation says, over that where the build folder is,
/// and, for a fixed output, those of the machine's variables that it asks for.
pub(super) fn environment(
    derivation: &Derivation,
    build_folder: &str,
    cores: u32,
    machine: impl Fn(&[u8]) -> Option<OsString>,
) -> Vec<(OsString, OsString)> {
    let mut variables: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let mut set = |name: &[u8], value: &[u8]| drop(variables.insert(name.to_vec(), value.to_vec()));
    set(b"PATH", b"/path-not-set");
    set(b"HOME", b"/homeless-shelter");
    set(b"NIX_STORE", STORE_DIR.as_bytes());
    set(b"NIX_BUILD_CORES", cores.to_string().as_bytes());
    for (name, value) in &derivation.env {
        set(name, value);
    }
    for name in ["NIX_BUILD_TOP", "TMPDIR", "TEMPDIR", "TMP", "TEMP", "PWD"] {
        set(name.as_bytes(), build_folder.as_bytes());
    }
    if derivation.is_fixed_output() {
        for name in words(derivation.env(b"impureEnvVars").unwrap_or_default()) {
            let value = if name.starts_with(OURS) { None } else { machine(name) };
            set(name, value.unwrap_or_default().as_bytes());
        }
    }
    variables.into_iter().map(|(name, value)| (OsString::from_vec(name), OsString::from_vec(value))).collect()
}

/// The words of a list, which blanks separate.
pub(super) fn words(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use drover_store::derivation::{Fixed, Output};
    use drover_store::path::StorePath;

    use super::*;

    fn environment_of(fixed: bool, env: &[(&str, &str)]) -> BTreeMap<String, String> {
        let path = StorePath::parse_base("00a3xasf5iyzfv23danwy7pilf2yyxjz-x").unwrap();
        let fixed = fixed.then(|| Fixed { recursive: false, algorithm: "sha256".into(), hash: vec![0; 32] });
        let mut env: Vec<_> =
            env.iter().map(|(k, v)| (k.as_bytes().to_vec(), v.as_bytes().to_vec())).collect();
        env.sort();
        let derivation = Derivation {
            outputs: vec![Output { name: "out".into(), path, fixed }],
            inputs: Vec::new(),
            sources: Vec::new(),
            system: "x86_64-linux".into(),
            builder: b"/x".to_vec(),
            args: Vec::new(),
            env,
        };
        let machine = |name: &[u8]| (name != b"none").then(|| OsString::from("machine"));
        let text = |text: OsString| text.into_string().unwrap();
        environment(&derivation, "/tmp/b", 3, machine).into_iter().map(|(k, v)| (text(k), text(v))).collect()
    }

    #[test]
    fn the_derivation_may_say_more_but_not_where_it_is_built() {
        let got = environment_of(
            false,
            &[("HOME", "/h"), ("TMPDIR", "/t"), ("x", ""), ("impureEnvVars", "http_proxy")],
        );
        let expected = [
            ("HOME", "/h"),
            ("NIX_BUILD_CORES", "3"),
            ("NIX_BUILD_TOP", "/tmp/b"),
            ("NIX_STORE", "/gnu/store"),
            ("PATH", "/path-not-set"),
            ("PWD", "/tmp/b"),
            ("TEMP", "/tmp/b"),
            ("TEMPDIR", "/tmp/b"),
            ("TMP", "/tmp/b"),
            ("TMPDIR", "/tmp/b"),
            ("impureEnvVars", "http_proxy"),
            ("x", ""),
        ];
        assert_eq!(got, expected.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect());
    }

    #[test]
    fn a_fixed_output_takes_what_it_asks_for_from_the_machine_but_nothing_of_the_agents_own() {
        let got = environment_of(true, &[("impureEnvVars", "http_proxy  none\nDROVER_TOKEN")]);
        assert_eq!(got["http_proxy"], "machine");
        assert_eq!(got["none"], "");
        assert_eq!(got["DROVER_TOKEN"], "");
    }
}
