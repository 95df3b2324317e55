//! TLS: whom agents and commands trust, what they say when they do not, and certificates that are renewed.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Output;
use std::thread;
use std::time::Duration;

use drover_tests::authority::{Authority, Pair, Wanted, replace};
use drover_tests::farm::{Farm, Setup, program, words};
use drover_tests::graph::{Graph, Recipe};
use drover_tests::ground::{self, Ground};
use drover_tests::service::Service;
use drover_tests::service::Start;
use tempfile::TempDir;

/// A coordinator with a certificate for `localhost` by an authority of its own. In the order in which they end.
struct Secured {
    farm: Farm,
    authority: Authority,
    pair: Pair,
    folder: TempDir,
}

impl Secured {
    /// These listeners speak TLS.
    fn with(listeners: &str, wanted: Wanted<'_>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(folder.path(), "ours");
        let pair = authority.certify(folder.path(), wanted);
        let farm = Farm::with(&Setup { flags: pair.flags(listeners), ..Setup::default() });
        Self { farm, authority, pair, folder }
    }

    fn agents_url(&self) -> String {
        https(self.farm.agents)
    }

    /// Another certificate, in the place of the one that is there.
    fn renew(&self, wanted: Wanted<'_>) {
        let _ = self.authority.certify(self.folder.path(), wanted);
    }

