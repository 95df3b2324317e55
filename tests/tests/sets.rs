//! From the packages of a real Guix to a set that stands on the farm: the feeding script, and what is done with its rows.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::PathBuf;

use drover_store::derivation::Derivation;
use drover_store::path::StorePath;
use drover_tests::demo::fixture;
use drover_tests::farm::{Farm, words};
use drover_tests::ground::{self, Ground};
use drover_wire::set::{DifferenceKind, Row, RowWanted, SetDetails, SetDiff, SetSubmitted};

/// What is fed for: two systems, and a target from one of them.
const SYSTEMS: &[&str] =
    &["--system=x86_64-linux", "--system=riscv64-linux", "--target=i586-pc-gnu", "--cross-from=x86_64-linux"];
/// What the module with troubles has that cannot be evaluated.
const TROUBLE: &[&str] = &["raises", "leaves", "wants-a-build", "goes-round"];

/// A Guix to feed from: no agent, nothing in the store.
struct Feeder {
    ground: Ground,
}

/// What a feeding left.
struct Fed {
    code: Option<i32>,
    rows: Vec<u8>,
    notes: String,
}

impl Feeder {
    fn start(farm: &Farm) -> Self {
        let ground = farm.stranger_ground("guix");
        let feeder = Self { ground };
        feeder.put("feed.scm", &fs::read(drover_tests::top().join("targets/guix/feed.scm")).unwrap());
        feeder.put("packages.scm", &fs::read(fixture("feed/packages.scm")).unwrap());
        let trouble = "modules/farm/trouble.scm";
        feeder.put(trouble, &fs::read(fixture("feed").join(trouble)).unwrap());
        feeder
    }

    /// Where a file is, for Guix and for everybody else.
    fn path(&self, name: &str) -> String {
        self.ground.dir.join(name).to_str().unwrap().to_owned()
    }

    fn put(&self, name: &str, contents: &[u8]) {
        let file = PathBuf::from(self.path(name));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, contents).unwrap();
    }

    fn feed(&self, folders: &[&str], options: &[&str]) -> Fed {
        let mut line = vec!["guix".to_owned(), "repl".to_owned()];
        line.extend(folders.iter().flat_map(|folder| ["-L".to_owned(), self.path(folder)]));
        line.extend(["--".to_owned(), self.path("feed.scm")]);
        line.extend(options.iter().map(|option| (*option).to_owned()));
        let output = self.ground.run(&line.iter().map(String::as_str).collect::<Vec<_>>());
        let notes = String::from_utf8_lossy(&output.stderr).into_owned();
        Fed { code: output.status.code(), rows: output.stdout, notes }
    }

    fn derivation(&self, path: &StorePath) -> Derivation {
        Derivation::parse(&fs::read(self.ground.item(path)).unwrap()).unwrap()
    }
}

impl Fed {
    fn parsed(&self) -> Vec<Row> {
        assert_eq!(self.code, Some(0), "{}", self.notes);
        let text = std::str::from_utf8(&self.rows).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}")))
            .collect()
    }
}

/// What a row is of.
type Key = (String, String, Option<String>);

fn key(row: &Row) -> Key {
    (row.package.clone(), row.system.clone(), row.target.clone())
}

fn derivation_of(row: &Row) -> Option<&StorePath> {
    match &row.wanted {
        RowWanted::Derivation(path) => Some(path),
        RowWanted::NotEvaluated(_) => None,
    }
}

/// Submits a file of rows, and says how that ended.
fn submit(farm: &Farm, feeder: &Feeder, revision: &str, rows: &[u8]) -> (Option<i32>, String, Vec<u8>) {
    let file = farm.dir().join("rows");
    fs::write(&file, rows).unwrap();
    let mut line =
        ["set", "submit", "master", "--json", "--revision", revision, "--from"].map(PathBuf::from).to_vec();
    line.extend([file, "--store".into(), feeder.ground.store.clone()]);
    let output = farm.drover(line);
    (output.status.code(), words(&output), output.stdout)
}

fn submitted(farm: &Farm, feeder: &Feeder, revision: &str, rows: &[u8]) -> SetSubmitted {
    let (code, words, json) = submit(farm, feeder, revision, rows);
    assert_eq!(code, Some(0), "{words}");
    serde_json::from_slice(&json).unwrap()
}

