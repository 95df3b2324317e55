//! Pages about one thing: what they say of builds in every state, of agents, sets, storage and hooks, and what means no good.

use std::collections::BTreeMap;
use std::time::Duration;

use drover_os::Deadline;
use drover_wire::agent::{Report, TimeLimit};
use drover_wire::bundle::Kind;
use drover_wire::client::{BuildList, Submission, Submitted, Wanted};
use drover_wire::route::clients;
use drover_wire::{BuildId, BuildState, Code};
use serde_json::json;

use crate::agent::Agent;
use crate::browser::{Browser, Shown};
use crate::client::bundle;
use crate::graph::{Made, derivation, derivation_with, output};
use crate::house::House;
use crate::sets::{Operator, not_evaluated, row};

/// What a page must never have in it, whatever comes from outside.
const HOSTILE: &str = "<script>alert(1)</script>";

pub(crate) fn build_page(browser: &Browser, build: BuildId) -> Shown {
    browser.get(&format!("/builds/{build}"))
}

#[track_caller]
pub(crate) fn says(page: &str, all: &[&str]) {
    for words in all {
        assert!(page.contains(words), "“{words}” is not in: {page}");
    }
}

/// That a page runs nothing, and has nothing of the text's own tags.
#[track_caller]
pub(crate) fn is_harmless(shown: &Shown) {
    let html = shown.text();
    assert!(!html.contains(HOSTILE), "{html}");
    assert_eq!(html.matches("<script").count(), 1, "the page's own script");
    assert!(!html.contains(" style=") && !html.contains(" onclick="), "{html}");
    assert!(shown.header("content-security-policy").contains("script-src 'self'"));
}

pub(crate) fn fail(agent: &Agent, report: &Report) -> BuildId {
    let allocation = agent.allocation();
    agent.report(allocation.lease, report);
    allocation.build
}

pub(crate) fn failed(message: &str) -> Report {
    Report::Failed { message: message.to_owned() }
}

/// Has a derivation built that waits for this agent.
fn build_one(agent: &Agent, made: &Made) -> BuildId {
    let allocation = agent.allocation();
    assert_eq!(allocation.derivation, made.path);
    let (kept, bytes) = output(&made.out, b"built", &[]);
    assert_eq!(agent.succeed(allocation.lease, &kept, &bytes).state, BuildState::Succeeded);
    allocation.build
}

