use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Read, Write};

use proptest::prelude::*;

use super::*;
use crate::framing::push_bytes;

fn directory(entries: impl IntoIterator<Item = (&'static str, Node)>) -> Node {
    Node::Directory(entries.into_iter().map(|(name, node)| (name.as_bytes().to_vec(), node)).collect())
}

fn sample() -> Node {
    directory([
        (
            "bin",
            directory([("hello", Node::program("#!/bin/sh\n")), ("hi", Node::Symlink(b"hello".to_vec()))]),
        ),
        ("empty", Node::file("")),
        ("share", directory([])),
    ])
}

/// The bytes of a nar, string by string.
fn nar(strings: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for string in strings {
        push_bytes(&mut bytes, string);
    }
    bytes
}

/// A directory with these entries, each an empty file.
fn listing(names: &[&[u8]]) -> Vec<u8> {
    let mut strings: Vec<&[u8]> = vec![b"nix-archive-1", b"(", b"type", b"directory"];
    for name in names {
        let file: [&[u8]; 12] =
            [b"entry", b"(", b"name", name, b"node", b"(", b"type", b"regular", b"contents", b"", b")", b")"];
        strings.extend(file);
    }
    strings.push(b")");
    nar(&strings)
}

fn verify(bytes: &[u8], limits: Limits) -> Result<u64, Error> {
    let mut verifier = Verifier::new(limits);
    verifier.update(bytes)?;
    verifier.finish()
}

#[test]
fn a_file_has_the_nar_that_guix_makes() {
    let expected = nar(&[b"nix-archive-1", b"(", b"type", b"regular", b"contents", b"hello\n", b")"]);
    assert_eq!(Node::file("hello\n").to_nar(), expected);
    let executable =
        nar(&[b"nix-archive-1", b"(", b"type", b"regular", b"executable", b"", b"contents", b"x", b")"]);
    assert_eq!(Node::program("x").to_nar(), executable);
}

#[test]
fn names_that_lead_elsewhere_or_are_out_of_order_are_refused() {
    assert!(verify(&listing(&[b"a", b"b"]), Limits::default()).is_ok());
    for names in [
        [b"".as_slice(), b"b"],
        [b".", b"b"],
        [b"..", b"b"],
        [b"a/b", b"b"],
        [b"a\0", b"b"],
        [b"b", b"b"],
        [b"b", b"a"],
        [b"a", b".."],
    ] {
        let result = verify(&listing(&names), Limits::default());
        assert!(matches!(result, Err(Error::Name { .. })), "{names:?}");
    }
}

#[test]
fn a_nar_that_is_cut_padded_or_altered_in_its_zeros_is_refused() {
    let whole = sample().to_nar();
    assert_eq!(verify(&whole, Limits::default()).unwrap(), whole.len() as u64);
    for end in 0..whole.len() {
        let result = verify(&whole[..end], Limits::default());
        assert!(matches!(result, Err(Error::Truncated { .. })), "{end}");
    }
    let longer = [whole.as_slice(), b"\0"].concat();
    assert!(matches!(verify(&longer, Limits::default()), Err(Error::Trailing { .. })));
    let mut padded = Node::file("x").to_nar();
    // The contents are followed by 7 zeros and then by the closing parenthesis, 16 bytes.
    let place = padded.len() - 16 - 7;
    padded[place] = 1;
    assert!(matches!(verify(&padded, Limits::default()), Err(Error::Syntax { .. })));
}

#[test]
fn forms_that_guix_does_not_write_are_refused() {
    let head: [&[u8]; 3] = [b"nix-archive-1", b"(", b"type"];
    let refused: [&[&[u8]]; 6] = [
        &[b"regular", b")"],
        &[b"regular", b"executable", b"x", b"contents", b"", b")"],
        &[b"regular", b"contents", b"", b"contents", b"", b")"],
        &[b"symlink", b"target", b"", b")"],
        &[b"symlink", b"target", b"a\0b", b")"],
        &[b"fifo", b")"],
    ];
    for rest in refused {
        let bytes = nar(&[&head, rest].concat());
        assert!(matches!(verify(&bytes, Limits::default()), Err(Error::Syntax { .. })), "{rest:?}");
    }
}

#[test]
fn each_limit_holds_before_anything_is_kept() {
    let limits = Limits { name: 4, target: 4, depth: 2, contents: 8, entries: 3, ..Limits::default() };
    let refused = [
        directory([("abcde", Node::file(""))]),
        Node::Symlink(b"abcde".to_vec()),
        directory([("a", directory([("a", directory([]))]))]),
        directory([("a", Node::file("12345")), ("b", Node::file("1234"))]),
        directory(["a", "b", "c", "d"].map(|name| (name, Node::file("")))),
    ];
    for node in refused {
        assert!(matches!(verify(&node.to_nar(), limits), Err(Error::Limit { .. })), "{node:?}");
    }
    let within = directory([("a", directory([("abcd", Node::file("12345678"))])), ("b", Node::file(""))]);
    assert!(verify(&within.to_nar(), limits).is_ok());
    // A length of a name that no memory has.
    let mut huge = listing(&[b"a"]);
    let place = huge.windows(4).position(|bytes| bytes == b"name").unwrap() + 8;
    huge[place..place + 8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(matches!(verify(&huge, Limits::default()), Err(Error::Limit { found: u64::MAX, .. })));
}

#[test]
fn a_nar_within_a_protocol_leaves_what_follows_it() {
    let nar = sample().to_nar();
    let mut stream = Cursor::new([nar.as_slice(), b"and so on"].concat());
    assert_eq!(parse(&mut stream, Limits::default(), &mut ()).unwrap(), nar.len() as u64);
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "and so on");
}

#[test]
fn unpacking_touches_nothing_that_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let outside = folder.path().join("outside");
    fs::write(&outside, "untouched").unwrap();
    let dest = folder.path().join("dest");
    std::os::unix::fs::symlink(&outside, &dest).unwrap();
    for node in [Node::file("x"), Node::Symlink(b"x".to_vec()), directory([("a", Node::file("x"))])] {
        let result = unpack(&node.to_nar()[..], &dest, Limits::default());
        assert!(matches!(result, Err(Error::Tree { .. })), "{node:?}");
        assert_eq!(fs::read_to_string(&dest).unwrap(), "untouched");
    }
}

