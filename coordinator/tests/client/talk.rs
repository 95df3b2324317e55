//! Tokens, addresses, lists, and a reader that goes away.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::double::{BUILD, Double, Reply, TOKEN};
use crate::{bare, drover, run, text};

fn summary(number: u32) -> Value {
    json!({
        "build": format!("7a3c0d9e-52ef-4c5b-9a37-{number:012}"),
        "derivation": "/gnu/store/00a3xasf5iyzfv23danwy7pilf2yyxjz-m4-1.4.19.tar.xz.drv",
        "system": "x86_64-linux", "state": "ready", "phase": null, "priority": 0, "tags": {}, "agent": null,
        "submitted_at": 0, "started_at": null, "ended_at": null
    })
}

/// A farm with so many builds, the newest first, in pages.
fn listing(all: u32) -> Double {
    Double::new(move |request| {
        let field = |name: &str| {
            let fields = request.query.split('&').filter_map(|f| f.split_once('='));
            fields.filter(|(key, _)| *key == name).map(|(_, value)| value.to_owned()).next()
        };
        let first = field("before").map_or(all, |id| id[24..].parse().unwrap());
        let limit: u32 = field("limit").unwrap().parse().unwrap();
        let last = first.saturating_sub(limit);
        let builds: Vec<_> = (last..first).rev().map(summary).collect();
        Reply::json(&json!({"builds": builds, "more": last > 0}))
    })
}

#[test]
fn lists_are_paged_as_far_as_the_limit_goes() {
    let double = listing(2500);
    for (limit, lines, asked) in [("0", 2500, 3), ("1200", 1200, 2), ("7", 7, 1)] {
        let before = double.requests().len();
        let ran = run(drover(&double, &["builds", "--json", "--limit", limit])).ended(0);
        let ids: std::collections::HashSet<_> = ran.json().iter().map(|b| b["build"].to_string()).collect();
        assert_eq!((ids.len(), double.requests().len() - before), (lines, asked));
    }
    let ran = run(drover(&double, &["builds", "--limit", "3"])).ended(0);
    assert!(ran.text().lines().last().unwrap().contains("--before 7a3c0d9e-52ef-4c5b-9a37-000000002497"));
}

#[test]
fn filters_travel_as_they_were_given() {
    let double = listing(1);
    let arguments = ["builds", "--state", "dependency-failed", "--tag", "set=a b&c", "--agent", "sparky"];
    run(drover(&double, &arguments)).ended(0);
    assert_eq!(
        double.requests()[0].query,
        "agent=sparky&limit=100&state=dependency-failed&tag=set%3Da%20b%26c"
    );
}

#[test]
fn a_reader_that_goes_away_ends_the_program_quietly() {
    let double = listing(100_000);
    let mut child = drover(&double, &["builds", "--limit", "0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
    assert!(line.starts_with("BUILD"), "{line}");
}

#[test]
fn nothing_is_coloured_in_a_pipe() {
    let ran = run(drover(&listing(3), &["builds"])).ended(0);
    assert!(!ran.stdout.contains(&0x1b) && !ran.stderr.contains('\u{1b}'));
}

#[test]
fn a_wrong_token_is_refused_and_no_coordinator_is_not_reached() {
    let double = listing(1);
    let mut wrong = bare(&["builds", "--coordinator", &double.url]);
    wrong.env("DROVER_TOKEN", "wrong");
    let ran = run(wrong).ended(4);
    assert!(ran.stderr.contains("listing builds") && ran.stderr.contains("first start"), "{}", ran.stderr);

    // Nobody listens on a port that was just given back.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut nobody = bare(&["builds", "--coordinator", &format!("http://{free}")]);
    nobody.env("DROVER_TOKEN", TOKEN);
    let ran = run(nobody).ended(3);
    assert!(ran.stderr.contains(&free.to_string()), "{}", ran.stderr);
}

#[test]
fn what_is_no_coordinator_is_said_to_be_none() {
    for reply in [Reply::bytes(200, "<html>"), Reply::bytes(404, "<html>"), Reply::bytes(302, "")] {
        let double = Double::new(move |_| reply.clone());
        let ran = run(drover(&double, &["builds"])).ended(3);
        assert!(ran.stderr.contains("is not a coordinator's"), "{}", ran.stderr);
    }
}

#[test]
fn a_token_comes_from_a_file_and_an_empty_or_absent_one_is_an_error() {
    let (double, folder) = (listing(1), tempfile::tempdir().unwrap());
    let file = folder.path().join("token");
    fs::write(&file, format!("{TOKEN}\n")).unwrap();
    run(bare(&["builds", "--coordinator", &double.url, "--token-file", text(&file)])).ended(0);
    let mut variable = bare(&["builds", "--coordinator", &double.url]);
    variable.env("DROVER_TOKEN_FILE", &file);
    run(variable).ended(0);

    fs::write(&file, "\n").unwrap();
    for file in [file, folder.path().join("absent")] {
        let mut command = drover(&double, &["builds", "--token-file", text(&file)]);
        command.env("DROVER_TOKEN", TOKEN);
        let ran = run(command).ended(2);
        assert!(ran.stderr.contains(text(&file)), "{}", ran.stderr);
    }
    assert_eq!(double.requests().len(), 2);
}

#[test]
fn an_agents_password_is_made_and_printed_once() {
    let double = Double::new(|_| Reply::json(&json!({"secret": "abc"})));
    let ran = run(drover(&double, &["agent", BUILD, "password", "new"])).ended(0);
    assert_eq!(ran.text(), "abc\n");
    let ran = run(drover(&double, &["agent", "token", "new", "--note", "boards", "--json"])).ended(0);
    assert_eq!(ran.json(), [json!({"secret": "abc"})]);
    let requests = double.requests();
    assert!(requests[0].is("POST", &format!("/v1/agents/{BUILD}/passwords")));
    assert_eq!(requests[1].json(), json!({"note": "boards"}));
}

#[test]
fn canceling_goes_on_after_a_refusal_and_ends_with_it() {
    let other = BUILD.replace("7a3c", "8a3c");
    let refused = format!("/v1/builds/{other}/cancel");
    let double = Double::new(move |request| {
        if request.path == refused {
            return Reply::problem(404, "not-found", "there is no such build");
        }
        Reply::json(&json!({
            "summary": summary(1), "why": "", "wanted": true, "timeout": null, "max_silent_time": null,
            "waits_for": [], "waits_for_count": 0, "outputs": [], "attempts": []
        }))
    });
    let ran = run(drover(&double, &["cancel", &other, BUILD])).ended(4);
    assert!(ran.stderr.contains(&other) && ran.text().contains("ready"), "{}{}", ran.stderr, ran.text());
}

#[test]
fn the_key_is_printed_as_it_is() {
    let key = "(public-key\n (ecc\n  (curve Ed25519)\n  (q #AB#)))\n";
    let double = Double::new(move |_| Reply::bytes(200, key));
    assert_eq!(run(drover(&double, &["key", "show"])).ended(0).text(), key);
}

#[test]
fn the_help_has_the_exit_codes() {
    let ran = run(bare(&["--help"])).ended(0);
    assert!(ran.text().contains("3  the coordinator did not answer"), "{}", ran.text());
}
