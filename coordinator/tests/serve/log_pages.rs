//! Logs in pages: what they have in them is text, and every part of them can be reached, also while they grow.

use std::io::{BufRead, BufReader};

use crate::browser::Browser;
use crate::details::{build_page, fail, failed, is_harmless, says};
use crate::graph::derivation;
use crate::house::House;

const LOG: &[u8] = b"starting phase `unpack'\n\
    source\n\
    phase `unpack' succeeded after 0.1 seconds\n\
    starting phase `build'\n\
    \x1b[1;31merror:\x1b[0m <script>alert(1)</script> \xff\xfe \x1b]0;title\x07\x1b[2J\n\
    </div></details></main><img src=x onerror=alert(1)>\n\
    10%\r 50%\r100%\n\
    phase `build' failed after 3.2 seconds\n";

#[test]
fn a_log_is_shown_as_text_with_its_colours_and_folded_by_phases() {
    let house = House::start();
    let (client, browser) = (house.client(), Browser::logged_in(&house));
    let build = client.submit(&[&derivation("made", &[])]);
    let agent = house.agent("one");
    let lease = agent.allocation().lease;
    assert_eq!(agent.log(lease, 0, LOG).status, 200);
    let running = build_page(&browser, build);
    assert!(running.text().contains("data-log=\"/builds/"), "it goes on");
    agent.report(lease, &failed("exit code 1"));
    for page in [build_page(&browser, build), browser.get(&format!("/builds/{build}/log"))] {
        assert_eq!(page.status, 200);
        is_harmless(&page);
        let html = page.text();
        says(
            &html,
            &["<span class=\"c1 sb\">error:</span> &lt;script&gt;alert(1)&lt;/script&gt; \u{fffd}\u{fffd}"],
        );
        says(
            &html,
            &["&lt;/div&gt;&lt;/details&gt;&lt;/main&gt;&lt;img src=x onerror=alert(1)&gt;", ">100%<"],
        );
        says(&html, &["<details class=\"phase\" data-state=\"succeeded\"><summary><b>unpack</b>"]);
        says(&html, &["<details class=\"phase\" data-state=\"failed\" open><summary><b>build</b>"]);
        says(&html, &["id=\"L8\"", &format!("href=\"/v1/builds/{build}/log?attempt=1\"")]);
        assert!(!html.contains("10%") && !html.contains("title\u{7}") && !html.contains("data-log"));
        assert!(html.trim_end().ends_with("</html>"));
        assert_eq!(html.matches("</main>").count(), 1);
    }
    assert_eq!(client.whole_log(build), LOG, "the bytes are what they were");
}

#[test]
fn a_long_log_opens_at_its_end_and_every_part_of_it_can_be_reached() {
    let house = House::start();
    let (client, browser) = (house.client(), Browser::logged_in(&house));
    let build = client.submit(&[&derivation("made", &[])]);
    let agent = house.agent("one");
    let lease = agent.allocation().lease;
    let log: String =
        (1..=60_000).map(|n| format!("line number {n} of a long log, which says little\n")).collect();
    let mut sent = 0;
    for chunk in log.as_bytes().chunks(256 << 10) {
        assert_eq!(agent.log(lease, sent, chunk).status, 200);
        sent += chunk.len() as u64;
    }
    agent.report(lease, &failed("exit code 1"));
    let page = build_page(&browser, build).text();
    says(&page, &["line number 60000 of", "The end of 2.9 MiB", "id=\"L60000\""]);
    assert!(!page.contains("line number 58000 of") && page.len() < 300_000, "{} bytes", page.len());

    let mut next = format!("/builds/{build}/log");
    let (mut pages, mut seen) = (0, 0);
    loop {
        let page = browser.get(&next);
        assert_eq!(page.status, 200);
        let html = page.text();
        seen += html.matches("line number ").count();
        pages += 1;
        let Some((before, _)) = html.split_once("\" rel=\"next\"") else { break };
        next = before.rsplit("href=\"").next().unwrap().replace("&amp;", "&");
    }
    assert_eq!((pages, seen), (3, 60_000));
    let end = browser.get(&format!("/builds/{build}/log?attempt=1&from=99999999999"));
    assert_eq!(end.status, 200);
    assert_eq!(browser.get(&format!("/builds/{build}/log?from=-1")).status, 400);
}