#[test]
fn a_link_is_not_walked_through() {
    // First a link `a` that leads out, then a directory of the same name with a file to write through it.
    let folder = tempfile::tempdir().unwrap();
    let strings: [&[u8]; 13] = [
        b"nix-archive-1",
        b"(",
        b"type",
        b"directory",
        b"entry",
        b"(",
        b"name",
        b"a",
        b"node",
        b"(",
        b"type",
        b"symlink",
        b"target",
    ];
    let target = folder.path().as_os_str().as_encoded_bytes();
    let mut bytes = nar(&strings);
    bytes.extend(nar(&[target, b")", b")", b"entry", b"(", b"name", b"a", b"node", b"("]));
    bytes.extend(nar(&[b"type", b"directory", b"entry", b"(", b"name", b"escaped", b"node"]));
    bytes.extend(nar(&[b"(", b"type", b"regular", b"contents", b"", b")", b")", b")", b")", b")"]));
    let dest = folder.path().join("dest");
    assert!(matches!(unpack(&bytes[..], &dest, Limits::default()), Err(Error::Name { .. })));
    assert!(!folder.path().join("escaped").exists());
    // And nothing is left of it.
    assert!(fs::symlink_metadata(&dest).is_err());

    // The same told to the unpacker directly, without a parser that would refuse.
    let mut unpacker = Unpacker::new(&dest);
    unpacker.directory().unwrap();
    assert!(unpacker.entry(b"../escaped").is_err());
    unpacker.entry(b"a").unwrap();
    unpacker.symlink(target).unwrap();
    unpacker.entry(b"a").unwrap();
    assert!(unpacker.directory().is_err());
}

#[test]
fn what_is_made_for_a_store_has_its_modes_and_time() {
    use std::os::unix::fs::MetadataExt;
    let folder = tempfile::tempdir().unwrap();
    // Deeper than folders are kept open for.
    let mut tree = Node::Directory([(b"file".to_vec(), Node::file(*b"x"))].into());
    for _ in 0..50 {
        let link = (b"link".to_vec(), Node::Symlink(b"gone".to_vec()));
        let run = (b"run".to_vec(), Node::program(*b"x"));
        tree = Node::Directory([(b"deeper".to_vec(), tree), link, run].into());
    }
    let nar = tree.to_nar();
    let dest = folder.path().join("dest");
    unpack_for_store(&nar[..], &dest, Limits::default()).unwrap();
    let mut at = dest.clone();
    let form = |path: &std::path::Path| {
        let metadata = fs::symlink_metadata(path).unwrap();
        (metadata.mode() & 0o7777, metadata.mtime(), metadata.mtime_nsec())
    };
    for _ in 0..50 {
        assert_eq!(form(&at), (0o555, 1, 0), "{}", at.display());
        assert_eq!(form(&at.join("run")), (0o555, 1, 0));
        assert_eq!(form(&at.join("link")), (0o777, 1, 0));
        at.push("deeper");
    }
    assert_eq!(form(&at.join("file")), (0o444, 1, 0));
    let mut again = Vec::new();
    pack(&dest, &mut again).unwrap();
    assert!(again == nar, "it should be the same tree");
}

#[test]
fn what_follows_a_nar_undoes_its_unpacking() {
    let folder = tempfile::tempdir().unwrap();
    let dest = folder.path().join("dest");
    let bytes = [sample().to_nar().as_slice(), b"more"].concat();
    assert!(matches!(unpack(&bytes[..], &dest, Limits::default()), Err(Error::Trailing { .. })));
    assert!(!dest.exists());
}

