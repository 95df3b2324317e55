//! `drover events`.

use crate::double::{Double, Reply, Request};
use crate::{drover, run};

fn event(id: u64, kind: &str, more: &str) -> String {
    format!("id: {id}\nevent: {kind}\ndata: {{\"id\":{id},\"at\":{id},\"kind\":\"{kind}\"{more}}}\n\n")
}

/// What the query says of this, as text.
fn field(request: &Request, name: &str) -> Option<String> {
    let mut found = request.query.split('&').filter_map(|field| field.split_once('='));
    found.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
}

#[test]
fn events_are_printed_once_each_though_the_connection_breaks_in_the_middle_of_one() {
    let all = ["agent-seen", "agent-lost", "published"];
    let text = move |from: usize| -> String {
        let events = (from..all.len()).map(|n| event(n as u64 + 1, all[n], ",\"agent\":\"one\""));
        format!("retry: 2000\nid: {from}\n\n:\n{}", events.collect::<String>())
    };
    let double = Double::new(move |request| {
        let since: usize = field(request, "since").unwrap().parse().unwrap();
        let whole = text(since);
        // Each time a little more than one event comes.
        let cut = whole.find(&format!("id: {}\nevent", since + 2)).map_or(usize::MAX, |next| next + 20);
        Reply::bytes(200, whole).cut(cut)
    });
    let ran = run(drover(&double, &["events", "--since", "0", "--once", "--json"])).ended(0);
    let kinds: Vec<_> = ran.json().iter().map(|event| event["kind"].as_str().unwrap().to_owned()).collect();
    assert_eq!(kinds, all);
    let since: Vec<_> = double.requests().iter().filter_map(|request| field(request, "since")).collect();
    assert_eq!(since, ["0", "1", "2"]);
}

#[test]
fn a_gap_is_said_and_an_unknown_kind_is_passed_over() {
    let double = Double::new(|_| {
        let reset = event(7, "reset", ",\"text\":\"they are gone\"");
        let later = event(8, "moon-landed", "");
        let known = event(9, "agent-lost", ",\"agent\":\"board\\u001b[31m\"");
        Reply::bytes(200, format!("{reset}{later}{known}"))
    });
    let ran = run(drover(&double, &["events", "--since", "3", "--once"])).ended(0);
    assert!(ran.stderr.contains("they are gone"), "{}", ran.stderr);
    assert!(ran.text().contains("agent-lost") && ran.text().lines().count() == 1, "{}", ran.text());
    assert!(!ran.text().contains('\u{1b}'), "an escape sequence gets through to the terminal");
    let ran = run(drover(&double, &["events", "--since", "3", "--once", "--json"])).ended(0);
    let kinds: Vec<_> = ran.json().iter().map(|event| event["kind"].as_str().unwrap().to_owned()).collect();
    assert_eq!(kinds, ["reset", "agent-lost"], "a script sees the gap, too");
}

#[test]
fn what_is_asked_for_is_sent_and_what_cannot_be_asked_for_is_refused_before() {
    let double = Double::new(|_| Reply::bytes(200, ""));
    let asked = [
        "events",
        "--once",
        "--kind",
        "agent-lost",
        "--kind",
        "published",
        "--tag",
        "a=b",
        "--system",
        "i586-gnu",
    ];
    run(drover(&double, &asked)).ended(0);
    let request = double.requests().remove(0);
    assert_eq!(request.path, "/events");
    assert_eq!(field(&request, "kind").as_deref(), Some("agent-lost%2Cpublished"));
    assert_eq!((field(&request, "tag").as_deref(), field(&request, "since")), (Some("a%3Db"), None));
    let ran = run(drover(&double, &["events", "--kind", "all"])).ended(2);
    assert!(ran.stderr.contains("build-submitted"), "{}", ran.stderr);
}

#[test]
fn an_answer_that_is_no_stream_of_events_is_an_error_in_words() {
    let double = Double::new(|_| Reply::bytes(200, "id: 1\ndata: {\"id\":1,\"kind\":\"published\"}\n\n"));
    let ran = run(drover(&double, &["events", "--once"]));
    assert!(ran.code != 0 && ran.stderr.contains("reading events"), "{}", ran.stderr);
}

#[test]
fn what_falls_silent_or_ends_in_the_middle_is_not_taken_for_all_that_there_is() {
    use drover::client::events::events;
    use drover::client::{Coordinator, Nobody, Token};
    use drover_wire::event::EventsQuery;

    let all: String = (1..=3).map(|id| event(id, "published", "")).collect();
    let double = Double::new(move |request| {
        let since: usize = field(request, "since").unwrap().parse().unwrap();
        let rest = &all[all.len() / 3 * since..];
        match since {
            // One event and a half, and then nothing for as long as anybody waits.
            0 => Reply::bytes(200, rest).hang_after(rest.len() / 2),
            // As much, and then an end as of an answer that is whole.
            1 => Reply::bytes(200, &rest[..rest.len() / 4 * 3]),
            _ => Reply::bytes(200, rest),
        }
    });
    let token = Token::parse(crate::double::TOKEN, "the test").unwrap();
    let silence = std::time::Duration::from_millis(300);
    let coordinator = Coordinator::new(&double.url, &token).unwrap().with_silence(silence);
    let query = EventsQuery { since: Some(0), once: true, ..EventsQuery::default() };
    let mut ids = Vec::new();
    let print = |event: drover_wire::event::FarmEvent| {
        ids.push(event.id);
        Ok(())
    };
    events(&coordinator, &query, print, &Nobody).unwrap();
    assert_eq!(ids, [1, 2, 3]);
}
