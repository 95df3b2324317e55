//! `drover set …` against a real coordinator.

use std::process::{Command, Stdio};

use drover_wire::agent::Report;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::graph::{Made, derivation, noise, output};
use crate::house::House;

/// An operator beside a folder with derivations.
pub(crate) struct Operator<'a> {
    house: &'a House,
    folder: TempDir,
}

/// How a command ended, and what it said.
pub(crate) struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Ran {
    #[track_caller]
    pub(crate) fn ended(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// The only value that it printed.
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap()
    }
}

impl<'a> Operator<'a> {
    pub(crate) fn new(house: &'a House, all: &[&Made]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for made in all {
            std::fs::write(folder.path().join(made.path.base_name()), &made.text).unwrap();
        }
        Self { house, folder }
    }

    pub(crate) fn run(&self, words: &[&str]) -> Ran {
        self.run_with(&self.house.token(), words)
    }

    fn run_with(&self, token: &str, words: &[&str]) -> Ran {
        let output = Command::new(env!("CARGO_BIN_EXE_drover"))
            .args(words)
            .env("DROVER_COORDINATOR", format!("http://{}", self.house.clients))
            .env("DROVER_TOKEN", token)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        Ran {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    pub(crate) fn submit(&self, set: &str, revision: &str, rows: &[Value], more: &[&str]) -> Ran {
        let (file, folder) = (self.folder.path().join("rows"), self.folder.path().to_str().unwrap());
        // An empty line before each row.
        let lines: String = rows.iter().map(|row| format!("\n{row}\n")).collect();
        std::fs::write(&file, lines).unwrap();
        let from = file.to_str().unwrap();
        let words = ["set", "submit", set, "--revision", revision, "--from", from, "--store", folder];
        self.run(&[&words, more].concat())
    }
}

/// The row that wants this, as version 1 of a package of its own name.
pub(crate) fn row(made: &Made) -> Value {
    let name = made.path.derivation_name();
    json!({"derivation": made.path, "package": name, "version": "1", "system": "x86_64-linux"})
}

pub(crate) fn not_evaluated(package: &str) -> Value {
    json!({"error": "unbound variable", "package": package, "version": "1", "system": "riscv64-linux"})
}

#[test]
fn a_revision_supersedes_the_one_before_and_the_same_again_changes_nothing() {
    let house = House::start();
    let base = derivation("base", &[]);
    let [old, both, new] = ["old", "both", "new"].map(|name| derivation(name, &[&base]));
    let operator = Operator::new(&house, &[&base, &old, &both, &new]);

    let first = [row(&old), row(&both), not_evaluated("odd")];
    let ran = operator.submit("master", "r1", &first, &["--json"]).ended(0).json();
    let counts = json!({"derivations": 3, "sources": 0, "known": 0});
    assert_eq!((&ran["rows"], &ran["builds"], &ran["for_inputs"]), (&json!(3), &json!(2), &json!(1)));
    assert_eq!((&ran["not_evaluated"], &ran["uploaded"]), (&json!(1), &counts));
    let again = operator.submit("master", "r1", &first, &[]).ended(0);
    assert!(again.stdout.contains("3 rows, submitted before with the same rows"), "{}", again.stdout);

    let second = operator.submit("master", "r2", &[row(&both), row(&new)], &[]).ended(0);
    let words = "master@r2: 2 rows, 1 new, 2 gone since r1\n1 new build, 1 canceled, uploaded 1 derivation";
    assert!(second.stdout.starts_with(words), "{}", second.stdout);
    let builds = operator.run(&["builds", "--state", "canceled"]).ended(0).stdout;
    assert!(builds.contains(" old\n") && !builds.contains("both"), "{builds}");

    let gone = operator.submit("master", "r1", &first, &[]).ended(4);
    assert!(gone.stderr.contains("superseded by r2"), "{}", gone.stderr);
}

#[test]
fn the_same_revision_with_other_rows_is_refused_and_the_row_is_named() {
    let house = House::start();
    let [a, b] = ["a", "b"].map(|name| derivation(name, &[]));
    let operator = Operator::new(&house, &[&a, &b]);
    operator.submit("master", "r1", &[row(&a)], &[]).ended(0);
    let ran = operator.submit("master", "r1", &[row(&a), row(&b)], &[]).ended(4);
    assert!(ran.stderr.contains("row 4, b,") && ran.stderr.contains("another name"), "{}", ran.stderr);
    let list = operator.run(&["set", "list", "--json"]).ended(0).json();
    assert_eq!((&list["revision"], &list["total"]["wanted"]), (&json!("r1"), &json!(1)));
}

#[test]
fn what_keeps_stays_and_what_is_dropped_goes() {
    let house = House::start();
    let [a, b] = ["a", "b"].map(|name| derivation(name, &[]));
    let operator = Operator::new(&house, &[&a, &b]);
    operator.submit("master", "r1", &[row(&a)], &["--keep"]).ended(0);
    let second = operator.submit("master", "r2", &[row(&b)], &["--json"]).ended(0).json();
    assert_eq!(second["canceled"], 0);
    let dropped = operator.run(&["set", "drop", "master"]).ended(0);
    assert_eq!(dropped.stdout, "master: dropped with 2 revisions, 2 builds canceled\n");
    operator.run(&["set", "show", "master"]).ended(4);
    assert_eq!(operator.run(&["set", "list", "--json"]).ended(0).stdout, "");
    // It is not forgotten yet, and the same revision can be submitted again.
    let listed = operator.run(&["set", "list", "--dropped", "--json"]).ended(0).json();
    assert_eq!((&listed["set"], &listed["revision"]), (&json!("master"), &json!("r2")));
    assert!(listed["dropped_at"].is_u64());
    assert!(operator.run(&["set", "list", "--dropped"]).ended(0).stdout.contains("DROPPED"));
    let again = operator.submit("master", "r2", &[row(&b)], &["--json"]).ended(0).json();
    assert_eq!((&again["new"], &again["rows_new"], &again["builds"]), (&json!(true), &json!(1), &json!(1)));
    assert_eq!(operator.run(&["set", "list", "--dropped", "--json"]).ended(0).stdout, "");
    let shown = operator.run(&["set", "show", "master", "--json"]).ended(0).json();
    assert_eq!(shown["revisions"].as_array().unwrap().len(), 2);
}

#[test]
fn how_a_set_stands_and_which_builds_it_wants_can_be_seen() {
    let house = House::start();
    let [a, b, other] = ["a", "b", "other"].map(|name| derivation(name, &[]));
    let operator = Operator::new(&house, &[&a, &b, &other]);
    operator.submit("patch", "p1", &[row(&other)], &[]).ended(0);
    operator.submit("master", "r1", &[row(&a)], &[]).ended(0);
    let mut cross = row(&b);
    cross["target"] = "i586-pc-gnu".into();
    operator.submit("master", "r2", &[row(&a), cross, not_evaluated("odd")], &[]).ended(0);
    let agent = house.agent("one");
    for given in (0..3).map(|_| agent.allocation()) {
        if given.derivation == a.path {
            let (kept, bytes) = output(&a.out, b"a", &[]);
            agent.succeed(given.lease, &kept, &bytes);
        } else {
            let message = "it is broken".to_owned();
            agent.report(given.lease, &Report::Failed { message });
        }
    }

    let show = operator.run(&["set", "show", "master", "--json"]).ended(0).json();
    assert_eq!((&show["total"]["done"], &show["total"]["failed"]), (&json!(1), &json!(1)));
    assert_eq!(show["revisions"].as_array().unwrap().len(), 2);
    let words = operator.run(&["set", "show", "master@r2"]).ended(0).stdout;
    for word in ["x86_64-linux for i586-pc-gnu", "riscv64-linux", "33.33", "nothing waits or runs", "r1"] {
        assert!(words.contains(word), "{word}: {words}");
    }
    let named = |words: &[&str]| {
        let builds = operator.run(words).ended(0).stdout;
        let names = builds.lines().skip(1).filter_map(|line| line.split_whitespace().last());
        names.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(named(&["builds", "--set", "master"]), ["b", "a"]);
    assert_eq!(named(&["builds", "--set", "master@r1"]), ["a"]);
    assert_eq!(named(&["builds", "--set", "master", "--state", "failed"]), ["b"]);
    operator.run(&["builds", "--set", "x"]).ended(4);
}

#[test]
fn what_a_patch_breaks_and_what_holds_it_up_is_named() {
    let house = House::start();
    let [same, bad] = ["same", "bad"].map(|name| derivation(name, &[]));
    let old = derivation("tool-1", &[&same]);
    let new = derivation("tool-2", &[&bad]);
    let operator = Operator::new(&house, &[&same, &bad, &old, &new]);
    let of_tool = |made: &Made, version: &str| {
        let mut row = row(made);
        (row["package"], row["version"]) = ("tool".into(), version.into());
        row
    };
    operator.submit("master", "r1", &[row(&same), of_tool(&old, "1")], &[]).ended(0);
    let agent = house.agent("one");
    for made in [&same, &old] {
        let given = agent.allocation();
        assert_eq!(given.derivation, made.path);
        let (kept, bytes) = output(&made.out, b"it", &[]);
        agent.succeed(given.lease, &kept, &bytes);
    }
    operator.submit("patch", "p1", &[row(&same), of_tool(&new, "2"), not_evaluated("odd")], &[]).ended(0);
    agent.report(agent.allocation().lease, &Report::Failed { message: "it is broken".to_owned() });

    let words = ["set", "diff", "master", "patch", "--fail-if-broken"];
    let diff = operator.run(&words).ended(1).stdout;
    assert!(diff.ends_with("master@r1 → patch@p1: 1 newly broken, 1 new, 1 the same\n"), "{diff}");
    let line = diff.lines().nth(1).unwrap();
    for word in ["newly broken", "tool", "1 → 2", "x86_64-linux", "succeeded → dependency-failed"] {
        assert!(line.contains(word), "{word}: {diff}");
    }
    let new_one = diff.lines().nth(2).unwrap();
    assert!(new_one.starts_with("new ") && new_one.contains("odd"), "{diff}");
    let same = operator.run(&["set", "diff", "master", "master", "--fail-if-broken"]).ended(0).stdout;
    assert_eq!(same, "master@r1 → master@r1: 2 the same\n");

    let held = operator.run(&["set", "blockers", "patch"]).ended(0).stdout;
    assert!(
        held.starts_with("In patch@p1 1 row is held up by 1 thing that failed or is missing:\n"),
        "{held}"
    );
    let line = held.lines().nth(2).unwrap();
    assert!(line.contains("failed") && line.ends_with(bad.path.as_str()), "{held}");
    let free = operator.run(&["set", "blockers", "master"]).ended(0).stdout;
    assert_eq!(free, "Nothing that failed or is missing holds up master@r1.\n");
}

#[test]
fn who_has_a_wrong_token_and_much_to_say_hears_that_it_is_wrong() {
    let house = House::start();
    let operator = Operator::new(&house, &[]);
    // Compressed, it is more than anybody reads of a stranger.
    let mut noise = noise(40 << 20).into_iter();
    let file = operator.folder.path().join("rows");
    let mut rows = String::new();
    for n in 0..10_000 {
        let error: String = noise.by_ref().take(4000).map(|byte| char::from(b' ' + 1 + byte % 64)).collect();
        let error = error.replace(['"', '\\'], "x");
        rows.push_str(
            &json!({"error": error, "package": format!("p{n}"), "version": "1", "system": "x86_64-linux"})
                .to_string(),
        );
        rows.push('\n');
    }
    std::fs::write(&file, rows).unwrap();
    let words = ["set", "submit", "master", "--revision", "r1", "--from", file.to_str().unwrap()];
    let refused = operator.run_with("drover-wrong", &words);
    assert!(refused.code != 0 && refused.stderr.contains("does not know this token"), "{}", refused.stderr);
    operator.run(&words).ended(0);
}
