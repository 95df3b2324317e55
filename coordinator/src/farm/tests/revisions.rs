//! Revisions that are refused: which row, why and what to do is said, and everything is as it was before.

use std::io::{self, Cursor, Read};

use drover_wire::set::{ROWS_LIMIT, SetSubmitted};

use super::*;

const MASTER: &str = "master";

impl World {
    /// Submits a revision of `master` as it is given, with so many rows announced.
    fn revise(
        &self,
        revision: &str,
        announced: u64,
        rows: impl Read + Send + 'static,
    ) -> Result<SetSubmitted, Error> {
        let coming = Coming {
            set: MASTER.parse().unwrap(),
            revision: revision.parse().unwrap(),
            terms: SetSubmission { rows: announced, keep: None },
        };
        self.runtime.block_on(self.farm().submit_set(coming, rows))
    }

    fn rows(&self, nodes: &[usize]) -> Vec<Row> {
        nodes.iter().map(|node| row(&self.nodes[*node].path, 0)).collect()
    }

    /// Submits a revision that is refused in these words.
    #[track_caller]
    fn refused(&self, announced: u64, rows: impl Read + Send + 'static, words: &[&str]) {
        let before = dump(self.farm());
        let error = self.revise("next", announced, rows).unwrap_err().to_string();
        for word in words {
            assert!(error.contains(word), "no “{word}” in: {error}");
        }
        assert_eq!(dump(self.farm()), before);
    }
}

/// A farm with a revision `first` of `master` that wants `d` and `g`.
fn with_a_set() -> World {
    let world = World::new();
    let rows = world.rows(&[4, 7]);
    world.revise("first", 2, Cursor::new(lines(&rows))).unwrap();
    world
}

#[test]
fn a_row_whose_derivation_is_nowhere_is_named() {
    let world = with_a_set();
    let mut rows = world.rows(&[4, 8, 9]);
    let nowhere = StorePath::parse_base(&format!("{}-nowhere.drv", "1".repeat(32))).unwrap();
    rows[1].wanted = RowWanted::Derivation(nowhere);
    world.refused(3, Cursor::new(lines(&rows)), &["row 2", "nowhere.drv", "is not here; upload it"]);
    // An output is known to the farm, and is no derivation.
    let output = world.nodes[4].outputs[0].1.clone();
    let text = format!(r#"{{"derivation":"{output}","package":"d","version":"1","system":"s"}}"#);
    world.refused(1, Cursor::new(text), &["row 1", "no derivation"]);
}

#[test]
fn two_rows_that_disagree_are_named_and_identical_ones_count_once() {
    let world = with_a_set();
    let mut rows = world.rows(&[8, 9, 8]);
    rows[2].priority = 7;
    world.refused(3, Cursor::new(lines(&rows)), &["row 3", "row 1", "leave out one"]);
    let rows = world.rows(&[8, 9, 8, 8]);
    let taken = world.revise("next", 4, Cursor::new(lines(&rows))).unwrap();
    assert_eq!((taken.rows, taken.rows_new, taken.rows_gone), (2, 2, 2));
    // The same with another system is another row.
    let mut rows = world.rows(&[8, 8]);
    rows[1].system = "i686-linux".to_owned();
    let taken = world.revise("last", 2, Cursor::new(lines(&rows))).unwrap();
    assert_eq!((taken.rows, taken.rows_new, taken.rows_gone), (2, 1, 1));
}

#[test]
fn rows_that_end_too_early_or_go_on_too_long_are_refused() {
    let world = with_a_set();
    let all = lines(&world.rows(&[8, 9]));
    world.refused(2, Cursor::new(all[..all.len() - 9].to_vec()), &["row 2", "in the middle of it"]);
    world.refused(3, Cursor::new(all.clone()), &["3 rows were announced and 2 came", "send them again"]);
    world.refused(1, Cursor::new(all.clone()), &["1 rows were announced and 2 came"]);
    world.refused(0, io::empty(), &["without rows", "drop the set"]);
    // What they are read from fails between two rows.
    let broken = Broken;
    world.refused(
        3,
        Cursor::new(all).chain(broken),
        &["row 2 was the last", "out of tape", "send them again"],
    );
}

struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("out of tape"))
    }
}

