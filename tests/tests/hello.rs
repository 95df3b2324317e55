//! The closure of a real package, as Guix 1.5.0 made it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::PathBuf;

use drover_tests::demo::{fixture, untar};
use drover_tests::farm::{Farm, words};
use drover_tests::{ground, wait};
use drover_wire::BuildState;

/// Unpacks the fixtures into one folder, and says where hello's derivation is.
fn unpacked(farm: &Farm) -> (PathBuf, PathBuf) {
    let folder = farm.dir().join("hello");
    fs::create_dir(&folder).unwrap();
    for (name, bytes) in untar(&fixture("hello-drvs.tar.zst")).unwrap() {
        fs::write(folder.join(name), bytes).unwrap();
    }
    let archive = fs::File::open(fixture("hello-sources.tar.zst")).unwrap();
    let tar = folder.join("sources.tar");
    zstd::stream::copy_decode(archive, fs::File::create(&tar).unwrap()).unwrap();
    let status =
        std::process::Command::new("tar").arg("-xf").arg(&tar).arg("-C").arg(&folder).status().unwrap();
    assert!(status.success());
    fs::remove_file(tar).unwrap();
    let hello = folder.join("2nfg943asrl9dv64zrr1a4kpb25mfafd-hello-2.12.2.drv");
    (folder, hello)
}

#[test]
fn every_derivation_of_hello_checks_out() {
    let farm = Farm::start();
    let (folder, hello) = unpacked(&farm);
    let files: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "drv"))
        .collect();
    assert_eq!(files.len(), 745);
    let words_of = |files: &[PathBuf]| {
        let mut all = vec!["derivation".into(), "check".into()];
        all.extend(files.iter().map(|file| file.clone().into_os_string()));
        all
    };
    let output = farm.drover(words_of(&files));
    assert_eq!(output.status.code(), Some(0), "{}", words(&output));
    assert!(words(&output).contains("745"), "{}", words(&output));

    // One byte, and the check says which file it is in.
    let mut bytes = fs::read(&hello).unwrap();
    let place = bytes.windows(5).position(|window| window == b"hello").unwrap();
    bytes[place] = b'j';
    fs::write(&hello, bytes).unwrap();
    let output = farm.drover(words_of(&files));
    assert_eq!(output.status.code(), Some(1), "{}", words(&output));
    assert!(words(&output).contains("hello-2.12.2.drv"), "{}", words(&output));
}

#[test]
fn hello_is_accepted_and_what_cannot_be_downloaded_fails_as_such() {
    if !ground::available("hello") {
        return;
    }
    let farm = Farm::start();
    let (_, hello) = unpacked(&farm);
    let output = farm.drover(["build".as_ref(), hello.as_os_str()]);
    assert_eq!(output.status.code(), Some(0), "{}", words(&output));
    let build = farm
        .client
        .builds()
        .into_iter()
        .find(|build| build.derivation.base_name().starts_with("2nfg943a"))
        .expect("hello is there")
        .build;
    assert_eq!(farm.client.builds().len(), 228);

    let before = farm.drover(["show", &build.to_string()]);
    assert!(words(&before).contains("waits for"), "{}", words(&before));
    // Grounds have no network: downloads fail wherever this runs.
    let ground = farm.ground("one");
    let _agent = farm.agent("one", &ground, 4);
    let end = wait::until_within(std::time::Duration::from_secs(600), "hello should end", || {
        let details = farm.client.show(build);
        details.summary.state.is_final().then_some(details)
    });
    assert_eq!(end.summary.state, BuildState::DependencyFailed, "{}", end.why);
    let shown = words(&farm.drover(["show", &build.to_string()]));
    assert!(shown.contains("dependency-failed"), "{shown}");
    let failed: Vec<_> = farm.client.builds().into_iter().filter(|b| b.state == BuildState::Failed).collect();
    assert!(!failed.is_empty());
    for failed in failed {
        let details = farm.client.show(failed.build);
        assert!(details.why.contains("fail"), "{}: {}", failed.derivation, details.why);
        assert!(shown.contains("fail"), "{shown}");
    }
}
