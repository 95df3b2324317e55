//! Pages: who may look at them, and what they may do in a browser.

use std::io::Read as _;

use drover_wire::agent::{Heartbeat, Machine, Progress, Report};
use drover_wire::bundle::Kind;
use drover_wire::client::{Submission, Submitted, Wanted};
use drover_wire::event::EventKind;
use drover_wire::route::{agents, clients};
use drover_wire::{BuildId, Code, Phase};
use serde_json::json;

use crate::browser::Browser;
use crate::client::bundle;
use crate::graph::{SYSTEM, derivation};
use crate::house::House;

/// All pages that need nothing to be there.
const PAGES: [&str; 6] = ["/", "/queue", "/search", "/sets", "/storage", "/hooks"];

#[test]
fn a_page_wants_a_login_and_is_what_one_goes_on_to() {
    let house = House::start();
    let mut browser = Browser::new(house.clients);
    for path in PAGES {
        let answer = browser.get(path);
        assert_eq!(answer.status, 303, "{path}");
        assert!(answer.bytes.is_empty());
    }
    assert_eq!(browser.get("/").header("location"), "/login");
    let to = browser.get("/queue?system=i586-gnu").header("location").to_owned();
    assert_eq!(to, "/login?to=%2Fqueue%3Fsystem%3Di586-gnu");
    let form = browser.get(&to);
    assert!(form.page().contains("A client’s token"));
    assert!(form.text().contains("name=\"to\" value=\"/queue?system=i586-gnu\""), "{}", form.text());

    let answer = browser.log_in(&house.token(), "/queue?system=i586-gnu", &[]);
    assert_eq!((answer.status, answer.header("location")), (303, "/queue?system=i586-gnu"));
    for path in PAGES {
        assert_eq!(browser.get(path).status, 200, "{path}");
    }
    // Also for a program that has a token, and for one that has none and wants no page.
    assert_eq!(house.client().0.get("/").status, 200);
    let mut stranger = house.client().0;
    stranger.authorization.clear();
    stranger.get("/").refused(Code::Unauthorized);
}

#[test]
fn a_wrong_token_is_no_login_and_is_not_repeated() {
    let house = House::start();
    let mut browser = Browser::new(house.clients);
    for wrong in ["", "0000000000000000", &"a".repeat(5000), "<script>alert(1)</script>", "\u{0}"] {
        let answer = browser.log_in(wrong, "/queue", &[]);
        assert_eq!(answer.status, 403, "{wrong}");
        assert!(answer.words().contains("does not know this token"));
        assert!(wrong.is_empty() || !answer.text().contains(wrong));
        assert_eq!((answer.header("set-cookie"), &browser.cookie), ("", &None));
    }
    assert_eq!(browser.log_in(&"a".repeat(20_000), "/", &[]).status, 413);
    assert_eq!(browser.get("/").status, 303);
    // A token for agents is none for people.
    let token: drover_wire::client::Secret =
        house.client().0.post("/v1/agent-tokens", &drover_wire::client::NewToken::default()).value();
    assert_eq!(browser.log_in(&token.secret, "/", &[]).status, 403);
}

#[test]
fn the_cookie_is_none_that_a_script_or_another_site_can_use() {
    let house = House::start();
    let mut browser = Browser::new(house.clients);
    let answer = browser.log_in(&house.token(), "/", &[]);
    let cookie = answer.header("set-cookie").to_owned();
    let (pair, attributes) = cookie.split_once("; ").unwrap();
    assert_eq!(attributes, "Path=/; Max-Age=2592000; HttpOnly; SameSite=Strict");
    let secret = pair.strip_prefix("drover-session=").unwrap();
    assert!(secret.len() >= 64 && !house.token().contains(secret));
    // Only its hash is kept.
    let kept: Vec<u8> =
        house.database().query_row("SELECT hash FROM sessions", [], |row| row.get(0)).unwrap();
    assert_eq!(kept.len(), 32);
    assert_ne!(data_encoding::HEXLOWER.encode(&kept), secret);
    // Behind a proxy that speaks TLS it is for TLS alone.
    let secure = browser.log_in(&house.token(), "/", &[("x-forwarded-proto", "https")]);
    assert!(secure.header("set-cookie").ends_with("; SameSite=Strict; Secure"));
    // One who logs in again leaves no session behind.
    let count = "SELECT count(*) FROM sessions";
    assert_eq!(house.database().query_row(count, [], |row| row.get::<_, i64>(0)), Ok(1));
}

