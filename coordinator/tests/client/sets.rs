//! `drover set …`.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::double::{Double, Farm, Reply};
use crate::{HELLO, Ran, drover, hello, run, text};

fn farm_double(farm: &Arc<Mutex<Farm>>) -> Double {
    let farm = Arc::clone(farm);
    Double::new(move |request| farm.lock().unwrap().answer(request))
}

/// hello for x86_64-linux.
fn row() -> Value {
    json!({"derivation": format!("/gnu/store/{HELLO}"), "package": "hello", "version": "2.12.2",
        "system": "x86_64-linux"})
}

/// The row with one field set.
fn with(field: &str, value: impl Into<Value>) -> Value {
    let mut row = row();
    row[field] = value.into();
    row
}

/// A package that could not be evaluated.
fn broken(package: &str, error: &str) -> Value {
    json!({"error": error, "package": package, "version": "1", "system": "x86_64-linux"})
}

fn lines(rows: &[Value]) -> String {
    rows.iter().map(|row| format!("{row}\n")).collect()
}

/// Submits these bytes from a file beside the derivations.
fn submit(double: &Double, folder: &Path, rows: impl AsRef<[u8]>, more: &[&str]) -> Ran {
    let file = folder.join("rows.jsonl");
    fs::write(&file, rows).unwrap();
    let mut arguments =
        vec!["set", "submit", "master", "--revision", "r1", "--from", text(&file), "--store", text(folder)];
    arguments.extend(more);
    run(drover(double, &arguments))
}

#[test]
fn derivations_go_first_and_rows_after_and_the_summary_is_in_words() {
    let (folder, farm) = (hello(true), Farm::shared("waiting"));
    let double = farm_double(&farm);
    let rows = [with("priority", 7), broken("x", "unbound variable"), with("target", "i586-pc-gnu")];
    let ran = submit(&double, folder.path(), lines(&rows), &[]).ended(0);
    assert!(ran.text().starts_with("master@r1: 3 rows, the first revision\n"), "{}", ran.text());
    assert!(ran.text().contains("1,200 new builds, 3 for inputs, 7 canceled, uploaded"), "{}", ran.text());
    assert!(ran.text().contains("waiting for 4 sources that nobody has uploaded"), "{}", ran.text());
    assert!(ran.stderr.is_empty(), "{}", ran.stderr);
    assert_eq!(farm.lock().unwrap().revisions, [("master@r1".to_owned(), rows.to_vec())]);

    let sent = double.count("POST", "/v1/bundle");
    let ran = submit(&double, folder.path(), lines(&rows), &[]).ended(0);
    assert!(
        ran.text().contains("submitted before with the same rows; nothing has changed"),
        "{}",
        ran.text()
    );
    assert_eq!(double.count("POST", "/v1/bundle"), sent, "nothing is uploaded twice");
}

#[test]
fn scripts_get_what_the_coordinator_says_and_what_was_uploaded() {
    let (folder, farm) = (hello(true), Farm::shared("waiting"));
    let double = farm_double(&farm);
    let ran = submit(&double, folder.path(), lines(&[row()]), &["--json"]).ended(0);
    let [summary] = ran.json().try_into().unwrap();
    assert_eq!((&summary["revision"], &summary["canceled"]), (&json!("r1"), &json!(7)));
    assert!(summary["uploaded"]["derivations"].as_u64().unwrap() > 100);
}