#[test]
fn a_log_grows_in_its_page_line_by_line_and_says_when_it_is_over() {
    let house = House::start();
    let (client, browser) = (house.client(), Browser::logged_in(&house));
    let build = client.submit(&[&derivation("made", &[])]);
    let agent = house.agent("one");
    let lease = agent.allocation().lease;
    for page in [build_page(&browser, build), browser.get(&format!("/builds/{build}/log"))] {
        let live = format!(
            "data-key=\"try-1\" data-log=\"/builds/{build}/log/live?attempt=1&amp;from=0&amp;line=1\""
        );
        assert!(page.status == 200 && page.text().contains(&live), "{}", page.text());
    }
    assert_eq!(agent.log(lease, 0, b"before\nstarting phase `build'\nhalf").status, 200);
    let live_of = |page: &str| {
        let (_, live) = page.split_once("data-key=\"try-1\" data-log=\"").unwrap();
        live.split('"').next().unwrap().replace("&amp;", "&")
    };
    let page = build_page(&browser, build).text();
    let live = live_of(&page);
    assert_eq!(live, format!("/builds/{build}/log/live?attempt=1&from=30&line=3"));
    assert!(!page.contains(">half<") && page.contains("data-state=\"running\" open"));

    let mut pieces = BufReader::new(client.0.stream(&live)).lines();
    let mut piece = || pieces.next().unwrap().unwrap();
    assert_eq!(agent.log(lease, 34, b" a line\n").status, 200);
    let row = "<div id=\"L3\"><a href=\"#L3\" tabindex=\"-1\">3</a>half a line</div>";
    let more = "<div class=\"lines\" data-more=\"\">";
    assert_eq!(piece(), format!("<div data-at=\"42\" data-line=\"4\">{more}{row}</div></div>"));
    assert_eq!(agent.log(lease, 42, b"phase `build' succeeded after 1.0 seconds\n<b>the end").status, 200);
    says(&piece(), &["<div data-end=\"succeeded\">✓ succeeded after 1.0 s</div></div>"]);
    agent.report(lease, &failed("exit code 1"));
    says(&piece(), &["data-line=\"6\"><div class=\"lines\"><div id=\"L5\">", "&lt;b&gt;the end"]);
    assert_eq!(piece(), "<div data-over=\"\"></div>");
    assert!(pieces.next().is_none());
    // What is in them runs nowhere, whoever opens them by themselves.
    let alone = browser.get(&format!("/builds/{build}/log/live"));
    says(alone.header("content-security-policy"), &["default-src 'none'", "script-src 'self'"]);
    for path in [format!("/builds/{build}/log/live"), format!("/v1/builds/{build}/log")] {
        assert_eq!(browser.get(&path).header("x-content-type-options"), "nosniff", "{path}");
    }
    // Also when it was over before.
    let whole: Vec<String> = BufReader::new(client.0.stream(&format!("/builds/{build}/log/live")))
        .lines()
        .map(Result::unwrap)
        .collect();
    says(&whole[0], &["<div id=\"L1\">", "before", "<details class=\"phase\"", "half a line"]);
    assert_eq!(whole.last().unwrap(), "<div data-over=\"\"></div>");
}

#[test]
fn a_log_that_is_nowhere_is_not_found_in_words() {
    let house = House::start();
    let (client, browser) = (house.client(), Browser::logged_in(&house));
    let build = client.submit(&[&derivation("made", &[])]);
    let none = browser.get(&format!("/builds/{build}/log"));
    assert_eq!(none.status, 404);
    says(&none.words(), &["There is no log yet: nobody has started the build."]);
    let none = browser.get(&format!("/builds/{build}/log?attempt=7"));
    assert_eq!(none.status, 404);
    says(&none.words(), &["Not found", "There is no such try at the build"]);
    fail(&house.agent("one"), &failed("at once"));
    says(&build_page(&browser, build).page(), &["Nothing was written to it.", "✗ failed"]);
    // One that was removed by its age.
    house.database().execute("UPDATE attempts SET log_removed_at = 951782400000", []).unwrap();
    says(
        &build_page(&browser, build).page(),
        &["This log was removed by its age on 2000-02-29 00:00:00 UTC"],
    );
}

#[test]
fn who_is_far_behind_a_log_that_grows_goes_on_near_its_end() {
    let house = House::start();
    let client = house.client();
    let build = client.submit(&[&derivation("made", &[])]);
    let agent = house.agent("one");
    let lease = agent.allocation().lease;
    let line = format!("{}\n", "x".repeat(1023));
    let chunk = line.repeat(256);
    for n in 0..8 {
        assert_eq!(agent.log(lease, n * chunk.len() as u64, chunk.as_bytes()).status, 200);
    }
    let mut pieces = BufReader::new(client.0.stream(&format!("/builds/{build}/log/live"))).lines();
    let mut piece = || pieces.next().unwrap().unwrap();
    says(&piece(), &["<div data-at=\"2031616\">", "… 1.9 MiB are left out here …"]);
    let end = piece();
    says(&end, &["<div data-at=\"2097152\">", "<div id=\"B2031616\">", "<div id=\"B2096128\">"]);
    assert_eq!(end.matches("<div id=").count(), 64);
    agent.report(lease, &failed("exit code 1"));
    assert_eq!(piece(), "<div data-over=\"\"></div>");
}
