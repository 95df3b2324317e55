//! Imports into a real store, from a coordinator that may be broken or bad.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use drover_store::Sha256Hash;
use drover_store::key::SecretKey;
use drover_store::nar::Node;
use drover_store::path::{self, StorePath};
use drover_store::{Sha256, export};
use tempfile::TempDir;

use super::*;

/// A store, and a key that is trusted.
struct Ground {
    folder: TempDir,
    store: Arc<Store>,
    key: SecretKey,
    keys: Acl,
    stop: Stopping,
}

impl Ground {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let roots = folder.path().join("roots");
        std::fs::create_dir(&roots).unwrap();
        let store = Arc::new(Store::open(&folder.path().join("root"), &roots).unwrap());
        let key = SecretKey::generate().unwrap();
        let keys = [*key.public()].into_iter().collect();
        Self { folder, store, key, keys, stop: Stopping::new().unwrap() }
    }

    /// What the coordinator says of an item with this nar.
    fn info(&self, path: &StorePath, nar: &[u8], references: &[&StorePath]) -> ItemInfo {
        let mut references: Vec<StorePath> = references.iter().map(|path| (*path).clone()).collect();
        references.sort();
        let mut state = Sha256::new();
        state.update(nar);
        let hash = export::export_hash(state, path, &references, None);
        ItemInfo {
            path: path.clone(),
            nar_hash: Sha256Hash::of(nar),
            nar_size: nar.len() as u64,
            file_size: 0,
            references,
            deriver: None,
            import_signature: Some(self.key.sign(&hash).to_text()),
        }
    }

    fn import(&self, items: &[ItemInfo], from: &dyn Nars) -> Result<(), Error> {
        let mut hold = self.store.hold([]);
        import(&self.store, &mut hold, &self.keys, &items.iter().collect::<Vec<_>>(), from, &self.stop)
    }

    /// Which of these the store has; nothing may be left over of the others.
    fn present(&self, items: &[ItemInfo]) -> Vec<bool> {
        let making = self.folder.path().join("root/gnu/store/.drover/making");
        assert_eq!(std::fs::read_dir(making).unwrap().count(), 0, "something is left in the making");
        let there = |item: &ItemInfo| {
            let there = self.store.has(&item.path);
            assert_eq!(
                std::fs::symlink_metadata(self.store.on_disk(&item.path)).is_ok(),
                there,
                "{}",
                item.path
            );
            there
        };
        items.iter().map(there).collect()
    }
}

/// Nars at hand.
#[derive(Default)]
struct AtHand {
    nars: BTreeMap<StorePath, Vec<u8>>,
    opened: AtomicUsize,
}

impl Nars for AtHand {
    fn open<'a>(&'a self, item: &'a ItemInfo) -> io::Result<Box<dyn Read + Send + 'a>> {
        self.opened.fetch_add(1, Ordering::SeqCst);
        match self.nars.get(&item.path) {
            Some(nar) => Ok(Box::new(&nar[..])),
            None => Err(io::Error::from(io::ErrorKind::ConnectionReset)),
        }
    }
}

fn path(name: &str) -> StorePath {
    path::text(name, b"", &[]).unwrap()
}

fn nar(text: &str) -> Vec<u8> {
    let file = Node::program(text.as_bytes());
    let folder =
        BTreeMap::from([(b"bin".to_vec(), file), (b"link".to_vec(), Node::Symlink(b"bin".to_vec()))]);
    Node::Directory(folder).to_nar()
}

/// Items of these names with the names that they refer to, and their nars.
fn items(ground: &Ground, names: &[(&str, &[&str])]) -> (Vec<ItemInfo>, AtHand) {
    let mut from = AtHand::default();
    let items = names.iter().map(|(name, references)| {
        let references: Vec<StorePath> = references.iter().map(|name| path(name)).collect();
        from.nars.insert(path(name), nar(name));
        ground.info(&path(name), &nar(name), &references.iter().collect::<Vec<_>>())
    });
    (items.collect(), from)
}

#[test]
fn items_arrive_with_their_references_and_the_form_of_a_store() {
    let ground = Ground::new();
    let (items, from) = items(&ground, &[("a", &[]), ("b", &["a", "b"]), ("c", &["b"]), ("d", &["a", "c"])]);
    ground.import(&items, &from).unwrap();
    assert_eq!(ground.present(&items), [true; 4]);
    for item in &items {
        let there = ground.store.item(&item.path).unwrap().unwrap();
        assert_eq!(there, super::item(item));
        let mut packed = Vec::new();
        drover_store::nar::pack(&ground.store.on_disk(&item.path), &mut packed).unwrap();
        assert_eq!(Sha256Hash::of(&packed), item.nar_hash);
    }
    // Once more changes nothing, and none is no trouble.
    ground.import(&items, &from).unwrap();
    ground.import(&[], &from).unwrap();
    assert_eq!(ground.present(&items), [true; 4]);
}

