//! Browsing: what a session may not do, what is found, what stands around a build, and what goes on while it is looked at.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use drover_wire::agent::Report;
use drover_wire::client::Submission;
use drover_wire::route::{Method, clients};
use serde_json::json;

use crate::browser::Browser;
use crate::details::{build_page, fail, failed, says};
use crate::graph::{Made, derivation, derivation_for, output};
use crate::house::House;
use crate::sets::{Operator, row};

#[test]
fn nothing_that_changes_something_is_done_for_a_cookie_alone() {
    let house = House::start();
    let build = house.client().submit(&[&derivation("hello", &[])]);
    let browser = Browser::logged_in(&house);
    let mut tried = 0;
    for route in clients::ALL.iter().filter(|route| route.method != Method::Get) {
        let path = route.pattern.replace("{build}", &build.to_string());
        let path: String = path.chars().map(|c| if "{}".contains(c) { 'x' } else { c }).collect();
        let method = if route.method == Method::Patch { "PATCH" } else { "POST" };
        // As another site's form could send it, were the cookie sent with it.
        for headers in [&[][..], &[("content-type", "text/plain")]] {
            let answer = browser.send(method, &path, headers, "{}");
            assert_eq!(answer.status, 403, "{method} {path}");
            says(&answer.words(), &["nothing was done"]);
        }
        tried += 1;
    }
    assert!(tried > 15, "{tried}");
    // Nor is there anything to be done by looking.
    for route in clients::ALL.iter().filter(|route| route.method != Method::Get) {
        if clients::ALL.iter().any(|other| other.method == Method::Get && other.pattern == route.pattern) {
            continue;
        }
        let path = route.pattern.replace("{build}", &build.to_string());
        let path: String = path.chars().map(|c| if "{}".contains(c) { 'x' } else { c }).collect();
        assert_eq!(browser.get(&path).status, 405, "{path}");
    }
    assert_eq!(house.client().state(build).as_str(), "ready");
}

#[test]
fn what_was_named_as_a_whole_is_gone_to_and_capital_letters_do_not_matter() {
    let house = House::start();
    let browser = Browser::logged_in(&house);
    let made = derivation("hello-2.12", &[]);
    let build = house.client().submit(&[&made]);
    let (path, base) = (made.path.full(), made.path.base_name());
    for (asked, page) in [
        (build.to_string(), format!("/builds/{build}")),
        (path.replace('/', "%2F"), format!("/derivations/{base}")),
        (format!("%20{base}%20"), format!("/derivations/{base}")),
        (made.out.full(), format!("/derivations/{}", made.out.base_name())),
    ] {
        let answer = browser.get(&format!("/search?q={asked}"));
        assert_eq!((answer.status, answer.header("location")), (303, page.as_str()), "{asked}");
        assert_eq!(browser.get(&page).status, 200);
    }
    says(&browser.get("/search?q=Hello").page(), &["Search for “Hello”", "○ ready hello-2.12"]);
    says(&browser.get("/search?q=Helo").page(), &["No build’s name contains it."]);
}

#[test]
fn those_that_ended_are_listed_by_how() {
    let house = House::start();
    let (client, browser) = (house.client(), Browser::logged_in(&house));
    let agent = house.agent("one");
    for name in ["broken-1", "broken-2"] {
        client.submit(&[&derivation(name, &[])]);
        fail(&agent, &failed("exit code 1"));
    }
    client.submit(&[&derivation("left", &[])]);
    let activity = browser.get("/").text();
    assert!(activity.contains("href=\"/search?state=failed\""), "{activity}");
    let page = browser.get("/search?state=failed");
    says(&page.page(), &["Builds: ✗ failed", "✗ failed broken-2", "✗ failed broken-1"]);
    assert!(!page.page().contains("left") && !page.page().contains("Derivations"));
    assert!(page.text().contains("data-live=\"kind=build-submitted,"), "{}", page.text());
    let named = browser.get("/search?q=n-2&state=failed").page();
    assert!(named.contains("broken-2") && !named.contains("broken-1"), "{named}");
    says(&browser.get("/search?state=succeeded").page(), &["There is no such build."]);
    assert_eq!(browser.get("/search?state=broken").status, 400);
}

#[test]
fn what_comes_next_is_what_an_agent_that_is_there_will_take() {
    let house = House::start();
    let (client, browser) = (house.client(), Browser::logged_in(&house));
    let other = derivation_for("riscv64-linux", "for-another");
    let own = derivation("for-this", &[]);
    for (made, priority) in [(&other, 9), (&own, 0)] {
        let _uploaded = client.submit(&[made]);
        let again = json!({"builds": [{"derivation": made.path, "priority": priority}]});
        let again: Submission = serde_json::from_value(again).unwrap();
        assert_eq!(client.0.post(&clients::SUBMIT.path(&[]), &again).status, 200);
    }
    let next = || {
        let page = browser.get("/").page();
        page.split(" Next ").last().unwrap().to_owned()
    };
    says(&next(), &["No agent that is online builds for what is ready."]);
    let agent = house.agent("one");
    let said = next();
    assert!(said.contains("for-this") && !said.contains("for-another"), "{said}");
    // The queue has both, each in the order of its own system.
    says(&browser.get("/queue").page(), &["9 for-another riscv64-linux", "0 for-this x86_64-linux"]);
    assert_eq!(agent.allocation().derivation, own.path);
}

