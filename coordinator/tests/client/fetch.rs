//! `drover fetch`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use drover_store::Sha256Hash;
use serde_json::json;

use crate::double::{Double, Reply, Request};
use crate::{Ran, drover, run, text};

const ITEM: &str = "00a3xasf5iyzfv23danwy7pilf2yyxjz-tree";

/// The nar of a small tree, and the tree.
fn tree() -> (tempfile::TempDir, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let top = folder.path().join("tree");
    fs::create_dir_all(top.join("bin")).unwrap();
    fs::write(top.join("bin/hello"), "#!/bin/sh\necho hello\n").unwrap();
    fs::set_permissions(top.join("bin/hello"), fs::Permissions::from_mode(0o755)).unwrap();
    // What does not compress, so that there is something to break off in.
    let noise: Vec<u8> =
        (0..20_000_u32).flat_map(|i| Sha256Hash::of(&i.to_le_bytes()).base32().into_bytes()).collect();
    fs::write(top.join("noise"), noise).unwrap();
    std::os::unix::fs::symlink("bin/hello", top.join("link")).unwrap();
    let mut nar = Vec::new();
    drover_store::nar::pack(&top, &mut nar).unwrap();
    (folder, nar)
}

/// A coordinator that promises this nar, and answers requests for it with `serve`.
fn promising(nar: &[u8], serve: impl Fn(&Request, &[u8]) -> Reply + Send + Sync + 'static) -> Double {
    let compressed = zstd::encode_all(nar, 3).unwrap();
    let info = json!({
        "path": format!("/gnu/store/{ITEM}"), "nar_hash": Sha256Hash::of(nar).to_string(),
        "nar_size": nar.len(), "file_size": compressed.len(), "references": []
    });
    Double::new(move |request| match request.path.as_str() {
        path if path == format!("/v1/items/{ITEM}") => Reply::json(&info),
        path if path == format!("/v1/nars/{ITEM}") => serve(request, &compressed),
        _ => Reply::problem(404, "not-found", "the coordinator has no such item"),
    })
}

fn fetch(double: &Double, to: &Path) -> Ran {
    run(drover(double, &["fetch", &format!("/gnu/store/{ITEM}"), "--to", text(to)]))
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().next().is_none()
}

#[test]
fn an_item_is_unpacked_into_a_folder_or_under_a_new_name() {
    let (tree, nar) = tree();
    let double = promising(&nar, |_, nar| Reply::bytes(200, nar));
    let folder = tree.path().join("folder");
    fs::create_dir(&folder).unwrap();
    let new = tree.path().join("new/folder/name");
    for (to, at) in [(&folder, folder.join(ITEM)), (&new, new.clone())] {
        let ran = fetch(&double, to).ended(0);
        assert_eq!(ran.text().trim_end(), text(&at));
        let mut again = Vec::new();
        drover_store::nar::pack(&at, &mut again).unwrap();
        assert!(again == nar);
        assert_eq!(fs::read_dir(at.parent().unwrap()).unwrap().count(), 1);
    }
}

#[test]
fn a_download_that_breaks_goes_on_where_it_broke() {
    let (tree, nar) = tree();
    let double = promising(&nar, |request, nar| match request.range {
        None => Reply::bytes(200, nar).cut(nar.len() / 3),
        Some(from) if (from as usize) < nar.len() / 2 => {
            let from = from as usize;
            Reply::bytes(206, &nar[from..]).cut(nar.len() * 2 / 3 - from)
        }
        Some(from) => Reply::bytes(206, &nar[from as usize..]),
    });
    let to = tree.path().join("to");
    fetch(&double, &to).ended(0);
    let ranges: Vec<_> =
        double.requests().iter().filter(|r| r.path.contains("nars")).map(|r| r.range).collect();
    assert_eq!(ranges.len(), 3);
    assert!(ranges[0].is_none() && ranges[1] < ranges[2], "{ranges:?}");
    assert!(to.join("link").symlink_metadata().unwrap().is_symlink());
}

#[test]
fn nothing_is_left_of_what_is_not_what_was_promised() {
    let (tree, nar) = tree();
    let mut flipped = nar.clone();
    // In the contents of the large file: still a nar, with another hash.
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let truncated = nar[..nar.len() - 8].to_vec();
    let padded = [&nar[..], &[0; 8]].concat();
    for (what, other) in [("flipped", flipped), ("truncated", truncated), ("padded", padded)] {
        let compressed = zstd::encode_all(&other[..], 3).unwrap();
        // The right sizes on the wire, so that only the contents can tell.
        let double = promising(&nar, move |_, promised| {
            let mut bytes = compressed.clone();
            bytes.resize(promised.len(), 0);
            Reply::bytes(200, bytes)
        });
        let to = tree.path().join(what);
        fs::create_dir(&to).unwrap();
        let ran = fetch(&double, &to).ended(1);
        assert!(ran.stderr.contains("is not what the coordinator promised"), "{what}: {}", ran.stderr);
        assert!(is_empty(&to), "{what}");
    }
}

#[test]
fn what_is_no_zstd_is_refused() {
    let (tree, nar) = tree();
    let double = promising(&nar, |_, nar| Reply::bytes(200, vec![7; nar.len()]));
    let to = tree.path().join("to");
    fs::create_dir(&to).unwrap();
    fetch(&double, &to).ended(1);
    assert!(is_empty(&to));
}

#[test]
fn what_is_there_already_stays_as_it_is() {
    let (tree, nar) = tree();
    let double = promising(&nar, |_, nar| Reply::bytes(200, nar));
    fs::write(tree.path().join(ITEM), "mine").unwrap();
    fetch(&double, tree.path()).ended(2);
    assert_eq!(fs::read(tree.path().join(ITEM)).unwrap(), b"mine");
    assert!(double.requests().is_empty());
}

#[test]
fn an_item_that_the_coordinator_does_not_have_is_refused() {
    let double = Double::new(|_| Reply::problem(404, "not-found", "the coordinator has no such item"));
    let to = tempfile::tempdir().unwrap();
    let ran = fetch(&double, to.path()).ended(4);
    assert!(ran.stderr.contains(ITEM) && ran.stderr.contains("has no such item"), "{}", ran.stderr);
    assert!(is_empty(to.path()));
}

#[test]
fn a_coordinator_that_goes_away_once_is_asked_again() {
    let (tree, nar) = tree();
    let asked = AtomicUsize::new(0);
    let double = promising(&nar, move |_, nar| match asked.fetch_add(1, Ordering::Relaxed) {
        0 => Reply::none(),
        _ => Reply::bytes(200, nar),
    });
    let ran = fetch(&double, &tree.path().join("to")).ended(0);
    assert!(ran.stderr.contains("trying again"), "{}", ran.stderr);
}