#[test]
fn what_comes_before_its_references_waits_for_them() {
    /// The first item is only had when all others of the first four are asked for.
    struct LastFirst(AtHand, StorePath, Mutex<mpsc::Receiver<()>>, mpsc::Sender<()>);
    impl Nars for LastFirst {
        fn open<'a>(&'a self, item: &'a ItemInfo) -> io::Result<Box<dyn Read + Send + 'a>> {
            if item.path == self.1 {
                let others = self.2.lock().unwrap();
                (1..arrivals::AT_A_TIME).for_each(|_| others.recv().unwrap());
            } else {
                self.3.send(()).unwrap();
            }
            self.0.open(item)
        }
    }
    let ground = Ground::new();
    let names: Vec<String> = (0..20).map(|n| format!("item-{n}")).collect();
    let references: Vec<Vec<&str>> =
        (0..20).map(|n| names[..n].iter().map(String::as_str).collect()).collect();
    let all: Vec<(&str, &[&str])> =
        names.iter().map(String::as_str).zip(references.iter().map(Vec::as_slice)).collect();
    let (items, from) = items(&ground, &all);
    let (send, receive) = mpsc::channel();
    let from = LastFirst(from, path("item-0"), Mutex::new(receive), send);
    ground.import(&items, &from).unwrap();
    assert_eq!(ground.present(&items), [true; 20]);
}

#[test]
fn a_key_that_is_not_trusted_is_said_before_anything_is_fetched() {
    let (ground, stranger) = (Ground::new(), Ground::new());
    let (mut all, from) = items(&ground, &[("a", &[]), ("b", &["a"])]);
    all[1] = items(&stranger, &[("b", &["a"])]).0.remove(0);
    let Err(Error::Untrusted(words)) = ground.import(&all, &from) else {
        panic!("a stranger's key was taken")
    };
    assert!(words.contains("--authorized-keys") && words.contains("drover key show"), "{words}");
    assert!(words.contains(&stranger.key.public().to_string()), "{words}");
    assert_eq!(from.opened.load(Ordering::SeqCst), 0);
    assert_eq!(ground.present(&all), [false; 2]);
}

#[test]
fn a_signature_of_something_else_is_refused() {
    let ground = Ground::new();
    let (all, from) = items(&ground, &[("a", &[]), ("b", &[])]);
    let mut moved = all[0].clone();
    moved.import_signature.clone_from(&all[1].import_signature);
    let mut more = all[0].clone();
    more.references = vec![path("a")];
    let mut other = all[0].clone();
    other.deriver = Some(path("x.drv"));
    let mut none = all[0].clone();
    none.import_signature = Some("(signature)".to_owned());
    for bad in [moved, more, other, none] {
        let result = ground.import(std::slice::from_ref(&bad), &from);
        assert!(matches!(result, Err(Error::Untrusted(_))), "{result:?}");
        assert_eq!(ground.present(&[bad]), [false]);
    }
    let mut absent = all.clone();
    absent[0].import_signature = None;
    let Err(Error::Refused(words)) = ground.import(&absent, &from) else { panic!("no signature was taken") };
    assert!(words.contains("no signature"), "{words}");
    assert!(!ground.store.has(&path("a")));
}

#[test]
fn another_nar_than_was_announced_is_refused_and_leaves_nothing() {
    let ground = Ground::new();
    let good = nar("a");
    let longer = [&good[..], b"more"].concat();
    let deeper = Node::Directory(BTreeMap::from([(b"x".to_vec(), Node::file(vec![7; 100_000]))])).to_nar();
    for bad in [&nar("b")[..], &good[..good.len() - 8], &longer, b"no nar at all", b"", &deeper] {
        let (items, mut from) = items(&ground, &[("a", &[])]);
        from.nars.insert(path("a"), bad.to_vec());
        let error = ground.import(&items, &from).unwrap_err();
        assert!(matches!(error, Error::Refused(_) | Error::Stream { .. }), "{error:?}");
        assert!(error.to_string().contains(path("a").as_str()), "{error}");
        assert_eq!(ground.present(&items), [false]);
    }
}

#[test]
fn what_refers_to_something_that_nobody_has_is_left_out_with_all_above_it() {
    let ground = Ground::new();
    let (items, from) = items(&ground, &[("a", &["nobody"]), ("b", &["a"]), ("c", &["b"]), ("d", &[])]);
    ground.import(&items, &from).unwrap();
    assert_eq!(ground.present(&items), [false, false, false, true]);
    assert_eq!(from.opened.load(Ordering::SeqCst), 1);
}

#[test]
fn a_circle_of_references_is_refused() {
    let ground = Ground::new();
    let (items, from) = items(&ground, &[("a", &["b"]), ("b", &["a"])]);
    let Err(Error::Refused(words)) = ground.import(&items, &from) else { panic!("a circle was placed") };
    assert!(words.contains("circle"), "{words}");
    assert_eq!(ground.present(&items), [false; 2]);
}

#[test]
fn a_nar_that_cannot_be_had_ends_it_and_what_was_placed_stays() {
    let ground = Ground::new();
    let (items, mut from) = items(&ground, &[("a", &[]), ("b", &["a"])]);
    ground.import(&items[..1], &from).unwrap();
    from.nars.remove(&path("b"));
    let error = ground.import(&items[1..], &from).unwrap_err();
    assert!(matches!(error, Error::Stream { .. }), "{error:?}");
    assert_eq!(ground.present(&items), [true, false]);
}

#[test]
fn a_stop_ends_an_import_within_a_nar() {
    /// Says the word when it is read.
    struct Saying<'a>(&'a Stopping);
    impl Nars for Saying<'_> {
        fn open<'a>(&'a self, _: &'a ItemInfo) -> io::Result<Box<dyn Read + Send + 'a>> {
            self.0.stop();
            Ok(Box::new(io::repeat(0)))
        }
    }
    let ground = Ground::new();
    let (items, _) = items(&ground, &[("a", &[]), ("b", &["a"])]);
    let result = ground.import(&items, &Saying(&ground.stop));
    assert!(matches!(result, Err(Error::Away(_))), "{result:?}");
    assert_eq!(ground.present(&items), [false; 2]);
}
