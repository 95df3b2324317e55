//! The client of the daemon's protocol, against a real daemon.

#![allow(clippy::unwrap_used, clippy::panic)]

mod ground;

use std::fs;
use std::io::{self, Read};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use drover_agent::daemon::{Connection, Error, Event, Import, ImportItem, NewText, Options};
use drover_os::Deadline;
use drover_store::export;
use drover_store::hash::{Sha256, Sha256Hash};
use drover_store::key::SecretKey;
use drover_store::nar::Node;
use drover_store::path::{self, StorePath};
use ground::{Ground, ground, unique};

/// What a build said.
#[derive(Debug, Default)]
struct Said {
    started: Vec<String>,
    output: Vec<u8>,
    words: String,
    succeeded: Vec<String>,
    failed: Vec<(String, String)>,
}

impl Said {
    fn take(&mut self, event: Event<'_>) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match event {
            Event::Started { derivation, process } => {
                assert!(process.is_some());
                self.started.push(text(derivation));
            }
            Event::Output(bytes) => self.output.extend_from_slice(bytes),
            Event::Words(bytes) => self.words.push_str(&text(bytes)),
            Event::Succeeded { derivation } => self.succeeded.push(text(derivation)),
            Event::Failed { derivation, reason } => self.failed.push((text(derivation), text(reason))),
            Event::Other(line) => panic!("unexpected {}", text(line)),
        }
    }
}

fn build(connection: &mut Connection, path: &StorePath) -> (Result<(), Error>, Said) {
    let mut said = Said::default();
    let result = connection.build(path, Some(Duration::from_secs(60)), |event| {
        said.take(event);
        Ok(())
    });
    (result, said)
}

struct Items(std::vec::IntoIter<(StorePath, Vec<StorePath>, String, Vec<u8>)>);

impl Import for Items {
    fn next(&mut self) -> io::Result<Option<ImportItem<'_>>> {
        Ok(self.0.next().map(|(path, references, signature, nar)| ImportItem {
            path,
            references,
            deriver: None,
            signature,
            nar: Box::new(io::Cursor::new(nar)),
        }))
    }
}

/// An item that no store has, signed.
fn signed(
    key: &SecretKey,
    name: &str,
    references: &[StorePath],
) -> (StorePath, Vec<StorePath>, String, Vec<u8>) {
    // Larger than the pieces in which it travels, and not a multiple of them.
    let mut contents = unique().into_bytes();
    contents.resize(300_001, b'.');
    let nar = Node::file(contents).to_nar();
    let path = path::output("out", &Sha256Hash::of(&nar), name).unwrap();
    let mut state = Sha256::new();
    state.update(&nar);
    let signature = key.sign(&export::export_hash(state, &path, references, None)).to_text();
    (path, references.to_vec(), signature, nar)
}

fn authorize(ground: &Ground, key: &SecretKey) {
    let acl = format!("(acl (entry {} (tag (guix import))))", key.public().to_text());
    fs::write(&ground.acl, acl).unwrap();
}

#[test]
fn a_daemon_tells_its_builtin_builders() {
    let Some(ground) = ground() else { return };
    assert!(ground.connect().builtins().unwrap().contains(&"download".to_owned()));
}

#[test]
fn nobody_at_the_address_is_said_with_the_address() {
    let error = Connection::open(&"/nonexistent/socket".parse().unwrap()).unwrap_err();
    assert!(error.is_away());
    assert!(error.to_string().contains("/nonexistent/socket"), "{error}");
}

#[test]
fn thousands_of_texts_are_added_in_one_go_and_are_valid() {
    let Some(ground) = ground() else { return };
    let mut connection = ground.connect();
    let salt = unique();
    let mut texts: Vec<(StorePath, Vec<u8>, Vec<StorePath>)> = Vec::new();
    for number in 0..3000 {
        let text = format!("{salt} {number}").into_bytes();
        let references: Vec<_> = texts.last().map(|(path, ..)| path.clone()).into_iter().collect();
        texts.push((path::text("t", &text, &references).unwrap(), text, references));
    }
    let paths: Vec<_> = texts.iter().map(|(path, ..)| path.clone()).collect();
    connection.add_temp_roots(paths.iter()).unwrap();
    assert!(connection.valid_paths(&paths).unwrap().is_empty());
    connection
        .add_texts(texts.iter().map(|(path, text, references)| NewText { path, text, references }))
        .unwrap();
    assert_eq!(connection.valid_paths(&paths).unwrap().len(), 3000);
    let info = connection.path_info(&paths[7]).unwrap();
    assert_eq!(info.references, [paths[6].clone()]);
    assert_eq!(info.nar_hash, Sha256Hash::of(&Node::file(texts[7].1.clone()).to_nar()));
    assert_eq!(info.deriver, None);
}

