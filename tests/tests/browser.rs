//! The farm's pages in a real Chromium. Pictures of them go to target/screenshots.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use drover_tests::browser::{Browser, Look};
use drover_tests::farm::Farm;
use drover_tests::graph::{Graph, Made, Recipe};
use drover_tests::ground;
use drover_tests::hand::{Hand, declared, file_nar};
use drover_tests::proxy::Proxy;
use drover_wire::agent::{Heartbeat, Machine, Orders, Progress, Report};
use drover_wire::client::{Submission, Submitted};
use drover_wire::route::{agents, clients};
use drover_wire::{BuildId, BuildState, LeaseId, Phase};

/// A browser, or a word on why there is none.
fn browser(test: &str) -> Option<Browser> {
    let browser = Browser::start();
    if browser.is_none() {
        ground::skipped(
            test,
            "there is no browser for tests; `ci/test browser` has one where npm and Debian's chromium can be had",
        );
    }
    browser
}

fn token(farm: &Farm) -> String {
    std::fs::read_to_string(farm.state().join("client-token")).unwrap().trim().to_owned()
}

fn clients_url(farm: &Farm) -> String {
    format!("http://{}", farm.clients)
}

/// Something to build, which is not built yet.
fn add(graph: &mut Graph, name: &str) -> Made {
    graph.add(Recipe::new(name, "echo built >$out")).unwrap()
}

fn heartbeat(agent: &Hand, lease: LeaseId, phase: Phase) {
    let machine = Machine {
        load_1min: Some(1.5),
        processors: Some(4),
        store_free: Some(200 << 30),
        memory_available: Some(3 << 30),
        ..Machine::default()
    };
    let beat = Heartbeat { accepting: 2, machine, leases: vec![Progress { lease, phase }] };
    let _orders: Orders = agent.peer.post(&agents::HEARTBEAT.path(&[]), &beat).value();
}