    fn pin(&self) -> String {
        let output = self.farm.drover([Path::new("key"), Path::new("tls"), &self.pair.certificate]);
        assert!(output.status.success(), "{}", words(&output));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn agent_start(&self, name: &str, ground: &Ground) -> Start {
        self.farm.agent_start(name, ground, &self.agents_url())
    }

    /// A command that speaks to the clients' listener, with these words and variables more.
    fn ask(&self, url: &str, words: &[&str], variables: &[(&str, &str)]) -> Output {
        let mut command = self.farm.drover_command(["agent", "list", "--coordinator", url]);
        command.args(words).envs(variables.iter().copied()).output().unwrap()
    }
}

fn https(address: SocketAddr) -> String {
    format!("https://localhost:{}", address.port())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[track_caller]
fn fails_with(output: &Output, parts: &[&str]) {
    assert!(!output.status.success(), "{}", words(output));
    for part in parts {
        assert!(words(output).contains(part), "“{part}” is not said: {}", words(output));
    }
}

#[test]
fn builds_go_through_tls_by_the_system_s_authorities_a_file_of_them_and_a_pinned_key() {
    if !ground::available("builds through TLS") {
        return;
    }
    let secured = Secured::with("agents,public", Wanted::default());
    let farm = &secured.farm;
    let ground = farm.ground("one");
    let mut graph = Graph::new("tls").unwrap();
    let authority = text(&secured.authority.file);
    let pin = secured.pin();
    assert!(farm.coordinator.text().contains(&pin), "the start does not say {pin}");
    let wide =
        Recipe::new("system", "i=0; while [ $i -lt 20000 ]; do echo $i of many; i=$((i + 1)); done >$out");
    let trusts: [(Recipe, &[&str], Option<&str>); 3] = [
        (wide, &[], Some(authority)),
        (Recipe::new("file", "cat $inputs >$out"), &["--ca-file", authority], None),
        (Recipe::new("pin", "cat $inputs >$out"), &["--coordinator-key", &pin], None),
    ];
    let mut before = None;
    for (recipe, flags, system) in trusts {
        let name = recipe.name.clone();
        let made = graph.add(match &before {
            Some(before) => recipe.input(before),
            None => recipe,
        });
        let made = made.unwrap();
        let mut start = secured.agent_start(&name, &ground).args(flags);
        if let Some(file) = system {
            start = start.env("SSL_CERT_FILE", file);
        }
        let mut agent = Service::start(&name, start);
        let builds = farm.client.submit(&graph, &[&made]);
        farm.client.wait_success(&builds);
        agent.kill();
        before = Some(made);
    }
}

#[test]
fn an_agent_says_what_is_wrong_with_a_certificate_and_goes_on_when_it_was_renewed_without_a_restart() {
    if !ground::available("certificates that are wrong") {
        return;
    }
    let secured = Secured::with("agents", Wanted { years: (2020, 2021), ..Wanted::default() });
    let farm = &secured.farm;
    let ground = farm.ground("one");
    assert!(
        farm.coordinator.text().contains("was valid until 2021-01-01 00:00 UTC"),
        "no warning at the start"
    );
    let authority = text(&secured.authority.file);
    let agent = Service::start("one", secured.agent_start("one", &ground).args(["--ca-file", authority]));
    agent.line("was valid until 2021-01-01 00:00 UTC, and this machine's clock says that it is 2");

    secured.renew(Wanted { years: (2085, 2090), ..Wanted::default() });
    agent.line("is valid from 2085-01-01 00:00 UTC on, and this machine's clock says that it is 2");
    secured.renew(Wanted { name: "sparky.example", ..Wanted::default() });
    agent.line("the certificate is for sparky.example, and not for localhost");
    let other = Authority::new(secured.folder.path(), "other");
    let _ = other.certify(secured.folder.path(), Wanted::default());
    agent.line("vouches for the certificate");
    secured.renew(Wanted::default());
    farm.wait_online("one");
}

#[test]
fn a_pinned_key_counts_alone_and_another_one_is_refused_by_its_name() {
    let secured = Secured::with(
        "clients",
        Wanted { name: "elsewhere.example", years: (2020, 2021), ..Wanted::default() },
    );
    let (url, pin) = (https(secured.farm.clients), secured.pin());
    let output = secured.ask(&url, &["--coordinator-key", &pin], &[]);
    assert!(output.status.success(), "{}", words(&output));
    let output = secured.ask(&url, &[], &[("DROVER_COORDINATOR_KEY", &pin)]);
    assert!(output.status.success(), "{}", words(&output));

    secured.renew(Wanted::default());
    let new = secured.pin();
    assert_ne!(new, pin);
    fails_with(&secured.ask(&url, &["--coordinator-key", &pin], &[]), &[&new, &pin, "not the pinned one"]);
    // Both, while the one takes the other's place.
    let both = ["--coordinator-key", &pin, "--coordinator-key", &new];
    let output = secured.ask(&url, &both, &[]);
    assert!(output.status.success(), "{}", words(&output));
}

#[test]
fn commands_trust_the_authorities_that_they_are_told_to_and_say_whom_they_trusted_otherwise() {
    let secured = Secured::with("clients", Wanted::default());
    let (url, authority) = (https(secured.farm.clients), text(&secured.authority.file));
    for (flags, variables) in [
        (&["--ca-file", authority][..], &[][..]),
        (&[], &[("DROVER_CA_FILE", authority)]),
        (&[], &[("SSL_CERT_FILE", authority)]),
    ] {
        let output = secured.ask(&url, flags, variables);
        assert!(output.status.success(), "{}", words(&output));
    }
    let pin = secured.pin();
    fails_with(&secured.ask(&url, &[], &[]), &["vouches", "--ca-file", &pin]);
    let other = Authority::new(secured.folder.path(), "other");
    fails_with(&secured.ask(&url, &["--ca-file", text(&other.file)], &[]), &["vouches", text(&other.file)]);
    fails_with(&secured.ask(&url, &["--ca-file", "/no/such.pem"], &[]), &["--ca-file", "/no/such.pem"]);
    fails_with(&secured.ask(&url, &["--coordinator-key", "sha256/x"], &[]), &["drover key tls"]);
    fails_with(
        &secured.ask(&url, &["--coordinator-key", &pin, "--ca-file", authority], &[]),
        &["cannot be used with"],
    );
    let plain = url.replace("https", "http");
    fails_with(&secured.ask(&plain, &[], &[]), &["speaks TLS", "https://"]);
    fails_with(&secured.ask(&plain, &["--coordinator-key", &pin], &[]), &["https://"]);
    // The other way round: TLS with who does not speak it.
    fails_with(&secured.ask(&https(secured.farm.agents), &[], &[]), &["does not speak TLS"]);
}

/// Lets TLS through to this address, and answers all else as a server would whose clock says this date.
fn with_another_clock(target: SocketAddr, date: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut first = [0];
                client.peek(&mut first).unwrap();
                if first != [0x16] {
                    let mut asked = [0; 1024];
                    let read = client.read(&mut asked).unwrap();
                    assert!(
                        !String::from_utf8_lossy(&asked[..read]).to_lowercase().contains("authorization")
                    );
                    write!(client, "HTTP/1.1 400 Bad Request\r\nDate: {date}\r\n\r\n").unwrap();
                    return;
                }
                let mut server = TcpStream::connect(target).unwrap();
                let (mut from, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                thread::spawn(move || std::io::copy(&mut from, &mut to));
                // Who hangs up first does not matter.
                let _ = std::io::copy(&mut client, &mut server);
            });
        }
    });
    address
}

