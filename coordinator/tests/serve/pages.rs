//! Pages: who may look at them, and what they may do in a browser.

use std::io::Read as _;

use drover_wire::Code;

use crate::browser::Browser;
use crate::graph::derivation;
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

fn unpacked(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain).unwrap();
    plain
}