#[test]
fn a_build_says_in_words_how_it_is_in_every_state() {
    let house = House::start();
    let (client, browser) = (house.client(), Browser::logged_in(&house));
    let [below, above, top] = ["below", "above", "top"].map(|name| name.to_owned());
    let below = derivation(&below, &[]);
    let above = derivation(&above, &[&below]);
    let top = derivation(&top, &[&above]);
    let build = client.submit(&[&below, &above, &top]);
    let waiting = build_page(&browser, build);
    says(
        &waiting.page(),
        &["top … waiting", "Waits for 1 input", "It waits for 1 thing", "There is no log yet"],
    );
    let drawn = waiting.text().split_once("<svg class=\"graph-drawing\"").unwrap().1.to_owned();
    let drawn = drawn.split("</svg>").next().unwrap();
    assert!(
        drawn.contains(">above<") && drawn.contains(">top<") && drawn.matches("<path").count() == 1,
        "{drawn}"
    );
    assert!(waiting.text().contains("action=\"/v1/builds/") && waiting.text().contains(">Cancel<"));
    // What it waits for goes on as well.
    says(&waiting.text(), &["data-live=\"\"", "data-pause=\"3\""]);

    let all: BuildList = client.0.get(&clients::BUILDS.path(&[])).value();
    let of = |made: &Made| all.builds.iter().find(|build| build.derivation == made.path).unwrap().build;
    let ready = build_page(&browser, of(&below));
    says(&ready.text(), &[&format!("data-live=\"build={}\"", of(&below))]);
    let ready = ready.page();
    says(
        &ready,
        &[
            "below ○ ready",
            "Everything is there, but no agent builds for x86_64-linux",
            "1 build waits for it",
        ],
    );
    says(&ready, &["… waiting above", "not here", "Asked for no: others need it"]);

    let agent = house.agent("one");
    let lease = agent.allocation().lease;
    says(
        &build_page(&browser, of(&below)).page(),
        &["below ◐ allocated", "one has it", "Agent one", "▶ goes on"],
    );
    assert_eq!(agent.log(lease, 0, b"it begins\n").status, 200);
    let deadline = Deadline::after(Duration::from_secs(60));
    let running = deadline
        .ask(|| Some(build_page(&browser, of(&below)).page()).filter(|page| page.contains("running")));
    says(&running.expect("it was seen to run"), &["below ▶ running", "it begins", "Builds for"]);
    let (kept, bytes) = output(&below.out, b"below", &[]);
    agent.succeed(lease, &kept, &bytes);
    let done = build_page(&browser, of(&below));
    says(
        &done.page(),
        &["below ✓ succeeded", "Built by one; its outputs are here.", "it begins", "✓ succeeded one"],
    );
    says(&done.page(), &[&kept.nar_hash.base32(), below.out.full().as_str()]);
    assert!(!done.text().contains("data-api"), "there is nothing to do about it");

    fail(&agent, &failed("the builder failed with exit code 1"));
    let broken = build_page(&browser, of(&above));
    says(
        &broken.page(),
        &["above ✗ failed", "Failed: the builder failed with exit code 1.", "1 build waits for it"],
    );
    says(&broken.page(), &["⊘ dependency failed top"]);
    assert!(broken.text().contains(">Build it again<"), "{}", broken.text());
    let held = build_page(&browser, build).page();
    says(
        &held,
        &["top ⊘ dependency failed", "What failed is above ✗ failed", "It waits for 1 thing ✗ failed"],
    );

    let slow = client.submit(&[&derivation("slow", &[])]);
    fail(
        &agent,
        &Report::TimedOut { limit: TimeLimit::Silence, message: "silent for 3600 seconds".to_owned() },
    );
    says(&build_page(&browser, slow).page(), &["slow ! timed out", "silent for 3600 seconds."]);
    let unwanted = client.submit(&[&derivation("unwanted", &[])]);
    client.cancel(unwanted);
    says(&build_page(&browser, unwanted).page(), &["unwanted – canceled", "Canceled: a client canceled it."]);
}

#[test]
fn what_failed_is_built_again_as_the_page_would_have_it_and_the_old_page_says_so() {
    let house = House::start();
    let (client, browser) = (house.client(), Browser::logged_in(&house));
    let build = client.submit(&[&derivation("made", &[])]);
    fail(&house.agent("one"), &failed("exit code 1"));
    let html = build_page(&browser, build).text();
    let (_, form) = html.split_once("data-body=\"").unwrap();
    let body = form.split('"').next().unwrap().replace("&quot;", "\"");
    let json =
        [("x-drover", "1"), ("accept", "application/json"), ("content-type", "text/plain;charset=UTF-8")];
    let answer = browser.send("POST", "/v1/builds", &json, &body);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let submitted: Submitted = serde_json::from_slice(&answer.bytes).unwrap();
    let new = submitted.builds[0].build;
    assert_ne!(new, build);
    assert!(form.contains("data-to=\"/builds/\""), "{form}");
    let old = build_page(&browser, build);
    says(&old.page(), &["There is a newer build of the same outputs: made"]);
    assert!(old.text().contains(&format!("href=\"/builds/{new}\"")) && !old.text().contains("data-api"));
    // Who has not logged in sees no forms.
    let public = House::with(&["--public-pages"]);
    let build = public.client().submit(&[&derivation("made", &[])]);
    let page = Browser::new(public.public).get(&format!("/builds/{build}"));
    says(&page.page(), &["made ○ ready"]);
    assert!(!page.text().contains("data-api"), "{}", page.text());
}