fn asked<T: serde::de::DeserializeOwned>(farm: &Farm, line: &[&str]) -> T {
    let output = farm.drover([line, &["--json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", words(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The rows whose derivation is one of these or has one of these anywhere below it.
fn rows_above(feeder: &Feeder, rows: &[Row], changed: &HashSet<StorePath>) -> Vec<Key> {
    fn above(
        feeder: &Feeder,
        path: &StorePath,
        changed: &HashSet<StorePath>,
        known: &mut HashMap<StorePath, bool>,
    ) -> bool {
        if let Some(known) = known.get(path) {
            return *known;
        }
        let inputs = feeder.derivation(path).inputs;
        let answer = changed.contains(path)
            || inputs.iter().any(|input| above(feeder, &input.derivation, changed, known));
        known.insert(path.clone(), answer);
        answer
    }
    let mut known = HashMap::new();
    rows.iter()
        .filter(|row| derivation_of(row).is_some_and(|path| above(feeder, path, changed, &mut known)))
        .map(key)
        .collect()
}

/// What must be so in the rows of the manifest, whatever Guix makes of it.
fn check_rows(rows: &[Row], notes: &str) {
    let part = |system: &str, target: Option<&str>| -> Vec<&Row> {
        rows.iter().filter(|row| row.system == system && row.target.as_deref() == target).collect()
    };
    let native = part("x86_64-linux", None);
    // Three hundred of Guix's own, and those of the module with troubles, one of which has a replacement.
    assert_eq!(native.len(), 300 + TROUBLE.len() + 2, "{notes}");
    assert!(native.iter().all(|row| derivation_of(row).is_some() || TROUBLE.contains(&&*row.package)));
    for part in [part("riscv64-linux", None), part("x86_64-linux", Some("i586-pc-gnu"))] {
        let evaluated = part.iter().filter(|row| derivation_of(row).is_some()).count();
        assert!(evaluated > 200, "{evaluated}: {notes}");
        for name in TROUBLE {
            assert!(part.iter().any(|row| row.package == *name && derivation_of(row).is_none()), "{name}");
        }
    }
    assert!(rows.iter().all(|row| row.priority == 5 && row.tags["branch"] == "master"));
    let full: Vec<_> = native.iter().filter(|row| row.package == "full").collect();
    assert_eq!(full.len(), 2, "a package and its replacement");
    assert_eq!((full[0].publish, full[0].timeout, full[0].max_silent_time), (false, Some(600), Some(60)));
    assert_eq!((full[1].publish, full[1].timeout, full[1].max_silent_time), (true, None, None));
    for row in rows {
        if let RowWanted::NotEvaluated(why) = &row.wanted {
            assert!(!why.is_empty() && why.len() < 4000 && !why.chars().any(char::is_control), "{why}");
        }
    }
}

/// What the farm shows after these rows were submitted.
fn check_shown(shown: &SetDetails, rows: &[Row]) {
    let parts: Vec<_> = shown.parts.iter().map(|part| (&*part.system, part.target.as_deref())).collect();
    assert_eq!(
        parts,
        [("riscv64-linux", None), ("x86_64-linux", None), ("x86_64-linux", Some("i586-pc-gnu"))]
    );
    let not_evaluated = rows.iter().filter(|row| derivation_of(row).is_none()).count() as u64;
    let count = rows.len() as u64;
    assert_eq!((shown.total.wanted, shown.total.not_evaluated), (count, not_evaluated));
    assert_eq!(shown.total.waiting, count - not_evaluated);
    for part in &shown.parts {
        let of_part = rows.iter().filter(|row| row.system == part.system && row.target == part.target);
        assert_eq!(part.tally.wanted, of_part.count() as u64);
    }
}

/// A developer's patch: the module of a package with another flag in it, to be found before Guix's own.
fn patch_giflib(feeder: &Feeder) {
    let module = "gnu/packages/image.scm";
    let output = feeder.ground.run(&["cat", &format!("/usr/share/guile/site/3.0/{module}")]);
    let text = String::from_utf8(output.stdout).unwrap();
    let (before, after) = text.split_once("(define-public giflib\n").unwrap();
    let after = after.replacen("#:make-flags (list ", "#:make-flags (list \"CFLAGS=-O3\" ", 1);
    feeder.put(&format!("patched/{module}"), format!("{before}(define-public giflib\n{after}").as_bytes());
}

/// What changed must be all of `expected`; what could not be evaluated is broken before and after.
fn check_diff(diff: &SetDiff, expected: Vec<Key>, rows: &[Row]) {
    let of_kind = |kind: DifferenceKind| -> BTreeSet<Key> {
        let changes = diff.changes.iter().filter(|change| change.kind == kind);
        changes.map(|change| (change.package.clone(), change.system.clone(), change.target.clone())).collect()
    };
    assert_eq!(of_kind(DifferenceKind::Changed), expected.into_iter().collect());
    let broken = rows.iter().filter(|row| derivation_of(row).is_none()).map(key).collect();
    assert_eq!(of_kind(DifferenceKind::StillBroken), broken);
    assert_eq!(diff.counts.keys().len(), 2, "{:?}", diff.counts);
}

#[test]
fn a_real_guix_is_fed_submitted_and_compared_with_itself_after_a_package_was_changed() {
    if !ground::available("sets") {
        return;
    }
    let farm = Farm::start();
    let feeder = Feeder::start(&farm);
    let manifest = format!("--manifest={}", feeder.path("packages.scm"));
    let options = [&[&*manifest, "--priority=5", "--tag=branch=master"], SYSTEMS].concat();

    let fed = feeder.feed(&["modules"], &options);
    let rows = fed.parsed();
    check_rows(&rows, &fed.notes);
    assert!(!feeder.ground.dir.join("log/drvs").exists(), "something was built");

    let first = submitted(&farm, &feeder, "one", &fed.rows);
    assert!(first.new && first.superseded.is_none());
    assert_eq!(first.rows, rows.len() as u64);
    assert_eq!(first.missing_sources_count, 0, "{:?}", first.missing_sources);
    let shown: SetDetails = asked(&farm, &["set", "show", "master"]);
    check_shown(&shown, &rows);

    // The same again changes nothing.
    assert!(!submitted(&farm, &feeder, "one", &fed.rows).new);
    let again: SetDetails = asked(&farm, &["set", "show", "master"]);
    assert_eq!((&again.revisions, again.total), (&shown.revisions, shown.total));

    patch_giflib(&feeder);
    let patched = feeder.feed(&["modules", "patched"], &options);
    assert_eq!(patched.parsed().len(), rows.len());
    let giflib: HashSet<StorePath> =
        rows.iter().filter(|row| row.package == "giflib").filter_map(derivation_of).cloned().collect();
    assert_eq!(giflib.len(), 3);
    let expected = rows_above(&feeder, &rows, &giflib);
    assert!(expected.len() > giflib.len() && expected.len() < rows.len() / 2, "{}", expected.len());

    let second = submitted(&farm, &feeder, "two", &patched.rows);
    assert_eq!(second.superseded.unwrap().as_str(), "one");
    assert_eq!((second.rows_new, second.rows_gone), (expected.len() as u64, expected.len() as u64));
    assert!(second.canceled > 0, "nobody wants the old giflib any more");
    check_diff(&asked(&farm, &["set", "diff", "master@one", "master"]), expected, &rows);
    let told = words(&farm.drover(["set", "diff", "master@one", "master@two"]));
    assert!(told.contains("giflib"), "{told}");
}

#[test]
fn rows_of_a_feeding_that_ended_early_are_refused_and_those_of_a_whole_one_are_kept_from_the_collector() {
    if !ground::available("sets") {
        return;
    }
    let farm = Farm::start();
    let feeder = Feeder::start(&farm);
    feeder.put("one.scm", b"(packages->manifest (list (@ (farm trouble) full)))");
    let manifest = format!("--manifest={}", feeder.path("one.scm"));

    let ended = feeder.feed(&["modules"], &[&manifest, &format!("--root={}", feeder.path("no-folder/root"))]);
    assert_eq!(ended.code, Some(1), "{}", ended.notes);
    assert!(!ended.rows.is_empty() && !ended.rows.ends_with(b"\n"));
    let (code, words, _) = submit(&farm, &feeder, "one", &ended.rows);
    assert!(code != Some(0) && words.contains("mid"), "{words}");

    let fed = feeder.feed(&["modules"], &[&manifest, &format!("--root={}", feeder.path("kept"))]);
    let collected = feeder.ground.run(&["guix", "gc"]);
    assert!(collected.status.success(), "{}", String::from_utf8_lossy(&collected.stderr));
    assert_eq!(submitted(&farm, &feeder, "one", &fed.rows).missing_sources_count, 0);
}
