//! The tools of the other tests: that a ground, its gates and the proxy do what tests rely on.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use drover_agent::config::DaemonSocket;
use drover_agent::daemon::{Connection, Event, NewText, Options};
use drover_store::derivation::Derivation;
use drover_store::nar;
use drover_store::path::StorePath;
use drover_tests::demo::{self, fixture, untar};
use drover_tests::graph::{Graph, Made, Recipe};
use drover_tests::ground::{self, GATE, Ground};
use drover_tests::proxy::Proxy;
use drover_tests::wait;

/// Adds all of a graph to a daemon's store.
fn add(socket: &DaemonSocket, graph: &Graph) {
    let folder = tempfile::tempdir().unwrap();
    graph.write(folder.path()).unwrap();
    let mut connection = Connection::open(socket).unwrap();
    let mut nar_bytes = Vec::new();
    nar::pack(&folder.path().join(graph.shell().base_name()), &mut nar_bytes).unwrap();
    connection.add_to_store(graph.shell(), true, &mut nar_bytes.as_slice()).unwrap();
    for path in graph.derivations() {
        let text = graph.bytes(path).unwrap();
        let derivation = Derivation::parse(text).unwrap();
        for source in derivation.sources.iter().filter(|source| *source != graph.shell()) {
            let bytes = graph.bytes(source).unwrap();
            if source.name().ends_with("-builder") {
                let references = [graph.shell().clone()];
                let text = NewText { path: source, text: bytes, references: &references };
                connection.add_texts([text].into_iter()).unwrap();
            } else {
                connection
                    .add_to_store(source, false, &mut drover_tests::hand::file_nar(bytes).as_slice())
                    .unwrap();
            }
        }
        let references = derivation.references();
        connection.add_texts([NewText { path, text, references: &references }].into_iter()).unwrap();
    }
}

fn build(socket: &DaemonSocket, path: &StorePath) -> (bool, Vec<u8>) {
    let mut connection = Connection::open(socket).unwrap();
    connection.set_options(&Options::default()).unwrap();
    let mut log = Vec::new();
    let result = connection.build(path, Some(Duration::from_secs(120)), |event| {
        if let Event::Output(bytes) = event {
            log.extend_from_slice(bytes);
        }
        Ok(())
    });
    (result.is_ok(), log)
}

#[test]
fn a_builder_waits_at_its_gate_until_the_test_opens_it() {
    if !ground::available("gates") {
        return;
    }
    let dir = tempfile::Builder::new().prefix("drover-").tempdir().unwrap();
    let ground = Ground::start(&dir.path().join("g"), &[]);
    let socket: DaemonSocket = ground.socket.display().to_string().parse().unwrap();
    let mut graph = Graph::new("gate").unwrap();
    let made = graph.add(Recipe::new("gated", format!("{GATE} echo >$out"))).unwrap();
    add(&socket, &graph);
    let path = made.path.clone();
    let builder = thread::spawn(move || build(&socket, &path));
    ground.open_gate(&made);
    let (succeeded, log) = builder.join().unwrap();
    assert!(succeeded);
    assert_eq!(log, b"at the gate\nthrough the gate\n");
    assert!(ground.has(made.out()));
}

#[test]
fn a_real_daemon_builds_what_the_graph_says_under_the_names_that_it_says() {
    if !ground::available("the graph") {
        return;
    }
    let dir = tempfile::Builder::new().prefix("drover-").tempdir().unwrap();
    let ground = Ground::start(&dir.path().join("g"), &[]);
    let socket: DaemonSocket = ground.socket.display().to_string().parse().unwrap();
    let mut graph = Graph::new("graph").unwrap();
    let options =
        demo::Options { salt: "graph".to_owned(), work: 1, most: 30, noisy: 3, ..demo::Options::default() };
    let made: Vec<Made> = demo::add(&mut graph, &options).unwrap();
    add(&socket, &graph);
    let mut noisy = 0;
    for made in &made {
        let (succeeded, log) = build(&socket, &made.path);
        assert!(succeeded, "{}: {}", made.path, String::from_utf8_lossy(&log));
        noisy += usize::from(std::str::from_utf8(&log).is_err());
        assert!(made.outputs.iter().all(|(_, path)| ground.has(path)), "{}", made.path);
    }
    assert!(noisy > 0);
}