#[test]
fn tags_and_messages_are_text_wherever_they_are_shown() {
    let house = House::start();
    let (client, browser) = (house.client(), Browser::logged_in(&house));
    let made = derivation_with("made", &[], &[(HOSTILE, "\"><script>")]);
    let uploaded = client.upload(&bundle(&[(Kind::Derivation, &made.path, &made.text)]));
    assert_eq!(uploaded.status, 200);
    let tags = BTreeMap::from([(HOSTILE.to_owned(), format!("\"'>{HOSTILE}\u{202e}"))]);
    let wanted = Wanted {
        derivation: made.path.clone(),
        priority: -3,
        tags,
        timeout: Some(90),
        max_silent_time: None,
    };
    let submission = Submission { builds: vec![wanted] };
    let submitted: Submitted = client.0.post(&clients::SUBMIT.path(&[]), &submission).value();
    let build = submitted.builds[0].build;
    let agent = house.agent("one");
    let lease = agent.allocation().lease;
    agent.report(lease, &failed(&format!("{HOSTILE}\u{1b}[31m\u{202e}\r\n\"'>")));
    for address in [
        format!("/builds/{build}"),
        format!("/derivations/{}", made.path.base_name()),
        "/agents/one".to_owned(),
        format!("/builds/{build}/log"),
    ] {
        let page = browser.get(&address);
        is_harmless(&page);
        assert!(!page.words().contains(['\u{1b}', '\u{202e}']), "{}", page.words());
    }
    let page = build_page(&browser, build);
    says(
        &page.page(),
        &["May take 1 min 30 s", "Priority -3", "\\u{202e}", "&lt;script&gt;alert(1)&lt;/script&gt;"],
    );
}

#[test]
fn a_derivation_says_what_it_needs_and_what_needs_it() {
    let house = House::start();
    let (client, browser) = (house.client(), Browser::logged_in(&house));
    let below = derivation("below", &[]);
    let middle = derivation_with("middle", &[&below], &[("configureFlags", "--enable-all")]);
    let above = derivation("above", &[&middle]);
    client.submit(&[&below, &middle, &above]);
    let agent = house.agent("one");
    build_one(&agent, &below);
    let page = browser.get(&format!("/derivations/{}", middle.path.base_name()));
    let words = page.page();
    says(&words, &["middle", &middle.path.full(), "System x86_64-linux", "Builder /bin/sh", "Arguments 0"]);
    says(&words, &["Builds", "○ ready", "Inputs (1) below", "Needed by (1) above", "Environment (3)"]);
    says(&words, &["configureFlags 12 B", &middle.out.full(), "not here"]);
    assert!(page.text().contains("data-live=\"build="), "its build has not ended");
    // Its output stands for it, too.
    let by_output = browser.get(&format!("/derivations/{}", middle.out.base_name()));
    assert!(by_output.page().contains(&middle.path.full()));
    let lowest = browser.get(&format!("/derivations/{}", below.path.base_name())).page();
    says(&lowest, &["✓ succeeded", "It takes no outputs of other derivations.", "Needed by (1) middle"]);
    let missing = browser.get(&format!("/derivations/{}", above.path.base_name())).page();
    says(&missing, &["? missing middle", "… waiting"]);
}

#[test]
fn an_agent_says_what_it_does_and_how_its_tries_ended() {
    let house = House::start();
    let (client, browser) = (house.client(), Browser::logged_in(&house));
    let agent = house.agent("one");
    let all: Vec<Made> = (0..60).map(|n| derivation(&format!("made-{n:02}"), &[])).collect();
    for made in &all {
        client.submit(&[made]);
        fail(&agent, &failed(&format!("{} does not build", made.path.name())));
    }
    let last = derivation("last", &[]);
    let build = client.submit(&[&last]);
    agent.allocation();
    let page = browser.get("/agents/one");
    let words = page.page();
    says(&words, &["one ● online", "Systems x86_64-linux", "Builds 1 of 1 that it takes", "Version by hand"]);
    says(
        &words,
        &["What it has", "last x86_64-linux", "✗ failed 60", "▶ goes on", "made-59.drv does not build"],
    );
    says(&page.text(), &["data-live=\"agent=one\"", &format!("href=\"/builds/{build}\"")]);
    assert!(!words.contains("made-05.drv"));
    let html = page.text();
    let (before, _) = html.split_once("\" rel=\"next\"").expect("there are more tries");
    let earlier = browser.get(before.rsplit("href=\"").next().unwrap());
    says(&earlier.page(), &["Earlier tries", "made-05.drv does not build"]);
    assert!(!earlier.page().contains("made-59.drv") && !earlier.text().contains("rel=\"next\""));
    let uuid = client.0.get(&clients::AGENTS.path(&[]));
    let uuid: Vec<drover_wire::client::AgentSummary> = uuid.value();
    assert_eq!(browser.get(&format!("/agents/{}", uuid[0].agent)).status, 200);
}