fn build(agent: &crate::agent::Agent, all: &[&Made]) {
    for _ in all {
        let allocation = agent.allocation();
        let made = all.iter().find(|made| made.path == allocation.derivation).unwrap();
        let (kept, bytes) = output(&made.out, b"built", &[]);
        agent.succeed(allocation.lease, &kept, &bytes);
    }
}

#[test]
fn what_is_around_a_build_stands_there_also_when_it_has_succeeded_and_leads_on() {
    let house = House::start();
    let (client, browser) = (house.client(), Browser::logged_in(&house));
    let below = derivation("below", &[]);
    let middle = derivation("middle", &[&below]);
    let above = derivation("above", &[&middle]);
    let top = client.submit(&[&below, &middle, &above]);
    let agent = house.agent("one");
    build(&agent, &[&below]);
    let all: drover_wire::client::BuildList = client.0.get(&clients::BUILDS.path(&[])).value();
    let of = |made: &Made| all.builds.iter().find(|build| build.derivation == made.path).unwrap().build;
    let ready = build_page(&browser, of(&middle));
    says(
        &ready.page(),
        &["It takes the outputs of 1 derivation ✓ succeeded below", "1 build waits for it … waiting above"],
    );
    build(&agent, &[&middle]);
    let done = build_page(&browser, of(&middle));
    says(&done.page(), &["✓ succeeded below", "1 build takes its outputs ○ ready above"]);
    let drawn = done.text().split_once("<svg class=\"graph-drawing\"").unwrap().1.to_owned();
    let drawn = drawn.split("</svg>").next().unwrap();
    assert_eq!(drawn.matches("<path").count(), 2, "{drawn}");
    for build in [of(&below), top] {
        assert!(drawn.contains(&format!("<a href=\"/builds/{build}\" tabindex=\"-1\">")), "{drawn}");
    }
    // One that waits names what it waits for, and not what is there.
    let waiting = client.submit(&[&below, &derivation("absent", &[]), &derivation("last", &[&above])]);
    let waiting = build_page(&browser, waiting).page();
    assert!(waiting.contains("It waits for 1 thing") && !waiting.contains("It takes"), "{waiting}");
}

#[test]
fn every_page_of_a_set_and_of_a_derivation_goes_on() {
    let house = House::start();
    let browser = Browser::logged_in(&house);
    let made = derivation("hello", &[]);
    let operator = Operator::new(&house, &[&made]);
    for revision in ["r1", "r2"] {
        operator.submit("master", revision, &[row(&made)], &[]).ended(0);
    }
    let live = |path: &str| {
        let page = browser.get(path);
        assert!(page.text().contains("data-live=\"kind=build-submitted,"), "{path}: {}", page.text());
        page.text().contains(" data-pause=\"")
    };
    for (path, takes_time) in [
        ("/sets", false),
        ("/sets/master", false),
        ("/sets/master@r1", false),
        ("/sets/master?show=broken", false),
        ("/sets/master?show=changes", true),
        ("/sets/master?show=blockers", true),
        ("/search?q=hello", true),
    ] {
        assert_eq!(live(path), takes_time, "{path}");
    }
    let page = format!("/derivations/{}", made.path.base_name());
    assert!(browser.get(&page).text().contains("data-live=\"build="));
    fail(&house.agent("one"), &failed("exit code 1"));
    // Somebody may build it again.
    assert!(live(&page));
}

#[test]
fn everybody_is_not_told_by_what_an_agent_says_who_it_is() {
    let house = House::with(&["--public-pages"]);
    house.agent("one");
    house.database().execute("UPDATE agents SET hardware = 'serial:4711'", []).unwrap();
    let own = Browser::logged_in(&house).get("/agents/one").page();
    says(&own, &["UUID", "serial:4711"]);
    let open = Browser::new(house.public).get("/agents/one").page();
    assert!(open.contains("x86_64-linux") && !open.contains("UUID") && !open.contains("serial"), "{open}");
}

#[test]
fn everybody_follows_so_many_logs_and_is_in_nobody_s_way() {
    let house = House::with(&["--public-pages"]);
    let (client, browser) = (house.client(), Browser::logged_in(&house));
    let build = client.submit(&[&derivation("made", &[])]);
    let agent = house.agent("one");
    let lease = agent.allocation().lease;
    assert_eq!(agent.log(lease, 0, b"it begins\n").status, 200);
    let follow = || {
        let mut stream = TcpStream::connect(house.public).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        write!(stream, "GET /builds/{build}/log/live HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut head = String::new();
        let mut reader = BufReader::new(stream);
        reader.read_line(&mut head).unwrap();
        (head, reader)
    };
    let mut all: Vec<_> = (0..64).map(|_| follow()).collect();
    assert!(all.iter().all(|(head, _)| head.contains(" 200 ")), "{:?}", all.last());
    assert!(follow().0.contains(" 503 "));
    // Those who are logged in, and everybody's pages, are as they were.
    says(&build_page(&browser, build).page(), &["it begins"]);
    says(&Browser::new(house.public).get(&format!("/builds/{build}/log")).page(), &["it begins"]);
    let live = client.0.stream(&format!("/builds/{build}/log/live"));
    let first = BufReader::new(live).lines().next().unwrap().unwrap();
    says(&first, &["it begins"]);
    all.clear();
    agent.report(lease, &Report::Failed { message: "no".to_owned() });
    assert!(follow().0.contains(" 200 "));
}
