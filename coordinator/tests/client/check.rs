//! `drover derivation check`.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use serde_json::json;

use crate::{HELLO, Ran, bare, hello, named, run, text};

fn check(path: &Path) -> Ran {
    run(bare(&["derivation", "check", text(path), "--store", "/nonexistent", "--json"]))
}

#[test]
fn the_hello_fixture_is_what_it_says() {
    let folder = hello(true);
    let ran = check(folder.path()).ended(0);
    assert_eq!(
        ran.json(),
        [json!({"event": "summary", "given": 745, "inputs": 0, "parsed": 745, "byte_exact": 745,
            "name_right": 745, "outputs_right": 745, "problems": 0})]
    );
    let ran = run(bare(&["derivation", "check", text(folder.path())])).ended(0);
    assert!(
        ran.text().starts_with("745 derivations: 745 parsed, 745 byte-exact, 745 with"),
        "{}",
        ran.text()
    );
}

#[test]
fn inputs_are_found_beside_the_file_and_in_the_store() {
    let folder = hello(false);
    let summary = &check(&folder.path().join(HELLO)).ended(0).json()[0];
    assert_eq!((&summary["given"], &summary["problems"]), (&json!(1), &json!(0)));
    assert!(summary["inputs"].as_u64().unwrap() > 100, "{summary}");

    let elsewhere = tempfile::tempdir().unwrap();
    let alone = elsewhere.path().join(HELLO);
    fs::rename(folder.path().join(HELLO), &alone).unwrap();
    run(bare(&["derivation", "check", text(&alone), "--store", text(folder.path())])).ended(0);
    // Without them its outputs cannot be computed, which is said.
    let ran = check(&alone).ended(1);
    assert_eq!((&ran.json()[1]["parsed"], &ran.json()[1]["outputs_right"]), (&json!(1), &json!(0)));
}

#[test]
fn what_is_not_right_is_named() {
    let folder = hello(false);
    let broken = named(folder.path(), "-hello-2.12.2.drv");
    let bytes = fs::read(&broken).unwrap();
    fs::write(&broken, &bytes[..bytes.len() - 1]).unwrap();
    let renamed = folder.path().join(HELLO.replace("2nfg", "3nfg"));
    fs::copy(folder.path().join(HELLO), &renamed).unwrap();
    // Another output path of the same length: it parses, and neither name nor outputs are right.
    let edited = folder.path().join("qzh7rvz609rm845xxf3jsasxzgbp208x-hello-2.12.2.drv");
    let text_of = String::from_utf8(fs::read(&edited).unwrap()).unwrap();
    let at = text_of.find("/gnu/store/").unwrap() + "/gnu/store/".len();
    fs::write(&edited, format!("{}0000{}", &text_of[..at], &text_of[at + 4..])).unwrap();

    let ran = check(folder.path()).ended(1);
    let lines = ran.json();
    let (summary, problems) = lines.split_last().unwrap();
    for file in [&broken, &renamed, &edited] {
        let name = file.file_name().unwrap().to_str().unwrap();
        assert!(problems.iter().any(|p| p["path"].as_str().unwrap().ends_with(name)), "{name}: {problems:?}");
    }
    assert_eq!((&summary["given"], &summary["parsed"]), (&json!(746), &json!(745)));
    assert_eq!(summary["name_right"], json!(743));
}

#[test]
fn files_that_are_not_there_or_not_named_as_derivations_are_said() {
    run(bare(&["derivation", "check", "/nonexistent.drv"])).ended(2);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hello.drv");
    fs::write(&file, "x").unwrap();
    let ran = check(&file).ended(1);
    assert!(ran.text().contains("hello.drv"), "{}", ran.text());
}

#[test]
fn paths_are_read_from_standard_input() {
    let folder = hello(false);
    let mut child = bare(&["derivation", "check", "-", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "{}", text(folder.path())).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().contains("\"given\":745"));
}