#[test]
fn a_set_is_red_and_green_by_package_and_system_and_says_what_is_newly_broken_and_why() {
    let house = House::start();
    let browser = Browser::logged_in(&house);
    let [good, old, same] = ["good", "tool", "same"].map(|name| derivation(name, &[]));
    let bad = derivation("bad", &[]);
    let new = derivation_with("tool", &[&bad], &[("version", "2")]);
    let operator = Operator::new(&house, &[&good, &old, &same, &bad, &new]);
    let of = |made: &Made, package: &str, version: &str| json!({"derivation": made.path, "package": package, "version": version, "system": "x86_64-linux"});
    let odd = not_evaluated("odd <b>");
    operator
        .submit("master", "r1", &[of(&good, "good", "1"), of(&old, "tool", "1"), row(&same)], &[])
        .ended(0);
    let agent = house.agent("one");
    for _ in 0..3 {
        let allocation = agent.allocation();
        let made = [&good, &old, &same].into_iter().find(|made| made.path == allocation.derivation).unwrap();
        let (kept, bytes) = output(&made.out, b"built", &[]);
        agent.succeed(allocation.lease, &kept, &bytes);
    }
    let rows = [of(&good, "good", "1"), of(&new, "tool", "2"), row(&same), odd];
    operator.submit("master", "r2", &rows, &[]).ended(0);
    fail(&agent, &failed("exit code 1"));

    says(&browser.get("/sets").page(), &["master r2", "50.0 %", "✓ 2", "⊘ 1", "? 1"]);
    let page = browser.get("/sets/master");
    let words = page.page();
    says(
        &words,
        &[
            "master@r2",
            "Package riscv64-linux x86_64-linux",
            "good ✓ 1 succeeded",
            "tool ⊘ 2 dependency failed",
        ],
    );
    says(&words, &["odd &lt;b&gt; ? 1 not evaluated", "unbound variable", "r1 , 3 rows", "All 50.0 % 4"]);
    is_harmless(&page);
    let changes = browser.get("/sets/master?show=changes").page();
    says(
        &changes,
        &[
            "From master@r1 to master@r2.",
            "Newly broken (1)",
            "tool x86_64-linux ✓ 1 succeeded ⊘ 2 dependency failed",
        ],
    );
    let blockers = browser.get("/sets/master@r2?show=blockers").page();
    says(&blockers, &["1 row is held up by 1 thing", "1 ✗ failed bad x86_64-linux"]);
    let broken = browser.get("/sets/master?show=broken&name=").page();
    says(&broken, &["tool ⊘ 2", "odd"]);
    assert!(!broken.contains("good ✓"));
    let named = browser.get("/sets/master?name=ood").page();
    assert!(named.contains("good ✓") && !named.contains("tool ⊘"), "{named}");
    let first = browser.get("/sets/master@r1");
    says(&first.page(), &["master@r1", "This revision was superseded"]);
    says(&browser.get("/sets/master@r1?show=changes").page(), &["There is no revision before this one."]);
    operator.run(&["set", "drop", "master"]).ended(0);
    says(&browser.get("/sets?dropped=true").page(), &["Sets that were dropped", "master r2"]);
    assert_eq!(browser.get("/sets/master").status, 404);
}

#[test]
fn a_set_of_many_packages_is_paged_by_their_names() {
    let house = House::start();
    let browser = Browser::logged_in(&house);
    let rows: Vec<_> = (0..250).map(|n| not_evaluated(&format!("p{n:03}"))).collect();
    Operator::new(&house, &[]).submit("many", "r1", &rows, &[]).ended(0);
    let (mut next, mut pages, mut seen) = ("/sets/many".to_owned(), 0, 0);
    loop {
        let html = browser.get(&next).text();
        seen += html.matches("data-key=\"package-p").count();
        pages += 1;
        let Some((_, more)) = html.split_once("rel=\"next\" href=\"") else { break };
        next = more.split('"').next().unwrap().replace("&amp;", "&");
    }
    assert_eq!((pages, seen), (3, 250));
}