fn succeed(agent: &Hand, lease: LeaseId, made: &Made) {
    let nar = file_nar(b"built\n");
    let output = declared(made.out(), &nar, &[]);
    agent.deliver(lease, &output, &zstd::encode_all(&nar[..], 1).unwrap());
    let answer = agent.report(lease, &Report::Succeeded { outputs: vec![output] });
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// The words of a state stand in the page with its sign, in an element of this class.
fn is(state: BuildState) -> String {
    format!("document.querySelector('h1 .is-{state}') !== null")
}

#[test]
fn a_build_appears_runs_and_turns_green_without_a_reload_also_after_the_connection_broke() {
    let Some(mut browser) = browser("a build in a browser") else { return };
    let farm = Farm::start();
    let proxy = Proxy::to(farm.clients);
    let agent = Hand::new(&farm, "overdrive-1");
    browser.open(Look::default());
    browser.log_in(&proxy.url(), &token(&farm));
    browser.wait_text("overdrive-1");
    browser.wait("document.getElementById('live').dataset.state === 'live'");
    // What is there after a reload is not this page any more.
    browser.value("window.same = true");

    let mut graph = Graph::new("browser").unwrap();
    let (first, second) = (add(&mut graph, "hello-2.12.2"), add(&mut graph, "grep-3.11"));
    let builds = farm.client.submit(&graph, &[&first]);
    browser.wait_text("hello-2.12.2");
    let lease = agent.allocation().lease;
    heartbeat(&agent, lease, Phase::Building);
    browser.wait("/hello-2.12.2\\s+builds/.test(document.querySelector('main').innerText)");
    browser.shot("activity-light");
    assert_eq!(browser.barriers(), Vec::<String>::new());
    succeed(&agent, lease, &first);
    browser.wait("document.querySelector('[data-key^=\"ended\"] .is-succeeded') !== null");

    // Nothing comes through for a while, and something happens meanwhile.
    proxy.cut();
    browser.wait("document.getElementById('live').dataset.state === 'late'");
    let more = farm.client.submit(&graph, &[&second]);
    proxy.restore();
    browser.wait_text("grep-3.11");
    browser.wait("document.getElementById('live').dataset.state === 'live'");
    let lease = agent.allocation().lease;
    let _sent = agent.log(lease, 0, b"starting\n");
    browser.wait("[...document.querySelectorAll('[data-key]')].some((row) => /overdrive-1.*grep-3.11/s.test(row.innerText))");
    assert_eq!(browser.value("window.same"), true, "the page was loaded again");

    // The page of the build, followed to its end.
    browser.go(&format!("{}/builds/{}", proxy.url(), more[0]));
    browser.value("window.same = true");
    browser.wait(&is(BuildState::Running));
    browser.wait_text("starting");
    let line = b"starting phase `build'\n\x1b[1;32mCC\x1b[0m main.o\n";
    let _sent = agent.log(lease, 9, line);
    browser.wait_text("main.o");
    succeed(&agent, lease, &second);
    browser.wait(&is(BuildState::Succeeded));
    assert_eq!(browser.value("window.same"), true, "the page was loaded again");
    browser.shot("build-succeeded");
    assert_eq!(browser.barriers(), Vec::<String>::new());
    assert_eq!(errors(&mut browser), Vec::<String>::new());
    assert_eq!(farm.client.show(builds[0]).summary.state, BuildState::Succeeded);
}

/// What the page's scripts and its policy complained of; that a connection broke is no complaint.
fn errors(browser: &mut Browser) -> Vec<String> {
    let said = browser.said();
    said.into_iter().filter(|line| line.starts_with("error") && !line.contains("net::ERR_")).collect()
}

const HOSTILE: &[u8] = b"starting phase `unpack'\n<script>window.hacked = 1</script></details></main><h1>gone</h1>\n\
    <img src=x onerror=\"window.hacked = 2\">\n\x1b]0;title\x07\x1b]8;;javascript:window.hacked=3\x1b\\click\x1b]8;;\x1b\\\n\
    \xff\xfe not text \xf0\x9f\n\x1b[31mred \x1b[38;2;1;2;3mtrue colour\x1b[999999999999m\x1b[0m\x1b[2J\x1b[1;1H\n\
    phase `unpack' failed after 0.1 seconds\nprogress 1%\rprogress 2%\rprogress 100%\n";

#[test]
fn what_a_hostile_log_tag_or_message_has_in_it_is_shown_and_never_run() {
    let Some(mut browser) = browser("hostile text in a browser") else { return };
    let farm = Farm::start();
    let agent = Hand::new(&farm, "board");
    let mut graph = Graph::new("hostile").unwrap();
    let made = add(&mut graph, "evil-1.0");
    let _uploaded = farm.client.upload(&drover_tests::client::bundle(&graph));
    let mut wanted = drover_tests::client::want(&made);
    let bad = "<script>window.hacked = 4</script>";
    wanted.tags.insert("branch".to_owned(), bad.to_owned());
    wanted.tags.insert("\"><script>window.hacked++</script>".to_owned(), "x".to_owned());
    let submission = Submission { builds: vec![wanted] };
    let submitted: Submitted = farm.client.peer.post(&clients::SUBMIT.path(&[]), &submission).value();
    let build = submitted.builds[0].build;
    let lease = agent.allocation().lease;
    let _sent = agent.log(lease, 0, HOSTILE);
    let message = "<img src=x onerror=\"window.hacked = 6\">".to_owned();
    let url = clients_url(&farm);
    browser.open(Look::default());
    browser.log_in(&url, &token(&farm));
    browser.go(&format!("{url}/builds/{build}"));
    browser.wait_text("window.hacked = 1");
    // The rest comes while the page is looked at.
    let _sent = agent.log(lease, HOSTILE.len() as u64, HOSTILE);
    browser.wait("document.body.innerText.split('progress 100%').length > 2");
    let _answer = agent.report(lease, &Report::Failed { message });
    browser.wait(&is(BuildState::Failed));
    for shown in [
        "window.hacked = 1",
        "window.hacked = 2",
        "not text",
        "true colour",
        "window.hacked = 4",
        "window.hacked = 6",
    ] {
        browser.wait_text(shown);
    }
    for address in
        ["/", "/queue", "/search?q=evil", "/search?q=%3Cscript%3Ewindow.hacked%3D7%3C%2Fscript%3E", "/hooks"]
    {
        assert_eq!(browser.go(&format!("{url}{address}")), 200);
        assert_eq!(browser.value("window.hacked ?? null"), serde_json::Value::Null, "{address}");
    }
    browser.go(&format!("{url}/builds/{build}"));
    assert_eq!(browser.value("window.hacked ?? null"), serde_json::Value::Null);
    assert_eq!(browser.value("document.querySelectorAll('main script, main img').length"), 0);
    assert_eq!(browser.barriers(), Vec::<String>::new());
    browser.shot("build-hostile");
    // Byte for byte what the agent sent, all the same.
    assert_eq!(farm.client.log(build), [HOSTILE, HOSTILE].concat());
    assert_eq!(errors(&mut browser), Vec::<String>::new());
}

/// A farm with something of everything, and what has pages of its own in it.
fn full() -> (Farm, Hand, BuildId, Made) {
    let farm = Farm::start();
    let agent = Hand::new(&farm, "honeycomb-2");
    let mut graph = Graph::new("full").unwrap();
    let base = graph.add(Recipe::new("base-1.0", "exit 1")).unwrap();
    let app = graph.add(Recipe::new("app-2.0", "echo >$out").input(&base)).unwrap();
    let done = add(&mut graph, "done-3.0");
    let _builds = farm.client.submit(&graph, &[&done]);
    let lease = agent.allocation().lease;
    let _sent = agent.log(lease, 0, b"starting phase `build'\nphase `build' succeeded after 0.1 seconds\n");
    succeed(&agent, lease, &done);
    let builds = farm.client.submit(&graph, &[&app]);
    let lease = agent.allocation().lease;
    let _sent = agent.log(lease, 0, b"it does not go\n");
    let _answer = agent.report(lease, &Report::Failed { message: "exit code 1".to_owned() });
    let row = |package: &str, version: String, made: &Made| {
        let (derivation, system) = (made.path.full(), "x86_64-linux");
        serde_json::json!({"derivation": derivation, "package": package, "version": version, "system": system})
    };
    // One that has more versions than there is room for beside each other, and one of which an error is long.
    let all: Vec<Made> = (0..16).map(|n| add(&mut graph, &format!("many-{n}"))).collect();
    let _uploaded = farm.client.upload(&drover_tests::client::bundle(&graph));
    let many = all.iter().enumerate().map(|(n, made)| row("many", format!("{n}.0.20260131-4f3c2b1a9"), made));
    let error = "no code for module (gnu packages that-are-not-there)";
    let odd =
        serde_json::json!({"error": error, "package": "odd", "version": "1", "system": "riscv64-linux"});
    let (first, second) = (row("tool", "1".to_owned(), &done), row("tool", "2".to_owned(), &app));
    for (revision, rows) in [
        ("r1", vec![first]),
        ("4f3c2b1a9d8e7f6a5b4c3d2e1f0a9b8c7d6e5f4a", many.chain([odd, second]).collect::<Vec<_>>()),
    ] {
        let path = format!("/v1/sets/master/revisions/{revision}?rows={}", rows.len());
        let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
        let answer = farm.client.peer.send("POST", &path, &zstd::encode_all(lines.as_bytes(), 1).unwrap());
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    (farm, agent, builds[0], app)
}

#[test]
fn every_page_is_without_barriers_light_and_dark_wide_and_narrow() {
    let Some(mut browser) = browser("all pages in a browser") else { return };
    let (farm, _agent, build, app) = full();
    let url = clients_url(&farm);
    let pages = [
        ("activity", "/".to_owned()),
        ("queue", "/queue".to_owned()),
        ("search", "/search?q=app".to_owned()),
        ("build", format!("/builds/{build}")),
        ("log", format!("/builds/{}/log", farm.client.builds().last().unwrap().build)),
        ("derivation", format!("/derivations/{}", app.path.base_name())),
        ("agent", "/agents/honeycomb-2".to_owned()),
        ("sets", "/sets".to_owned()),
        ("set", "/sets/master".to_owned()),
        ("changes", "/sets/master?show=changes".to_owned()),
        ("blockers", "/sets/master?show=blockers".to_owned()),
        ("login", "/login?to=%2Fqueue".to_owned()),
        ("storage", "/storage".to_owned()),
        ("hooks", "/hooks".to_owned()),
        ("nothing", "/builds/00000000-0000-4000-8000-000000000000".to_owned()),
    ];
    let mut found = Vec::new();
    for (look, width, dark) in [("light", 1280, false), ("dark", 1280, true), ("narrow", 390, false)] {
        browser.open(Look { width, dark, script: true });
        browser.log_in(&url, &token(&farm));
        browser.wait("location.pathname === '/'");
        for (page, address) in &pages {
            browser.go(&format!("{url}{address}"));
            browser.wait("document.querySelector('main h1') !== null");
            // Nothing but what may be wide, in a box of its own, is wider than the window.
            let wide =
                browser.value("document.documentElement.scrollWidth - document.documentElement.clientWidth");
            assert_eq!(wide, 0, "{page} {look}");
            browser.shot(&format!("{page}-{look}"));
            found.extend(browser.barriers().into_iter().map(|barrier| format!("{page} {look}: {barrier}")));
            assert_eq!(
                errors(&mut browser).into_iter().filter(|said| !said.contains("404")).collect::<Vec<_>>(),
                Vec::<String>::new()
            );
        }
    }
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn pages_say_everything_without_scripts_and_are_used_with_the_keyboard() {
    let Some(mut browser) = browser("pages without scripts") else { return };
    let (farm, _agent, build, _app) = full();
    let url = clients_url(&farm);
    browser.open(Look { script: false, ..Look::default() });
    browser.log_in(&url, &token(&farm));
    let said = browser.text("main");
    for part in ["honeycomb-2", "done-3.0", "base-1.0", "1 ⊘ dependency failed"] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    browser.go(&format!("{url}/builds/{build}"));
    let said = browser.text("main");
    assert!(said.contains("base-1.0") && said.contains("could not be had"), "{said}");
    assert_eq!(
        browser.count("main form[data-api]"),
        browser.count("main form"),
        "what needs no script has none"
    );
    // With the keyboard: the first thing leads past the navigation.
    browser.open(Look::default());
    browser.log_in(&url, &token(&farm));
    browser.wait("location.pathname === '/'");
    browser.tell(&serde_json::json!({"do": "press", "key": "Tab"}));
    assert_eq!(browser.value("document.activeElement.getAttribute('href')"), "#main");
}

#[test]
fn a_stream_of_events_is_read_by_a_browser_and_taken_up_where_it_broke_off() {
    let Some(mut browser) = browser("EventSource in a browser") else { return };
    let farm = Farm::start();
    let proxy = Proxy::to(farm.clients);
    browser.open(Look::default());
    browser.log_in(&proxy.url(), &token(&farm));
    browser.go(&format!("{}/hooks", proxy.url()));
    browser.value(
        "window.seen = []; window.source = new EventSource('/events?kind=build-submitted&since=0'); \
         source.addEventListener('build-submitted', (event) => seen.push(JSON.parse(event.data).id)); 0",
    );
    let mut graph = Graph::new("source").unwrap();
    let all: Vec<Made> = (0..3).map(|n| add(&mut graph, &format!("made-{n}"))).collect();
    let _builds = farm.client.submit(&graph, &[&all[0]]);
    browser.wait("seen.length === 1");
    proxy.cut();
    let _builds = farm.client.submit(&graph, &[&all[1]]);
    proxy.restore();
    let _builds = farm.client.submit(&graph, &[&all[2]]);
    browser.wait("seen.length === 3");
    let seen: Vec<u64> = serde_json::from_value(browser.value("seen")).unwrap();
    assert!(seen.windows(2).all(|two| two[0] < two[1]), "{seen:?}");
    // The same with a program that knows nothing of events.
    let curl = std::process::Command::new("curl")
        .args(["-sN", "--max-time", "60", "-H", &format!("Authorization: Bearer {}", token(&farm))])
        .arg(format!("{}/events?since=0&once=true&kind=build-submitted", clients_url(&farm)))
        .output()
        .unwrap();
    let text = String::from_utf8(curl.stdout).unwrap();
    let ids: Vec<u64> = text.lines().filter_map(|line| line.strip_prefix("id: ")?.parse().ok()).collect();
    assert!(curl.status.success() && text.contains("event: build-submitted\ndata: {\"id\":"), "{text}");
    assert_eq!(ids[ids.len() - 3..], seen[..]);
}