#[test]
fn a_session_outlives_a_crash_and_ends_with_a_logout_its_time_or_its_token() {
    let mut house = House::start();
    let mut browser = Browser::logged_in(&house);
    house.crash_and_restart();
    browser.address = house.clients;
    assert_eq!(browser.get("/").status, 200);

    let answer = browser.send("POST", "/logout", &[], "");
    assert_eq!((answer.status, answer.header("location")), (303, "/login"));
    assert_eq!(browser.get("/").status, 303);
    browser.keep(&answer);
    assert_eq!(browser.cookie, None);

    let browser = Browser::logged_in(&house);
    assert_eq!(browser.get("/").status, 200);
    house.database().execute("UPDATE sessions SET ends_at = 1", []).unwrap();
    assert_eq!(browser.get("/").status, 303);

    let browser = Browser::logged_in(&house);
    // The next login takes away those that have ended.
    let count = "SELECT count(*) FROM sessions";
    assert_eq!(house.database().query_row(count, [], |row| row.get::<_, i64>(0)), Ok(1));
    assert_eq!(browser.get("/").status, 200);
    let database = house.database();
    database.pragma_update(None, "foreign_keys", true).unwrap();
    database.execute("DELETE FROM tokens", []).unwrap();
    assert_eq!(browser.get("/").status, 303);
    assert_eq!(database.query_row(count, [], |row| row.get::<_, i64>(0)), Ok(0));
}

#[test]
fn another_site_s_form_changes_nothing() {
    let house = House::start();
    let build = house.client().submit(&[&derivation("hello", &[])]);
    let mut browser = Browser::logged_in(&house);
    let cancel = format!("/v1/builds/{build}/cancel");
    let host = format!("http://{}", house.clients);
    for headers in [
        vec![],
        vec![("origin", "http://evil.example")],
        vec![("origin", host.as_str())],
        vec![("x-drover", "1"), ("origin", "http://evil.example")],
        vec![("x-drover", "1"), ("origin", "null")],
        vec![("x-drover", "1"), ("sec-fetch-site", "cross-site")],
        vec![("x-drover", "0"), ("origin", host.as_str())],
    ] {
        let answer = browser.send("POST", &cancel, &headers, "");
        assert_eq!(answer.status, 403, "{headers:?}");
        assert!(answer.words().contains("nothing was done"));
        assert_eq!(house.client().state(build).as_str(), "ready");
    }
    // The forms that work without script are from here, too.
    for path in ["/logout", "/login"] {
        let answer = browser.send("POST", path, &[("origin", "http://evil.example")], "token=x");
        assert_eq!(answer.status, 403);
        assert!(answer.words().contains("another site"), "{}", answer.words());
        assert_eq!(browser.get("/").status, 200);
    }
    let answer = browser.send("POST", &cancel, &[("x-drover", "1"), ("origin", &host)], "");
    assert_eq!(answer.status, 200);
    assert_eq!(house.client().state(build).as_str(), "canceled");
    // A cookie is nothing beside a token that is none.
    let answer = browser.send("POST", &cancel, &[("x-drover", "1"), ("authorization", "Bearer x")], "");
    assert_eq!(answer.status, 401);
    browser.cookie = Some("drover-session=x".to_owned());
    assert_eq!(browser.send("POST", &cancel, &[("x-drover", "1")], "").status, 401);
}