#[test]
fn a_line_that_is_no_row_is_named_with_the_reason() {
    let world = with_a_set();
    let good = lines(&world.rows(&[9]));
    let text = String::from_utf8(lines(&world.rows(&[8]))).unwrap();
    let with = |more: &str| text.replacen('{', &format!("{{{more},"), 1);
    let long = format!(r#""tags":{{"x":"{}"}}"#, "y".repeat(70_000));
    let many = format!(r#""tags":{{"x":"{}"}}"#, "y".repeat(2_000));
    for (line, words) in [
        ("nonsense\n".to_owned(), "not JSON"),
        ("[1,2]\n".to_owned(), "no row"),
        ("\u{0}\n".to_owned(), "not JSON"),
        (with(r#""timout":3"#), "timout"),
        (with(r#""error":"x""#), "both"),
        (with(r#""priority":1.5"#), "1.5"),
        (with(&long), "more than 65536 bytes"),
        (with(&many), "tag"),
        (with(r#""tags":{"a=b":"x"}"#), "tag"),
        (text.replace("x86_64-linux", ""), "system"),
        (text.replace("x86_64-linux", "a\\u001bb"), "control"),
    ] {
        let rows = [good.clone(), line.into_bytes()].concat();
        world.refused(2, Cursor::new(rows), &["row 2", words, "nothing of the revision was taken"]);
    }
    let rows = [&good[..], b"{\"package\":\"\xff\"}\n"].concat();
    world.refused(2, Cursor::new(rows), &["row 2"]);
}

/// The same line again and again, made as it is read, and how much of it was read.
struct Endless {
    line: Vec<u8>,
    at: usize,
    left: Arc<std::sync::atomic::AtomicU64>,
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        use std::sync::atomic::Ordering::Relaxed;
        if self.left.load(Relaxed) == 0 {
            return Ok(0);
        }
        let n = self.line[self.at..].len().min(buffer.len());
        buffer[..n].copy_from_slice(&self.line[self.at..self.at + n]);
        self.at += n;
        if self.at == self.line.len() {
            self.at = 0;
            self.left.fetch_sub(1, Relaxed);
        }
        Ok(n)
    }
}

#[test]
fn one_row_more_than_a_revision_may_have_is_refused_by_its_number_and_the_rest_is_not_read() {
    let world = with_a_set();
    let line = b"{\"error\":\"e\",\"package\":\"p\",\"version\":\"1\",\"system\":\"s\"}\n".to_vec();
    let left = Arc::new(std::sync::atomic::AtomicU64::new(10_000_000));
    let rows = || Endless { line: line.clone(), at: 0, left: Arc::clone(&left) };
    let read = || 10_000_000 - left.load(std::sync::atomic::Ordering::Relaxed);
    world.refused(10_000_000, rows(), &["10000000 rows were announced", "at most 1000000", "several sets"]);
    assert_eq!(read(), 0);
    // Announced as fewer than they are.
    world.refused(1_000_000, rows(), &["row 1000001", "at most 1000000 rows", "several sets"]);
    // What is read beyond it is in a buffer.
    assert!((ROWS_LIMIT..ROWS_LIMIT + 10_000).contains(&read()), "{}", read());
}

#[test]
fn a_revision_that_is_known_is_not_taken_with_other_rows_nor_again_after_another() {
    let world = with_a_set();
    let before = dump(world.farm());
    let again = |nodes: &[usize]| {
        let rows = Cursor::new(lines(&world.rows(nodes)));
        world.revise("first", nodes.len() as u64, rows).map_err(|error| match error {
            Error::Conflict(words) => words,
            error => panic!("{error}"),
        })
    };
    assert!(!again(&[7, 4]).unwrap().new);
    let other = again(&[4, 9, 7]).unwrap_err();
    assert!(other.contains("row 2, top") && other.contains("another name"), "{other}");
    let fewer = again(&[4]).unwrap_err();
    assert!(fewer.contains("1 of them did not come, g among") && fewer.contains("another name"), "{fewer}");
    assert_eq!(dump(world.farm()), before);

    world.revise("second", 1, Cursor::new(lines(&world.rows(&[9])))).unwrap();
    let late = again(&[4, 7]).unwrap_err();
    assert!(late.contains("superseded by second") && late.contains("another name"), "{late}");
    // Once the set is dropped, nobody remembers.
    world.runtime.block_on(world.farm().drop_set(MASTER.parse().unwrap())).unwrap();
    assert!(again(&[4, 7]).unwrap().new);
}

#[test]
fn of_two_revisions_at_once_each_is_whole_or_refused_and_can_be_sent_again() {
    let world = with_a_set();
    let farm = world.farm();
    let submit = |revision: &'static str, nodes: &[usize]| {
        let rows = Cursor::new(lines(&world.rows(nodes)));
        let (set, revision) = (MASTER.parse().unwrap(), revision.parse().unwrap());
        let terms = SetSubmission { rows: nodes.len() as u64, keep: None };
        farm.submit_set(Coming { set, revision, terms }, rows)
    };
    let (left, right) =
        world.runtime.block_on(async { tokio::join!(submit("left", &[8]), submit("right", &[9])) });
    invariants::check(farm, "two at once");
    let again = |revision, nodes: &[usize]| world.runtime.block_on(submit(revision, nodes));
    // Either one came after the other, or the one that came second is told so, and then it can come.
    match (left, right) {
        (Ok(_), Ok(_)) => {}
        (Ok(_), Err(Error::Conflict(words))) => {
            assert!(words.contains("changed while the rows of right came"), "{words}");
            assert_eq!(again("right", &[9]).unwrap().superseded.unwrap().as_str(), "left");
        }
        (Err(Error::Conflict(words)), Ok(_)) => {
            assert!(words.contains("changed while the rows of left came"), "{words}");
            assert_eq!(again("left", &[8]).unwrap().superseded.unwrap().as_str(), "right");
        }
        other => panic!("{other:?}"),
    }
    invariants::check(farm, "two at once, and again");
}

#[test]
fn a_set_that_is_not_there_cannot_be_dropped() {
    let world = with_a_set();
    let before = dump(world.farm());
    let error = world.runtime.block_on(world.farm().drop_set("x".parse().unwrap())).unwrap_err();
    assert_eq!(error.to_string(), "there is no set x");
    assert_eq!(dump(world.farm()), before);
}