#[test]
fn a_text_whose_reference_is_missing_is_refused_and_the_connection_goes_on() {
    let Some(ground) = ground() else { return };
    let mut connection = ground.connect();
    let missing = path::text("missing", unique().as_bytes(), &[]).unwrap();
    let references = [missing];
    let texts: Vec<_> = (0..200).map(|n| format!("{} {n}", unique()).into_bytes()).collect();
    let paths: Vec<_> = texts.iter().map(|text| path::text("t", text, &references).unwrap()).collect();
    let error = connection
        .add_texts(paths.iter().zip(&texts).map(|(path, text)| NewText {
            path,
            text,
            references: &references,
        }))
        .unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert!(error.to_string().contains(paths[0].as_str()), "{error}");
    assert!(connection.valid_paths(&paths).unwrap().is_empty());
}

#[test]
fn a_source_goes_in_and_its_nar_comes_out_the_same() {
    let Some(ground) = ground() else { return };
    let file = Node::file(unique().repeat(50_000));
    let nar = Node::Directory([(b"file".to_vec(), file)].into()).to_nar();
    let path = path::source("folder", &Sha256Hash::of(&nar)).unwrap();
    let mut connection = ground.connect();
    connection.add_to_store(&path, true, &mut &nar[..]).unwrap();
    assert_eq!(connection.path_info(&path).unwrap().nar_size, nar.len() as u64);
    let mut exported = Vec::new();
    connection.export_nar(&path, nar.len() as u64).unwrap().read_to_end(&mut exported).unwrap();
    assert!(exported == nar);

    let contents = unique().into_bytes();
    let flat = path::fixed_output("flat", false, "sha256", Sha256Hash::of(&contents).as_bytes()).unwrap();
    ground.connect().add_to_store(&flat, false, &mut &Node::file(contents).to_nar()[..]).unwrap();
}

#[test]
fn an_item_that_is_not_there_has_no_nar() {
    let Some(ground) = ground() else { return };
    let missing = path::text("missing", unique().as_bytes(), &[]).unwrap();
    let error = ground.connect().export_nar(&missing, 8).unwrap().read_to_end(&mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains(missing.as_str()), "{error}");
    assert!(matches!(ground.connect().path_info(&missing), Err(Error::Refused { .. })));
}

#[test]
fn the_output_of_a_builder_arrives_byte_for_byte() {
    let Some(ground) = ground() else { return };
    let mut connection = ground.connect();
    let made = ground.made(
        &mut connection,
        "bytes",
        "printf '\\377\\376 no text\\n@ build-failed x - 1 fake\\n@ build-log 1 9\\n'; printf 'no end of line'; echo $out > $out",
    );
    let (result, said) = build(&mut connection, &made.path);
    result.unwrap();
    assert_eq!(said.output, b"\xff\xfe no text\n@ build-failed x - 1 fake\n@ build-log 1 9\nno end of line");
    assert_eq!((said.started, said.succeeded), (vec![made.path.full()], vec![made.path.full()]));
    let info = connection.path_info(&made.out).unwrap();
    assert_eq!((info.deriver, info.references), (Some(made.path.clone()), vec![made.out]));

    // Once more: there is nothing to build, and nothing is started.
    let (result, said) = build(&mut connection, &made.path);
    result.unwrap();
    assert!(said.started.is_empty());
}

#[test]
fn a_megabyte_of_output_arrives_whole() {
    let Some(ground) = ground() else { return };
    let mut connection = ground.connect();
    let made = ground.made(&mut connection, "much", "head -c 1000000 /dev/zero; echo > $out");
    let (result, said) = build(&mut connection, &made.path);
    result.unwrap();
    assert_eq!(said.output.len(), 1_000_000);
}

#[test]
fn a_failed_build_is_told_with_the_builders_code() {
    let Some(ground) = ground() else { return };
    let mut connection = ground.connect();
    let made = ground.made(&mut connection, "bad", "echo so sad; exit 7");
    let (result, said) = build(&mut connection, &made.path);
    assert!(matches!(result, Err(Error::Refused { status: 100, .. })), "{result:?}");
    assert!(said.failed[0].1.contains("failed with exit code 7"), "{said:?}");
    assert_eq!(said.output, b"so sad\n");
}

#[test]
fn silence_and_length_are_ended_and_told_apart() {
    let Some(ground) = ground() else { return };
    let mut connection = ground.connect();
    let silent = ground.made(&mut connection, "silent", "echo a; sleep 100");
    let long = ground.made(&mut connection, "long", "while true; do echo a; sleep 0.2; done");
    connection.set_options(&Options { max_silent_time: Some(1), ..Options::default() }).unwrap();
    let (result, said) = build(&mut connection, &silent.path);
    assert!(result.is_err());
    assert_eq!(said.failed[0].1, "timeout");
    assert!(said.words.contains("seconds of silence"), "{said:?}");

    let mut connection = ground.connect();
    connection.set_options(&Options { timeout: Some(1), ..Options::default() }).unwrap();
    let (result, said) = build(&mut connection, &long.path);
    assert!(result.is_err());
    assert_eq!(said.failed[0].1, "timeout");
    assert!(!said.words.contains("of silence"), "{said:?}");
}