#[test]
fn a_login_goes_on_to_this_coordinator_only() {
    let house = House::start();
    let mut browser = Browser::new(house.clients);
    for to in ["//evil.example/", "https://evil.example/", "/\\evil.example", "/\t/evil.example", "evil", ""]
    {
        let answer = browser.log_in(&house.token(), to, &[]);
        assert_eq!((answer.status, answer.header("location")), (303, "/"), "{to:?}");
    }
    let form = browser.get("/login?to=%2F%2Fevil.example");
    assert!(form.page().contains("Log in") && !form.text().contains("evil"), "{}", form.text());
    let form = browser.get("/login?to=%2F%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E");
    assert!(form.page().contains("Log in") && !form.text().contains("<script>alert"), "{}", form.text());
}

#[test]
fn no_page_lets_anything_in_from_elsewhere() {
    let house = House::start();
    let browser = Browser::logged_in(&house);
    let build = house.client().submit(&[&derivation("hello", &[])]);
    let more = [
        format!("/builds/{build}"),
        "/login".to_owned(),
        "/no-such-page".to_owned(),
        "/builds/00000000-0000-0000-0000-000000000000".to_owned(),
        "/v1/builds/00000000-0000-0000-0000-000000000000".to_owned(),
    ];
    for path in PAGES.iter().copied().chain(more.iter().map(String::as_str)) {
        let answer = browser.get(path);
        let policy = answer.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; style-src 'self'; script-src 'self';"), "{path}");
        assert!(policy.contains("frame-ancestors 'none'") && policy.contains("form-action 'self'"));
        assert!(!policy.contains("unsafe"));
        let others = ["x-content-type-options", "referrer-policy", "cache-control"];
        assert_eq!(others.map(|name| answer.header(name)), ["nosniff", "same-origin", "no-store"], "{path}");
        let text = answer.text();
        // What the policy forbids is not there either.
        for forbidden in [" style=", " onclick=", "javascript:", "<style", "http://", "https://"] {
            assert!(!text.contains(forbidden), "{path} has {forbidden}");
        }
        assert_eq!(text.matches("<script").count(), 1, "{path}");
        assert!(text.contains("<html lang=\"en\">") && text.contains("<main id=\"main\""));
    }
}

#[test]
fn what_a_page_is_made_of_is_kept_for_ever_and_packed() {
    let house = House::start();
    let browser = Browser::new(house.clients);
    let page = browser.get("/login").text();
    let names: Vec<&str> = page.split('"').filter(|part| part.starts_with("/assets/")).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    for name in names {
        let plain = browser.get(name);
        assert_eq!(plain.status, 200);
        assert!(plain.header("cache-control").contains("immutable"));
        assert!(!plain.bytes.is_empty());
        let packed = browser.send("GET", name, &[("accept-encoding", "br, gzip")], "");
        assert_eq!(packed.header("content-encoding"), "gzip");
        assert_eq!(unpacked(&packed.bytes), plain.bytes);
        assert_eq!(packed.header("vary"), "accept-encoding");
    }
    assert_eq!(browser.get("/assets/drover.css").status, 404);
    assert_eq!(browser.get("/assets/..%2f..%2fetc%2fpasswd").status, 404);
}

#[test]
fn refusals_are_pages_for_browsers_and_messages_for_programs() {
    let house = House::start();
    let browser = Browser::logged_in(&house);
    let path = "/v1/builds/00000000-0000-0000-0000-000000000000";
    let answer = browser.get(path);
    assert_eq!(answer.status, 404);
    assert!(answer.words().contains("Not found"), "{}", answer.words());
    house.client().0.get(path).refused(Code::NotFound);
    house.client().0.get("/no-such-page").refused(Code::NotFound);
    assert!(browser.get("/no-such-page").words().contains("/no-such-page"));
    let answer = browser.send("POST", "/queue", &[("x-drover", "1")], "");
    assert_eq!(answer.status, 405);
    let answer = browser.get("/v1/builds/%3Cscript%3E");
    assert_eq!(answer.status, 400);
    assert!(!answer.text().contains("<script>"), "{}", answer.text());
}

/// A build's name, priority and tags.
type Build<'a> = (&'a str, i64, &'a [(&'a str, &'a str)]);