#[test]
fn a_certificate_that_has_ended_is_told_from_a_clock_that_is_wrong_by_the_server_s() {
    let secured = Secured::with("clients", Wanted { years: (2020, 2021), ..Wanted::default() });
    let authority = text(&secured.authority.file);
    let ask = |address| secured.ask(&https(address), &["--ca-file", authority], &[]);
    fails_with(&ask(secured.farm.clients), &["valid until 2021-01-01", "it is the certificate"]);
    let other = with_another_clock(secured.farm.clients, "Sat, 06 Jun 2020 08:49:37 GMT");
    fails_with(
        &ask(other),
        &["valid until 2021-01-01", "says that it is 2020-06-06 08:49", "likely this machine's"],
    );
    let silent = with_another_clock(secured.farm.clients, "some day");
    let output = ask(silent);
    fails_with(&output, &["valid until 2021-01-01", "set the clock"]);
    assert!(!words(&output).contains("The server's clock"), "{}", words(&output));
}

#[test]
fn an_import_trusts_a_server_by_authorities_or_by_its_key_and_says_what_is_wrong_with_another() {
    let secured = Secured::with("public", Wanted::default());
    let (url, pin) = (https(secured.farm.public), secured.pin());
    let absent = "/gnu/store/00a3xasf5iyzfv23danwy7pilf2yyxjz-no";
    let import = |url: &str, key: &[&str]| secured.farm.drover([&["import", url, absent], key].concat());
    // It came as far as to ask.
    fails_with(&import(&url, &["--server-key", &pin]), &["done", "does not have it"]);
    fails_with(&import(&url, &[]), &["vouches", &pin]);
    let other = "sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
    fails_with(&import(&url, &["--server-key", other]), &["not the pinned one", &pin]);
    fails_with(&import(&url.replace("https", "http"), &["--server-key", &pin]), &["https://"]);
    fails_with(&import(&url, &["--server-key", "sha256/x"]), &["drover key tls"]);
}

#[test]
fn a_new_certificate_that_cannot_be_used_leaves_the_one_before_and_is_said() {
    let secured = Secured::with("clients", Wanted::default());
    let (url, authority) = (https(secured.farm.clients), text(&secured.authority.file));
    let works = || {
        let output = secured.ask(&url, &["--ca-file", authority], &[]);
        assert!(output.status.success(), "{}", words(&output));
    };
    works();
    let certificate = fs::read_to_string(&secured.pair.certificate).unwrap();
    for (contents, complaint) in
        [("no certificate\n", "there is no certificate in it"), ("", "BEGIN CERTIFICATE")]
    {
        let mark = secured.farm.coordinator.mark();
        replace(&secured.pair.certificate, contents);
        works();
        let line = secured.farm.coordinator.line_after(mark, "the one before stays");
        assert!(line.contains(complaint) && line.contains("server.pem"), "{line}");
    }
    // One that belongs to another key.
    let mark = secured.farm.coordinator.mark();
    let elsewhere = tempfile::tempdir().unwrap();
    let other = secured.authority.certify(elsewhere.path(), Wanted::default());
    replace(&secured.pair.certificate, &fs::read_to_string(other.certificate).unwrap());
    works();
    secured.farm.coordinator.line_after(mark, "does not belong to");
    replace(&secured.pair.certificate, &certificate);
    works();
}