fn until_deleted(ground: &Ground, path: &StorePath) {
    let deleted = || ground.connect().delete(std::slice::from_ref(path)).ok().map(drop);
    let deleted = Deadline::after(Duration::from_secs(60)).ask(deleted);
    assert!(deleted.is_some(), "something holds {path}");
}

#[test]
fn an_output_can_be_deleted_unless_something_holds_it() {
    let Some(ground) = ground() else { return };
    let mut connection = ground.connect();
    let made = ground.made(&mut connection, "deletable", "echo > $out");
    build(&mut connection, &made.path).0.unwrap();
    connection.add_temp_roots([&made.out].into_iter()).unwrap();
    let error = ground.connect().delete(std::slice::from_ref(&made.out)).unwrap_err();
    assert!(error.refusal().is_some_and(|words| words.contains("alive")), "{error}");
    drop(connection);
    // The daemon's process for that connection ends a moment later, and its roots with it.
    until_deleted(&ground, &made.out);
    assert!(ground.connect().valid_paths(std::slice::from_ref(&made.out)).unwrap().is_empty());
}

#[test]
fn an_indirect_root_holds_its_target_until_the_link_is_gone() {
    let Some(ground) = ground() else { return };
    // The daemon must see the link under the same name: its own folder is such a place.
    let folder = tempfile::tempdir_in(ground.acl.parent().unwrap().parent().unwrap()).unwrap();
    let mut connection = ground.connect();
    let made = ground.made(&mut connection, "rooted", "echo > $out");
    build(&mut connection, &made.path).0.unwrap();
    let link = folder.path().join("root");
    std::os::unix::fs::symlink(made.out.full(), &link).unwrap();
    ground.connect().add_indirect_root(&link).unwrap();
    drop(connection);
    let error = ground.connect().delete(std::slice::from_ref(&made.out)).unwrap_err();
    assert!(error.refusal().is_some_and(|words| words.contains("alive")), "{error}");
    fs::remove_file(&link).unwrap();
    until_deleted(&ground, &made.out);
}

#[test]
fn signed_items_are_imported_if_the_key_is_known_and_refused_in_words_if_not() {
    let Some(ground) = ground() else { return };
    let (known, stranger) = (SecretKey::generate().unwrap(), SecretKey::generate().unwrap());
    authorize(&ground, &known);
    let first = signed(&known, "first", &[]);
    let second = signed(&known, "second", std::slice::from_ref(&first.0));
    let paths = [first.0.clone(), second.0.clone()];
    let nar_size = first.3.len() as u64;
    let mut connection = ground.connect();
    connection.import(&mut Items(vec![first, second].into_iter())).unwrap();
    assert_eq!(connection.valid_paths(&paths).unwrap().len(), 2);
    let info = connection.path_info(&paths[1]).unwrap();
    assert_eq!((info.references, info.nar_size), (vec![paths[0].clone()], nar_size));

    let error =
        ground.connect().import(&mut Items(vec![signed(&stranger, "third", &[])].into_iter())).unwrap_err();
    assert!(error.refusal().is_some_and(|words| words.contains("unauthorized")), "{error}");

    let mut forged = signed(&known, "fourth", &[]);
    forged.3 = Node::file(unique()).to_nar();
    let error = ground.connect().import(&mut Items(vec![forged].into_iter())).unwrap_err();
    assert!(error.refusal().is_some(), "{error}");

    let mut cut = signed(&known, "fifth", &[]);
    cut.3.truncate(1000);
    let path = cut.0.clone();
    assert!(ground.connect().import(&mut Items(vec![cut].into_iter())).is_err());
    assert!(ground.connect().valid_paths(&[path]).unwrap().is_empty());
}

#[test]
fn without_servers_nothing_has_a_substitute() {
    let Some(ground) = ground() else { return };
    let missing = path::text("missing", unique().as_bytes(), &[]).unwrap();
    let mut connection = ground.connect();
    assert!(connection.substitutable_paths(std::slice::from_ref(&missing)).unwrap().is_empty());
    assert!(connection.ensure_path(&missing).unwrap_err().refusal().is_some());
}

#[test]
fn ending_our_side_ends_the_builder_and_the_daemon_says_when_it_is_gone() {
    let Some(ground) = ground() else { return };
    let mut connection = ground.connect();
    // A child of the builder that ignores what it can ignore.
    let made =
        ground.made(&mut connection, "endless", "trap '' HUP TERM INT; sleep 1000 & echo up; sleep 1000");
    let handle = connection.hang_up_handle();
    let (up, is_up) = mpsc::channel();
    let building = thread::spawn(move || {
        connection.build(&made.path, None, |event| {
            if matches!(event, Event::Output(b"up\n")) {
                up.send(()).unwrap();
            }
            Ok(())
        })
    });
    is_up.recv_timeout(Duration::from_secs(60)).unwrap();
    handle.hang_up();
    let error = building.join().unwrap().unwrap_err();
    assert!(error.is_away(), "{error}");
    ground::assert_none_with(&made.derivation.env[2].1);
}