#[test]
fn storage_is_told_in_numbers_in_a_plot_and_in_a_table() {
    let house = House::start();
    let (client, browser) = (house.client(), Browser::logged_in(&house));
    let made = derivation("made", &[]);
    client.submit(&[&made]);
    build_one(&house.agent("one"), &made);
    let early = "INSERT INTO place_days (place, day, added, removed) \
                 SELECT place, day - 20, 1048576, 1048576 FROM place_days";
    assert_eq!(house.database().execute(early, []).unwrap(), 1);
    let page = browser.get("/storage");
    says(
        &page.page(),
        &["Storage", "state ✓ open", "Free on its disk", "Bytes in state by day", "As a table", "1.0 MiB"],
    );
    let html = page.text();
    says(
        &html,
        &["<svg class=\"plot\" role=\"img\"", "<title id=\"plot-state\">", "<desc id=\"about-state\">From "],
    );
    let (_, line) = html.split_once("class=\"line\" d=\"M").unwrap();
    assert_eq!(line.split('"').next().unwrap().matches('L').count(), 20, "{line:.400}");
    is_harmless(&page);
}

#[test]
fn hooks_say_what_they_gave_up_and_can_be_told_to_try_again() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.toml");
    let text = "[hooks.tell]\nkind = 'command'\non = ['build-failure']\nprogram = '/bin/sh'\n\
                arguments = ['-c', 'echo \"<script>alert(1)</script>\" >&2; exit 3']\ntries = 1\n";
    std::fs::write(&config, text).unwrap();
    let house = House::with(&["--config", config.to_str().unwrap()]);
    let browser = Browser::logged_in(&house);
    says(&browser.get("/hooks").page(), &["tell ✓ on command build-failure 0 0 0"]);
    let build = house.client().submit(&[&derivation("made", &[])]);
    fail(&house.agent("one"), &failed("exit code 1"));
    let deadline = Deadline::after(Duration::from_secs(60));
    let gave_up = deadline.ask(|| {
        let page = browser.get("/hooks");
        page.page().contains("What tell gave up (1)").then_some(page)
    });
    let page = gave_up.expect("it gives up");
    says(&page.page(), &["tell ✗ failing", &build.to_string(), "&lt;script&gt;alert(1)&lt;/script&gt;"]);
    says(&page.text(), &["action=\"/v1/hooks/tell/retry\" data-api"]);
    is_harmless(&page);
    let json = [("x-drover", "1"), ("accept", "application/json")];
    assert_eq!(browser.send("POST", "/v1/hooks/tell/retry", &json, "").status, 200);
}

#[test]
fn what_is_not_there_is_not_found_in_words_for_browsers_and_as_a_problem_for_programs() {
    let house = House::start();
    let (client, browser) = (house.client(), Browser::logged_in(&house));
    let unknown = "7a3c0d9e-52ef-4c5b-9a37-0f8e6f0f9a11";
    let nothing = format!("{}-nothing", "0".repeat(32));
    for (address, words) in [
        (format!("/builds/{unknown}"), format!("There is no build {unknown}.")),
        (format!("/builds/{unknown}/log"), format!("There is no build {unknown}.")),
        (format!("/builds/{unknown}/log/live"), format!("There is no build {unknown}.")),
        (format!("/derivations/{nothing}.drv"), format!("There is no derivation /gnu/store/{nothing}.drv.")),
        (format!("/derivations/{nothing}"), format!("There is no derivation /gnu/store/{nothing}.")),
        ("/agents/nobody".to_owned(), "There is no agent nobody.".to_owned()),
        (format!("/agents/{unknown}"), format!("There is no agent {unknown}.")),
        ("/sets/none".to_owned(), "There is no set none.".to_owned()),
        ("/sets/none@r1".to_owned(), "There is no set none@r1.".to_owned()),
    ] {
        let page = browser.get(&address);
        assert_eq!(page.status, 404, "{address}");
        says(&page.words(), &["Not found", &words]);
        client.0.get(&address).refused(Code::NotFound);
    }
    for address in
        ["/builds/seven", "/derivations/x", "/sets/a%20b", "/agents/x?before=never", "/sets/a?show=all"]
    {
        let page = browser.get(address);
        assert_eq!(page.status, 400, "{address}");
        says(&page.words(), &["That did not work"]);
    }
}