#[test]
fn downloads_fail_in_a_ground_because_it_has_no_network() {
    if !ground::available("no network") {
        return;
    }
    let dir = tempfile::Builder::new().prefix("drover-").tempdir().unwrap();
    let ground = Ground::start(&dir.path().join("g"), &[]);
    let socket: DaemonSocket = ground.socket.display().to_string().parse().unwrap();
    let name = "00a3xasf5iyzfv23danwy7pilf2yyxjz-m4-1.4.19.tar.xz.drv";
    let files = untar(&fixture("hello-drvs.tar.zst")).unwrap();
    let (_, text) = files.into_iter().find(|(found, _)| found == name).unwrap();
    let path = StorePath::parse_base(name).unwrap();
    let derivation = Derivation::parse(&text).unwrap();
    let sources = dir.path().join("sources");
    std::fs::create_dir(&sources).unwrap();
    let tar = dir.path().join("tar");
    let archive = std::fs::File::open(fixture("hello-sources.tar.zst")).unwrap();
    zstd::stream::copy_decode(archive, std::fs::File::create(&tar).unwrap()).unwrap();
    assert!(
        std::process::Command::new("tar")
            .arg("-xf")
            .arg(&tar)
            .arg("-C")
            .arg(&sources)
            .status()
            .unwrap()
            .success()
    );
    let mut connection = Connection::open(&socket).unwrap();
    for source in &derivation.sources {
        let bytes = std::fs::read(sources.join(source.base_name())).unwrap();
        connection.add_texts([NewText { path: source, text: &bytes, references: &[] }].into_iter()).unwrap();
    }
    let references = derivation.references();
    connection
        .add_texts([NewText { path: &path, text: &text, references: &references }].into_iter())
        .unwrap();
    let (succeeded, log) = build(&socket, &path);
    assert!(!succeeded, "{}", String::from_utf8_lossy(&log));
}

/// Echoes every connection.
fn echo() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let (mut from, mut to) = (stream.try_clone().unwrap(), stream);
                let _ = std::io::copy(&mut from, &mut to);
            });
        }
    });
    address
}

#[test]
fn the_proxy_lets_through_cuts_and_restores() {
    let proxy = Proxy::to(echo());
    let mut stream = TcpStream::connect(proxy.address()).unwrap();
    stream.write_all(b"one").unwrap();
    let mut back = [0; 3];
    stream.read_exact(&mut back).unwrap();
    assert_eq!((&back, proxy.sent()), (b"one", 3));
    wait::until("what was let through should be counted", || (proxy.received() == 3).then_some(()));

    proxy.cut();
    assert!(matches!(stream.read(&mut back), Ok(0) | Err(_)));
    let mut refused = TcpStream::connect(proxy.address()).unwrap();
    assert!(matches!(refused.read(&mut back), Ok(0) | Err(_)));

    proxy.restore();
    proxy.cut_after(10_000);
    let mut stream = TcpStream::connect(proxy.address()).unwrap();
    let mut reader = stream.try_clone().unwrap();
    thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
    while stream.write_all(&[0; 1000]).is_ok() {}
    proxy.wait_cut();
    assert!(proxy.sent() < 10_003 + 65_536, "{}", proxy.sent());
}

#[test]
fn the_proxy_holds_bytes_back_while_it_is_stalled() {
    let proxy = Proxy::to(echo());
    let mut stream = TcpStream::connect(proxy.address()).unwrap();
    stream.write_all(b"a").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    proxy.stall();
    stream.write_all(b"b").unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(stream.read(&mut [0]).is_err());
    assert_eq!(proxy.sent(), 1);
    proxy.restore();
    stream.set_read_timeout(Some(wait::LONG)).unwrap();
    stream.read_exact(&mut [0]).unwrap();
}