/// Uploads derivations and submits them.
fn submit(house: &House, all: &[Build<'_>]) -> Vec<BuildId> {
    let made: Vec<_> = all.iter().map(|(name, _, _)| derivation(name, &[])).collect();
    let entries: Vec<_> =
        made.iter().map(|made| (Kind::Derivation, &made.path, made.text.as_slice())).collect();
    assert_eq!(house.client().upload(&bundle(&entries)).status, 200);
    let tag = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    let builds = made.iter().zip(all).map(|(made, (_, priority, tags))| Wanted {
        derivation: made.path.clone(),
        priority: *priority,
        tags: tags.iter().map(tag).collect(),
        timeout: None,
        max_silent_time: None,
    });
    let submission = Submission { builds: builds.collect() };
    let submitted: Submitted = house.client().0.post(&clients::SUBMIT.path(&[]), &submission).value();
    submitted.builds.into_iter().map(|build| build.build).collect()
}

#[test]
fn what_agents_do_what_ended_and_what_comes_next_is_on_the_first_page() {
    let house = House::start();
    let browser = Browser::logged_in(&house);
    let empty = browser.get("/").page();
    for words in ["No agent is known", "Nothing has ended yet", "Nothing is ready to be built"] {
        assert!(empty.contains(words), "{empty}");
    }
    let agent = house.agent("sparky");
    let builds =
        submit(&house, &[("first", 5, &[]), ("second", 4, &[]), ("third", 3, &[]), ("fourth", 2, &[])]);
    let first = agent.allocation();
    let failed = Report::Failed { message: "no".to_owned() };
    agent.report(first.lease, &failed);
    let second = agent.allocation();
    let machine = Machine {
        load_1min: Some(2.5),
        processors: Some(8),
        store_free: Some(7 << 30),
        memory_available: Some(3 << 30),
        ..Machine::default()
    };
    let leases = vec![Progress { lease: second.lease, phase: Phase::FetchingInputs }];
    let beat = Heartbeat { accepting: 2, machine, leases };
    agent.0.post(&agents::HEARTBEAT.path(&[]), &beat).value::<serde_json::Value>();

    let page = browser.get("/");
    let words = page.page();
    for facts in [
        "1 agent, 1 online, 1 at work.",
        "sparky is online x86_64-linux 1/2 2.5 /8 3.0 GiB 7.0 GiB second fetches inputs,",
        "✗ failed first x86_64-linux on sparky",
        "3 third x86_64-linux",
        "2 fourth x86_64-linux",
        "2 ○ ready 0 … waiting",
    ] {
        assert!(words.contains(facts), "no {facts:?} in {words}");
    }
    for build in &builds {
        assert!(page.text().contains(&format!("href=\"/builds/{build}\"")));
    }
    // A script gets what may differ, and nothing around it.
    let part = browser.send("GET", "/", &[("x-drover-part", "main"), ("accept", "*/*")], "");
    assert!(
        part.text().starts_with("<h1>Activity</h1>") && !part.text().contains("<main"),
        "{}",
        part.text()
    );
    assert!(page.text().contains("<h1>Activity</h1>"));
    // A browser hears only of events whose kinds it names.
    let kinds = page.text().split("data-kinds=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let all: Vec<_> = EventKind::ALL.iter().map(|kind| kind.as_str()).collect();
    assert_eq!(kinds.split(' ').collect::<Vec<_>>(), all);
}

#[test]
fn the_queue_is_in_the_order_in_which_builds_go_by_system_and_by_tag() {
    let house = House::start();
    let browser = Browser::logged_in(&house);
    submit(
        &house,
        &[
            ("low", -1, &[("branch", "master")]),
            ("early", 0, &[]),
            ("late", 0, &[("branch", "release")]),
            ("high", 7, &[("branch", "master")]),
        ],
    );
    let order = |path: &str| {
        let page = browser.get(path).page();
        let mut found: Vec<_> = ["low", "early", "late", "high"]
            .iter()
            .filter_map(|name| Some((page.find(&format!(" {name} x86_64"))?, *name)))
            .collect();
        found.sort_unstable();
        found.into_iter().map(|(_, name)| name).collect::<Vec<_>>()
    };
    assert_eq!(order("/queue"), ["high", "early", "late", "low"]);
    assert_eq!(order("/queue?system=x86_64-linux&tag="), ["high", "early", "late", "low"]);
    assert_eq!(order("/queue?tag=branch"), ["high", "late", "low"]);
    assert_eq!(order("/queue?tag=branch%3Dmaster&system=&state="), ["high", "low"]);
    assert_eq!(order("/queue?system=i586-gnu"), Vec::<&str>::new());
    assert_eq!(order("/queue?state=waiting"), Vec::<&str>::new());
    // Each is given out as it stands there.
    let agent = house.agent("sparky");
    let names: Vec<String> =
        agent.poll(4, &[]).allocations.iter().map(|one| one.derivation.name().to_owned()).collect();
    assert_eq!(names, ["high.drv", "early.drv", "late.drv", "low.drv"]);
    assert_eq!(order("/queue"), Vec::<&str>::new());
    assert_eq!(order("/queue?state=allocated").len(), 4);
    for bad in ["/queue?state=done", "/queue?after=x", "/search?before=x"] {
        let answer = browser.get(bad);
        assert_eq!(answer.status, 400, "{bad}");
        assert!(answer.words().contains("not one of this page"), "{}", answer.words());
    }
}

#[test]
fn names_are_found_by_any_part_of_them() {
    let house = House::start();
    let browser = Browser::logged_in(&house);
    submit(&house, &[("python-numpy-1.26", 0, &[]), ("python3_x-1", 0, &[]), ("hello-2.12", 0, &[])]);
    let found = |query: &str| {
        let page = browser.get(&format!("/search?q={query}")).page();
        ["python-numpy-1.26", "python3_x-1", "hello-2.12"]
            .map(|name| page.matches(&format!(" {name} ")).count())
    };
    // Once as a build, and once as a derivation.
    assert_eq!(found("python"), [2, 2, 0]);
    assert_eq!(found("%20numpy-1%20"), [2, 0, 0]);
    assert_eq!(found("_"), [0, 2, 0]);
    for nothing in ["%25", "%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E", ""] {
        assert_eq!(found(nothing), [0; 3], "{nothing}");
    }
    let page = browser.get("/search?q=%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E").text();
    assert!(!page.contains("<script>") && page.contains("&lt;script&gt;"), "{page}");
}

#[test]
fn text_from_outside_is_shown_as_text() {
    let house = House::start();
    let browser = Browser::logged_in(&house);
    let hostile = "<script>alert(1)</script>";
    let value = "\"><img src=x onerror=alert(1)>\u{202e}'";
    let builds = submit(&house, &[("hello", 0, &[(hostile, value)]), ("other", 0, &[(hostile, "")])]);
    let agent = house.agent("sparky");
    let lease = agent.allocation().lease;
    agent.report(lease, &Report::Failed { message: format!("{hostile}{value}") });
    let tag: String = format!("{hostile}={value}").bytes().map(|byte| format!("%{byte:02X}")).collect();
    for path in [
        "/".to_owned(),
        "/queue".to_owned(),
        format!("/queue?tag={tag}"),
        format!("/queue?system={tag}"),
        format!("/search?q={tag}"),
        format!("/builds/{}", builds[0]),
        format!("/builds/{}", builds[1]),
        format!("/agents/{tag}"),
        format!("/sets/{tag}"),
    ] {
        let answer = browser.get(&path);
        let text = answer.text();
        assert!(
            !text.contains("<script>") && !text.contains("<img") && !answer.words().contains('\u{202e}'),
            "{path}: {text}"
        );
        // Every quote of it is escaped where it stands in an attribute.
        assert!(!text.contains("\"><img"), "{path}");
        assert!(text.ends_with("</html>"), "{path}");
    }
    assert!(browser.get("/queue").text().contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
}

#[test]
fn a_page_can_be_asked_for_by_its_head_and_comes_packed() {
    let house = House::start();
    let browser = Browser::logged_in(&house);
    let whole = browser.get("/queue");
    let head = browser.send("HEAD", "/queue", &[], "");
    assert_eq!((head.status, head.bytes.len()), (200, 0));
    assert_eq!(head.header("content-length"), whole.bytes.len().to_string());
    assert_eq!(head.header("content-security-policy"), whole.header("content-security-policy"));
    let packed = browser.send("GET", "/queue", &[("accept-encoding", "gzip")], "");
    assert_eq!((packed.header("content-encoding"), packed.header("vary")), ("gzip", "accept-encoding"));
    let text = String::from_utf8(unpacked(&packed.bytes)).unwrap();
    assert!(text.starts_with("<!DOCTYPE html>") && text.ends_with("</html>"));
    assert!(packed.bytes.len() < whole.bytes.len());
}

#[test]
fn everybody_sees_pages_only_where_that_is_switched_on_and_then_only_reads() {
    let house = House::start();
    let public = Browser::new(house.public);
    for path in PAGES.iter().chain(&["/login", "/no-such-page"]) {
        let answer = public.get(path);
        assert_eq!((answer.status, answer.text().as_str()), (404, "There is nothing here.\n"), "{path}");
    }
    drop(house);

    let house = House::with(&["--public-pages"]);
    let build = submit(&house, &[("hello", 0, &[("branch", "master")])]).remove(0);
    house.agent("sparky");
    let mut public = Browser::new(house.public);
    for (path, fact) in [
        ("/".to_owned(), "sparky"),
        ("/queue".to_owned(), "branch=master"),
        ("/search?q=hel".to_owned(), "hello"),
        (format!("/builds/{build}"), "hello"),
        ("/agents/sparky".to_owned(), "sparky"),
        ("/sets".to_owned(), "Sets"),
    ] {
        let answer = public.get(&path);
        assert!(answer.page().contains(fact), "{path}: {}", answer.page());
        let text = answer.text();
        assert!(!text.contains("method=\"post\"") && !text.contains("data-api"), "{path}: {text}");
        assert!(
            !text.contains("Log out") && !text.contains("href=\"/hooks\"") && !text.contains("data-live")
        );
    }
    // Sets are there, but for those that have something that is not to be published, which are as those that are not there.
    let client = house.client().0;
    let made = derivation("hello", &[]).path;
    for (set, publish) in [("open", true), ("closed", false)] {
        let row = json!({
            "derivation": made, "package": "hello", "version": "1", "system": SYSTEM, "publish": publish,
        });
        let rows = zstd::encode_all(format!("{row}\n").as_bytes(), 1).unwrap();
        assert_eq!(client.post_bytes(&format!("/v1/sets/{set}/revisions/r1?rows=1"), &rows).status, 200);
    }
    let sets = public.get("/sets").page();
    assert!(sets.contains(" open r1 ") && !sets.contains("closed"), "{sets}");
    assert_eq!(public.get("/sets/open").status, 200);
    let (closed, none) = (public.get("/sets/closed"), public.get("/sets/nowhere"));
    assert_eq!((closed.status, none.status), (404, 404));
    assert_eq!(
        closed.words().replace("closed", "nowhere").split("as of").next(),
        none.words().split("as of").next()
    );
    assert!(Browser::logged_in(&house).get("/sets").page().contains(" closed r1 "));
    // Its styles are there, too.
    let page = public.get("/").text();
    let styles = page.split('"').find(|part| part.ends_with(".css")).unwrap();
    assert_eq!(public.get(styles).status, 200);
    // What is not for everybody is nowhere, whoever asks.
    public.cookie = Browser::logged_in(&house).cookie;
    for path in ["/storage", "/hooks", "/login", "/v1/builds", "/events", "/no-such-page"] {
        assert_eq!(public.get(path).status, 404, "{path}");
    }
    let answer = public.send("POST", "/queue", &[("x-drover", "1")], "");
    assert_eq!(answer.status, 405);
    let answer = public.get("/builds/00000000-0000-0000-0000-000000000000");
    assert!(answer.status == 404 && answer.words().contains("Not found"));
    // Substitutes are where they were.
    let cache: Vec<u8> = house.stranger().get("/nix-cache-info").body;
    assert!(cache.starts_with(b"StoreDir: "));
}

fn unpacked(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain).unwrap();
    plain
}