#[test]
fn files_that_are_no_certificate_or_no_pair_are_refused_at_the_start_by_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "ours");
    let pair = authority.certify(folder.path(), Wanted::default());
    let other = folder.path().join("other");
    fs::create_dir(&other).unwrap();
    let other = authority.certify(&other, Wanted::default());
    let junk = folder.path().join("junk");
    fs::write(&junk, "junk").unwrap();
    let none = folder.path().join("none");
    let cases: &[(&[&str], &[&str])] = &[
        (
            &["--tls-certificate", text(&pair.certificate), "--tls-key", text(&other.key)],
            &["does not belong to"],
        ),
        (&["--tls-certificate", text(&junk), "--tls-key", text(&pair.key)], &[text(&junk), "no certificate"]),
        (
            &["--tls-certificate", text(&pair.certificate), "--tls-key", text(&junk)],
            &[text(&junk), "no private key"],
        ),
        (
            &["--tls-certificate", text(&none), "--tls-key", text(&pair.key)],
            &[text(&none), "tls-certificate"],
        ),
        (&["--tls-certificate", text(&pair.key), "--tls-key", text(&pair.key)], &["no certificate"]),
        (&["--tls-certificate", text(&pair.certificate)], &["tls-key"]),
        (&["--tls-listeners", "agents"], &["tls-certificate"]),
        (&["--tls-listeners", "everybody"], &["agents", "clients", "public"]),
    ];
    for (flags, parts) in cases {
        let state = folder.path().join("state");
        let mut command = std::process::Command::new(program("drover"));
        command.args(["serve", "--state", text(&state), "--public-listen", "127.0.0.1:0"]);
        command.args(["--agents-listen", "127.0.0.1:0", "--clients-listen", "127.0.0.1:0"]).args(*flags);
        fails_with(&command.output().unwrap(), parts);
        assert!(!state.exists(), "{flags:?} were refused after the state folder was made");
    }
}

#[test]
fn who_says_nothing_or_something_else_than_tls_is_in_nobody_s_way() {
    let secured = Secured::with("agents,clients,public", Wanted::default());
    let clients = secured.farm.clients;
    let _silent: Vec<TcpStream> = (0..50).map(|_| TcpStream::connect(clients).unwrap()).collect();
    for garbage in [&b"\x16\x03\x01\xff\xff"[..], b"\x00", b"\x16\x03\x01\x00\x05hello"] {
        TcpStream::connect(clients).unwrap().write_all(garbage).unwrap();
    }
    for address in [secured.farm.agents, clients, secured.farm.public] {
        let mut plain = TcpStream::connect(address).unwrap();
        plain.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        plain.write_all(b"GET /nix-cache-info HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut answer = String::new();
        plain.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("speaks TLS"), "{answer}");
    }
    let output = secured.ask(&https(clients), &["--ca-file", text(&secured.authority.file)], &[]);
    assert!(output.status.success(), "{}", words(&output));
}

/// What curl gets from the clients' listener, its head in front.
fn curl(secured: &Secured, path: &str, more: &[&str]) -> String {
    let output = std::process::Command::new("curl")
        .args(["-s", "-i", "--max-time", "60", "--cacert", text(&secured.authority.file)])
        .args(["-H", "Accept: text/html"])
        .args(more)
        .arg(format!("{}{path}", https(secured.farm.clients)))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", words(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_browser_that_logs_in_through_tls_gets_a_cookie_for_tls_alone() {
    let secured = Secured::with("clients", Wanted::default());
    let token = secured.farm.state().join("client-token");
    let answer = curl(&secured, "/login", &["--data-urlencode", &format!("token@{}", text(&token))]);
    let (_, cookie) = answer.split_once("set-cookie: ").unwrap_or_else(|| panic!("no cookie: {answer}"));
    let cookie = cookie.lines().next().unwrap();
    assert!(cookie.ends_with("; HttpOnly; SameSite=Strict; Secure"), "{cookie}");
    let pair = cookie.split(';').next().unwrap();
    let page = curl(&secured, "/", &["-H", &format!("Cookie: {pair}")]);
    assert!(page.starts_with("HTTP/1.1 200 ") && page.contains("<h1>Activity</h1>"), "{page}");
    // The logout takes it away as it was given, or a browser would keep it.
    let answer = curl(&secured, "/logout", &["-X", "POST", "-H", &format!("Cookie: {pair}")]);
    assert!(answer.contains("Max-Age=0; HttpOnly; SameSite=Strict; Secure"), "{answer}");
    let page = curl(&secured, "/", &["-H", &format!("Cookie: {pair}")]);
    assert!(page.starts_with("HTTP/1.1 303 ") && page.contains("location: /login"), "{page}");
}
