//! The bench `events`: a thousand readers of events on loopback, and 200 events a second for 20 seconds. Every reader gets
//! every event, in their order; how late the last hundredth is, and how much memory the coordinator has.
//!
//! `bench-events`: DROVER_BIN_DIR names the folder with the programs as they are to be measured.

use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use drover_tests::bench::{self, Figure, Limit, Result};
use drover_tests::farm::Farm;
use drover_tests::graph::{Graph, Recipe};
use drover_tests::hand::Hand;
use drover_wire::Phase;
use drover_wire::agent::{Heartbeat, Machine, Orders, Poll, Progress};
use drover_wire::route::{agents, clients};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Barrier, watch};

const READERS: usize = 1000;
const PER_SECOND: u32 = 200;
const SECONDS: u32 = 20;
/// Builds that an agent holds, each of which is in another phase at each of its heartbeats.
const HELD: u32 = 5;
const MOST_MS: f64 = 100.0;
const MOST_MB: f64 = 100.0;

fn main() -> ExitCode {
    bench::main_of_several("events", run)
}

fn run() -> Result<Vec<Figure>> {
    let farm = Farm::start();
    let agent = Hand::new(&farm, "events");
    let mut graph = Graph::new("events")?;
    let made: Vec<_> = (0..HELD)
        .map(|n| graph.add(Recipe::new(&format!("held-{n}"), "exit 1")))
        .collect::<std::io::Result<_>>()?;
    let _builds = farm.client.submit(&graph, &made.iter().collect::<Vec<_>>());
    let orders: Orders =
        agent.peer.post(&agents::POLL.path(&[]), &Poll { accepting: HELD, holding: Vec::new() }).value();
    let leases: Vec<_> = orders.allocations.iter().map(|allocation| allocation.lease).collect();
    if leases.len() != HELD as usize {
        return Err("the agent did not get its builds".into());
    }
    let alone = farm.coordinator.resident();

    let token = std::fs::read_to_string(farm.state().join("client-token"))?;
    let head = format!(
        "GET {}?kind=build-phase HTTP/1.1\r\nHost: farm\r\nAuthorization: Bearer {}\r\n\r\n",
        clients::EVENTS.path(&[]),
        token.trim()
    );
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (over, ending) = watch::channel(false);
    let here = Arc::new(Barrier::new(READERS + 1));
    let readers: Vec<_> = (0..READERS)
        .map(|_| {
            let (address, head, here, ending) =
                (farm.clients, head.clone(), Arc::clone(&here), ending.clone());
            runtime.spawn(async move { read(address, &head, &here, ending).await })
        })
        .collect();
    runtime.block_on(here.wait());

    let start = Instant::now();
    let beats = PER_SECOND * SECONDS / HELD;
    for beat in 0..beats {
        let phase = if beat % 2 == 0 { Phase::FetchingInputs } else { Phase::Queued };
        let leases = leases.iter().map(|lease| Progress { lease: *lease, phase }).collect();
        let heartbeat = Heartbeat { accepting: HELD, machine: Machine::default(), leases };
        let _orders: Orders = agent.peer.post(&agents::HEARTBEAT.path(&[]), &heartbeat).value();
        let next = start + Duration::from_secs(1) * (beat + 1) * HELD / PER_SECOND;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let took = start.elapsed();
    let resident = farm.coordinator.resident();
    // What is under way arrives.
    thread::sleep(Duration::from_secs(2));
    over.send_replace(true);

    let wanted = (PER_SECOND * SECONDS) as usize;
    let mut delays = Vec::with_capacity(READERS * wanted);
    for reader in readers {
        let seen = runtime.block_on(reader)?.map_err(|error| error.to_string())?;
        if seen.len() != wanted {
            return Err(format!("a reader got {} of {wanted} events", seen.len()).into());
        }
        delays.extend(seen);
    }
    delays.sort_unstable();
    let at = |part: usize| delays.get(delays.len().saturating_sub(1) * part / 1000).copied().unwrap_or(0);
    println!("{READERS} readers had each of {wanted} events in {:.1} s, in order", took.as_secs_f64());
    println!(
        "delivered after: median {} ms, 99 % {} ms, 99.9 % {} ms, last {} ms",
        at(500),
        at(990),
        at(999),
        at(1000)
    );
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    println!(
        "the coordinator: {:.1} MB before, {:.1} MB with the readers",
        megabytes(alone),
        megabytes(resident)
    );
    Ok(vec![
        Figure {
            of: "ms until 99 % were delivered",
            figure: f64::from(at(990)),
            limit: Limit::Most(MOST_MS),
        },
        Figure { of: "MB with 1000 readers", figure: megabytes(resident), limit: Limit::Most(MOST_MB) },
    ])
}

/// Reads until the end, and gives how many milliseconds late each event was. Fails when one is missing or out of order.
async fn read(
    address: std::net::SocketAddr,
    head: &str,
    here: &Barrier,
    mut ending: watch::Receiver<bool>,
) -> std::io::Result<Vec<u32>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(head.as_bytes()).await?;
    let mut text = Vec::with_capacity(32 << 10);
    // The first block says where it starts: what comes after it is listened to.
    while !text.windows(2).any(|two| two == b"\n\n") {
        if stream.read_buf(&mut text).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    text.clear();
    here.wait().await;
    let mut delays = Vec::new();
    let mut last = 0;
    loop {
        tokio::select! {
            read = stream.read_buf(&mut text) => if read? == 0 { return Err(std::io::ErrorKind::UnexpectedEof.into()) },
            _ = ending.changed() => return Ok(delays),
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        for line in text[..whole].split(|byte| *byte == b'\n') {
            let Some(data) = line.strip_prefix(b"data: {\"id\":") else { continue };
            let (id, rest) = number(data);
            let (at, _) = number(rest.strip_prefix(b",\"at\":").unwrap_or_default());
            if id <= last {
                return Err(std::io::Error::other(format!("the event {id} came after {last}")));
            }
            last = id;
            delays.push(u32::try_from(now.saturating_sub(u128::from(at))).unwrap_or(u32::MAX));
        }
        text.drain(..whole);
    }
}

/// The number at the beginning, and what comes after it.
fn number(text: &[u8]) -> (u64, &[u8]) {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let value = text[..end].iter().fold(0, |value, digit| value * 10 + u64::from(digit - b'0'));
    (value, &text[end..])
}