#[test]
fn derivations_and_sources_may_be_in_different_folders() {
    let (folder, farm) = (hello(true), Farm::shared("waiting"));
    let sources = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(folder.path()).unwrap() {
        let (from, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
        if !text(&from).ends_with(".drv") {
            fs::rename(from, sources.path().join(name)).unwrap();
        }
    }
    let ran = submit(&farm_double(&farm), folder.path(), lines(&[row()]), &["--store", text(sources.path())]);
    let ran = ran.ended(0);
    assert!(ran.stderr.is_empty(), "{}", ran.stderr);
    assert!(farm.lock().unwrap().uploaded.iter().any(|name| !name.ends_with(".drv")));
}

#[test]
fn whether_a_set_keeps_is_said_only_when_it_is_said() {
    let (folder, farm) = (hello(true), Farm::shared("waiting"));
    let double = farm_double(&farm);
    let cases = [(&[][..], None), (&["--keep"][..], Some("keep=true")), (&["--no-keep"], Some("keep=false"))];
    for (flags, wanted) in cases {
        submit(&double, folder.path(), lines(&[row()]), flags).ended(0);
        let query = double.requests().last().unwrap().query.clone();
        assert_eq!(query.split('&').find(|field| field.starts_with("keep")), wanted, "{query}");
    }
}

#[test]
fn rows_from_standard_input_are_read_once_and_used_twice() {
    let (folder, farm) = (hello(true), Farm::shared("waiting"));
    let double = farm_double(&farm);
    let arguments =
        ["set", "submit", "master", "--revision", "r1", "--from", "-", "--store", text(folder.path())];
    let mut child = drover(&double, &arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // The last line may lack its end, and empty ones do not count.
    write!(child.stdin.take().unwrap(), "\n{}\n  \n{}", row(), broken("x", "e")).unwrap();
    assert!(child.wait_with_output().unwrap().status.success());
    assert_eq!(farm.lock().unwrap().revisions[0].1, [row(), broken("x", "e")]);
}

#[test]
fn a_connection_that_breaks_while_rows_are_sent_is_made_again() {
    let (folder, farm, broke) = (hello(true), Farm::shared("waiting"), AtomicUsize::new(0));
    let shared = Arc::clone(&farm);
    let double = Double::new(move |request| {
        let answer = shared.lock().unwrap().answer(request);
        match request
            .is("POST", "/v1/sets/master/revisions/r1")
            .then(|| broke.fetch_add(1, Ordering::Relaxed))
        {
            Some(0) => Reply::problem(503, "unavailable", "the coordinator is stopping"),
            Some(1) => Reply::none(),
            _ => answer,
        }
    });
    let ran = submit(&double, folder.path(), lines(&[row()]), &[]).ended(0);
    assert_eq!(double.count("POST", "/v1/sets/master/revisions/r1"), 3);
    assert_eq!(double.count("POST", "/v1/bundle"), 1);
    assert!(ran.text().contains("the first answer was lost"), "{}", ran.text());
}

#[test]
fn a_refusal_of_the_coordinator_arrives() {
    let (folder, farm) = (hello(true), Farm::shared("waiting"));
    let double = Double::new(move |request| {
        if request.path.starts_with("/v1/sets/") {
            return Reply::problem(
                409,
                "conflict",
                "row 17: the revision r1 was submitted with \u{1b}[31mother rows",
            );
        }
        farm.lock().unwrap().answer(request)
    });
    let ran = submit(&double, folder.path(), lines(&[row()]), &[]).ended(4);
    assert!(ran.stderr.contains("submitting master@r1: the coordinator refuses: row 17:"), "{}", ran.stderr);
    assert!(!ran.stderr.contains('\u{1b}'), "{}", ran.stderr);
}

#[test]
fn a_bad_row_is_named_before_anything_is_sent() {
    let (folder, double) = (hello(true), farm_double(&Farm::shared("waiting")));
    let good = row().to_string();
    let long = with("tags", json!({"x": "y".repeat(64 * 1024)})).to_string();
    let mut latin = good.clone().into_bytes();
    latin[3] = 0xe9;
    let cases: [(Vec<u8>, &str, &str); 14] = [
        (format!("{good}\n\n{{\"derivation\": \n{good}\n").into(), "row 3", "not JSON"),
        (format!("{good}\nhello\n").into(), "row 2", "not JSON"),
        (format!("{good}\n[]\n").into(), "row 2", "no row"),
        (format!("{good}\n{}", &good[..40]).into(), "row 2", "end in the middle"),
        (format!("{good} {good}\n").into(), "row 1", "not JSON: trailing characters"),
        (lines(&[row(), with("derivation", "/gnu/store/hello.drv")]).into(), "row 2", "no store path"),
        (
            lines(&[row(), with("derivation", format!("/gnu/store/{}-x", "0".repeat(32)))]).into(),
            "row 2",
            ".drv",
        ),
        (lines(&[with("error", "both")]).into(), "row 1", "both"),
        (lines(&[with("package", "a\u{1b}[2J")]).into(), "row 1", "control characters"),
        (lines(&[with("timout", 3)]).into(), "row 1", "timout"),
        (lines(&[with("priority", 1.5)]).into(), "row 1", "no row"),
        (lines(&[row(), with("system", "riscv64-linux"), with("priority", 3)]).into(), "row 3", "with row 1"),
        (lines(&[broken("x", "one reason"), broken("x", "another")]).into(), "row 2", "with row 1"),
        (format!("{long}\n").into(), "row 1", "more than 65536 bytes"),
    ];
    for (rows, number, why) in cases {
        let ran = submit(&double, folder.path(), &rows, &[]).ended(2);
        assert!(ran.stderr.contains(number) && ran.stderr.contains(why), "{number}, {why}: {}", ran.stderr);
        assert!(ran.stderr.contains("rows.jsonl") && ran.stderr.lines().count() == 1, "{}", ran.stderr);
        assert!(!ran.stderr.contains('\u{1b}'), "{}", ran.stderr);
    }
    submit(&double, folder.path(), &latin, &[]).ended(2);
    for empty in ["", "\n \n"] {
        let ran = submit(&double, folder.path(), empty, &[]).ended(2);
        assert!(ran.stderr.contains("drover set drop"), "{}", ran.stderr);
    }
    assert!(double.requests().is_empty());
}

#[test]
fn the_same_row_twice_disagrees_with_nothing() {
    let (folder, farm) = (hello(true), Farm::shared("waiting"));
    let spaced = row().to_string().replace(':', " : ");
    submit(&farm_double(&farm), folder.path(), format!("{}\n{spaced}\n", row()), &[]).ended(0);
    assert_eq!(farm.lock().unwrap().revisions[0].1, [row(), row()]);
}

#[test]
fn a_derivation_that_is_nowhere_names_its_row() {
    let (folder, farm) = (hello(true), Farm::shared("waiting"));
    let double = farm_double(&farm);
    let lost = format!("{}-lost.drv", "0".repeat(32));
    let rows = lines(&[row(), with("derivation", format!("/gnu/store/{lost}"))]);
    let ran = submit(&double, folder.path(), &rows, &[]).ended(2);
    assert!(ran.stderr.contains("row 2") && ran.stderr.contains(&lost), "{}", ran.stderr);
    assert!(ran.stderr.contains("--store"), "{}", ran.stderr);
    assert_eq!((double.count("POST", "/v1/bundle"), farm.lock().unwrap().revisions.len()), (0, 0));

    // The coordinator has it: all is well.
    farm.lock().unwrap().known.insert(lost);
    submit(&double, folder.path(), &rows, &[]).ended(0);
}

#[test]
fn a_derivation_that_does_not_belong_to_its_name_names_its_row() {
    let (folder, farm) = (hello(true), Farm::shared("waiting"));
    let double = farm_double(&farm);
    let other = HELLO.replace("2nfg", "3nfg");
    fs::copy(folder.path().join(HELLO), folder.path().join(&other)).unwrap();
    let rows = lines(&[row(), with("derivation", format!("/gnu/store/{other}"))]);
    let ran = submit(&double, folder.path(), rows, &[]).ended(2);
    assert!(ran.stderr.contains("row 2") && ran.stderr.contains(&format!("belong to the name {HELLO}")));
    assert_eq!((double.count("POST", "/v1/bundle"), farm.lock().unwrap().revisions.len()), (0, 0));
}

#[test]
fn names_that_cannot_be_and_files_that_are_not_there_are_refused() {
    let (folder, double) = (hello(false), farm_double(&Farm::shared("waiting")));
    let file = folder.path().join("rows");
    fs::write(&file, lines(&[row()])).unwrap();
    for (set, revision, from, why) in [
        ("wip/foo", "r1", text(&file), "slash"),
        ("a\u{1b}[2Jb", "r1", text(&file), "control characters"),
        ("master", "r/1", text(&file), "slash"),
        ("", "r1", text(&file), "empty"),
        ("master", "r1", "/nonexistent/rows", "/nonexistent/rows"),
        ("master", "r1", text(folder.path()), "folder"),
    ] {
        let arguments = ["set", "submit", set, "--revision", revision, "--from", from];
        let ran = run(drover(&double, &arguments)).ended(2);
        assert!(ran.stderr.contains(why), "{why}: {}", ran.stderr);
        assert!(!ran.stderr.contains('\u{1b}'), "{}", ran.stderr);
    }
    assert!(double.requests().is_empty());
}

const TALLY: &str = r#"{"wanted": 2000, "done": 500, "failed": 3, "dependency_failed": 4, "running": 5, "waiting": 1400,
    "canceled": 88, "not_evaluated": 0}"#;

/// A coordinator with one set, asked about in every way.
fn asked() -> Double {
    let tally: Value = serde_json::from_str(TALLY).unwrap();
    let build = "7a3c0d9e-52ef-4c5b-9a37-0f8e6f0f9a11";
    Double::new(move |request| match (request.method.as_str(), request.path.as_str()) {
        ("GET", "/v1/sets") => Reply::json(&json!([
            {"set": "master", "revision": "r2", "submitted_at": 5, "revisions": 2, "keep": false, "total": tally}
        ])),
        ("GET", "/v1/sets/master@r2") => Reply::json(&json!({
            "set": "master", "revision": "r2", "current": true, "submitted_at": 0, "keep": false, "total": tally,
            "parts": [{"system": "x86_64-linux", "target": null, "tally": tally, "estimate": null},
                {"system": "x86\u{1b}[31m", "target": "i586-pc-gnu", "tally": tally, "estimate": null}],
            "estimate": {"seconds": 7500, "ended": 1812, "within": 3600},
            "revisions": [{"revision": "r2", "submitted_at": 5, "rows": 2000},
                {"revision": "r1", "submitted_at": 4, "rows": 1999}]
        })),
        ("GET", "/v1/sets/master/blockers") => Reply::json(&json!({
            "set": "master", "revision": "r2", "count": 2, "rows": 1300, "blockers": [
                {"derivation": format!("/gnu/store/{HELLO}"), "system": "s\u{7}", "build": build, "state": "failed",
                    "missing_source": null, "holds_up": 1204}]
        })),
        ("GET", "/v1/set-diff") => {
            assert_eq!(request.query, "a=master%40r1&b=patch-71234");
            let row =
                |state: &str| json!({"version": "1", "derivation": null, "build": build, "state": state});
            Reply::json(
                &json!({"a": "master@r1", "b": "patch-71234@r7", "same": 3, "counts": {"newly-broken": 1},
                "changes": [{"kind": "newly-broken", "package": "hello\u{1b}", "system": "s", "target": null,
                    "before": row("succeeded"), "after": row("timed-out")}]}),
            )
        }
        ("POST", "/v1/sets/master/drop") => {
            Reply::json(&json!({"set": "master", "revisions": 2, "canceled": 1400}))
        }
        _ => Reply::problem(404, "not-found", "there is no set x"),
    })
}

#[test]
fn what_is_asked_about_sets_is_shown_in_words() {
    let double = asked();
    for (arguments, words) in [
        (&["set", "list"][..], &["NAME", "DEP-FAILED", "master", "2,000", "25.00", "1,400", "r2"][..]),
        (
            &["set", "show", "master@r2"],
            &[
                "x86_64-linux",
                "x86\\u{1b}[31m for i586-pc-gnu",
                "no estimate",
                "CANCELED",
                "done in about 2 h 5 min",
                "in the last 1 h 0 min, when 1,812 rows ended",
                "1,999",
            ],
        ),
        (
            &["set", "blockers", "master"],
            &["1,300 rows are held up by 2 things", "the first 1", "1,204", HELLO],
        ),
        (
            &["set", "diff", "master@r1", "patch-71234"],
            &["newly broken", "hello\\u{1b}", "succeeded → timed-out", "1 newly broken, 3 the same"],
        ),
        (&["set", "drop", "master"], &["master: dropped with 2 revisions, 1,400 builds canceled"]),
    ] {
        let ran = run(drover(&double, arguments)).ended(0);
        let said = ran.text();
        assert!(words.iter().all(|word| said.contains(word)), "{words:?}: {said}");
        assert!(!said.contains(['\u{1b}', '\u{7}']), "{said}");
        let script = run(drover(&double, &[arguments, &["--json"]].concat())).ended(0);
        assert_eq!(script.json().len(), 1);
    }
    assert_eq!(double.requests().iter().find(|r| r.path.ends_with("blockers")).unwrap().query, "limit=20");
}

#[test]
fn a_script_can_be_told_that_something_is_newly_broken() {
    let double = asked();
    run(drover(&double, &["set", "diff", "master@r1", "patch-71234", "--fail-if-broken"])).ended(1);
}

#[test]
fn a_set_that_is_not_there_is_refused_and_a_name_that_cannot_be_is_not_sent() {
    let double = asked();
    for arguments in [&["set", "show", "x"][..], &["set", "drop", "x"], &["set", "blockers", "x@y"]] {
        assert!(run(drover(&double, arguments)).ended(4).stderr.contains("there is no set x"));
    }
    let asked = double.requests().len();
    for arguments in [
        &["set", "show", "a/b"][..],
        &["set", "show", "a@b@c"],
        &["set", "diff", "a", "b@"],
        &["set", "drop", "master@r2"],
        &["set", "blockers", "master", "--limit", "-1"],
        &["set"],
    ] {
        run(drover(&double, arguments)).ended(2);
    }
    assert_eq!(double.requests().len(), asked);
}