#[test]
fn what_a_nar_cannot_hold_is_not_packed() {
    let folder = tempfile::tempdir().unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
    assert!(matches!(pack(folder.path(), Vec::new()), Err(Error::Unfit { .. })));
    assert!(matches!(pack(&folder.path().join("none"), Vec::new()), Err(Error::Tree { .. })));
}

fn names() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        "[a-z.]{1,6}".prop_map(String::into_bytes),
        proptest::collection::vec((1u8..).prop_filter("a slash", |byte| *byte != b'/'), 1..20),
    ]
    .prop_filter("a dot", |name| name != b"." && name != b"..")
}

fn nodes() -> impl Strategy<Value = Node> {
    let leaves = prop_oneof![
        (any::<bool>(), any::<Vec<u8>>())
            .prop_map(|(executable, contents)| Node::File { executable, contents }),
        proptest::collection::vec(1u8.., 1..40).prop_map(Node::Symlink),
    ];
    leaves.prop_recursive(4, 24, 5, |inner| {
        proptest::collection::btree_map(names(), inner, 0..5)
            .prop_map(|entries: BTreeMap<_, _>| Node::Directory(entries))
    })
}

proptest! {
    #[test]
    fn pieces_of_any_size_mean_the_same(node in nodes(), sizes in proptest::collection::vec(1usize..40, 1..20)) {
        let bytes = node.to_nar();
        let (mut parser, mut copy) = (Parser::new(Limits::default()), Writer::new(Vec::new()));
        let (mut rest, mut sizes) = (&bytes[..], sizes.into_iter().cycle());
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(sizes.next().unwrap().min(rest.len()));
            prop_assert_eq!(parser.push(piece, &mut copy).unwrap(), piece.len());
            rest = after;
        }
        prop_assert!(parser.is_done());
        prop_assert_eq!(copy.finish().unwrap(), bytes);
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        node in nodes(),
        place in any::<proptest::sample::Index>(),
        noise in proptest::collection::vec(any::<u8>(), 0..16),
        size in 1usize..30,
    ) {
        let mut bytes = node.to_nar();
        let place = place.index(bytes.len());
        bytes.splice(place.., noise);
        let whole = verify(&bytes, Limits::default()).is_ok();
        let mut verifier = Verifier::new(Limits::default());
        let pieces = bytes.chunks(size).all(|piece| verifier.write_all(piece).is_ok());
        prop_assert_eq!(pieces && verifier.finish().is_ok(), whole);
    }
}

#[test]
fn a_tree_of_more_entries_or_depth_than_accepted_is_packed_no_further() {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    unpack(&sample().to_nar()[..], &tree, Limits::default()).unwrap();
    let packed = |limits: Limits| Packer::within(&tree, limits).read_to_end(&mut Vec::new());
    let all = Limits { entries: 5, depth: 2, ..Limits::default() };
    assert_eq!(packed(all).unwrap(), sample().to_nar().len());
    for less in [Limits { entries: 4, ..all }, Limits { depth: 1, ..all }] {
        assert_eq!(packed(less).unwrap_err().kind(), std::io::ErrorKind::InvalidData);
    }
    let mut head = Vec::new();
    Packer::within(&tree, Limits { entries: 2, ..all }).read_to_end(&mut head).unwrap_err();
    assert!(!head.windows(3).any(|bytes| bytes == b"bin"), "a folder was listed to its end");
}

#[test]
fn names_are_in_memory_only_as_far_as_that_is_accepted_and_only_while_they_are_needed() {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    for side in ["a", "b"] {
        std::fs::create_dir_all(tree.join(side)).unwrap();
        for file in ["1", "2", "3"] {
            std::fs::write(tree.join(side).join(file), "").unwrap();
        }
    }
    let packed = |names| {
        let limits = Limits { names, ..Limits::default() };
        Packer::within(&tree, limits).read_to_end(&mut Vec::new())
    };
    // Those at the top, and those in one of the two.
    let most = 5 * name_cost(1);
    packed(most).unwrap();
    assert!(packed(most - 1).unwrap_err().to_string().contains("too many names"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_unpacked_packs_to_the_same_nar(node in nodes(), size in 1usize..5000) {
        let bytes = node.to_nar();
        let folder = tempfile::tempdir().unwrap();
        let dest = folder.path().join("dest");
        let unpacked = unpack(&bytes[..], &dest, Limits::default()).unwrap();
        prop_assert_eq!(unpacked.nar_size, bytes.len() as u64);
        let mut packed = Vec::new();
        let summary = pack(&dest, &mut packed).unwrap();
        prop_assert_eq!(&packed, &bytes);
        prop_assert_eq!(summary.nar_size, unpacked.nar_size);
        let (mut packer, mut read, mut buffer) = (Packer::new(&dest), Vec::new(), vec![0; size]);
        loop {
            match packer.read(&mut buffer).unwrap() {
                0 => break,
                len => read.extend_from_slice(&buffer[..len]),
            }
        }
        prop_assert_eq!(read, bytes);
    }
}
