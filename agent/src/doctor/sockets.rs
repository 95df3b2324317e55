//! Connections within the machine.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use drover_os::net::{self, Deadline, DeafPort, Listener, Stream};

use super::files::Folder;
use super::{Finding, Glance, Outcome, expect, failed};

const PATIENCE: Duration = Duration::from_secs(30);
/// More than goes through at once.
const BYTES: usize = 1 << 20;

pub(super) fn tcp(_: &Glance) -> Outcome {
    let listener = Listener::bind_tcp("127.0.0.1:0").map_err(failed("listen on 127.0.0.1"))?;
    let port = listener.port().map_err(failed("see the port listened on"))?;
    let connect = |port| net::connect_tcp("127.0.0.1", port, Deadline::after(PATIENCE));
    let client = connect(port).map_err(failed("connect"))?;
    client.set_nodelay(true).map_err(failed("send small pieces at once"))?;
    client.set_keepalive(PATIENCE).map_err(failed("have a silent peer probed"))?;
    let server = listener.accept(Deadline::after(PATIENCE)).map_err(failed("accept a connection"))?;
    talk(client, server)?;
    let nobody = DeafPort::take().map_err(failed("take a port"))?;
    match connect(nobody.number()) {
        // Each system has its own words for it.
        Err(error) if error.kind() != ErrorKind::TimedOut => {}
        Err(error) => return Err(format!("a port that nobody listens on: {error}")),
        Ok(_) => return Err("a port that nobody listens on takes connections".into()),
    }
    let six = match Listener::bind_tcp("[::1]:0") {
        Ok(_) => "IPv4 and IPv6",
        Err(_) => "IPv4; no IPv6",
    };
    Ok(Finding::Works(format!("{BYTES} bytes both ways on 127.0.0.1; {six}")))
}

pub(super) fn unix(_: &Glance) -> Outcome {
    let folder = Folder::temporary()?;
    let path = folder.path().join("socket");
    let listener = Listener::bind_unix(&path).map_err(failed("listen"))?;
    let client = net::connect_unix(&path, Deadline::after(PATIENCE)).map_err(|error| error.to_string())?;
    let server = listener.accept(Deadline::after(PATIENCE)).map_err(failed("accept a connection"))?;
    talk(client, server)?;
    let (one, other) = Stream::pair().map_err(failed("make a pair"))?;
    talk(one, other)?;
    Ok(Finding::Works(format!("{BYTES} bytes both ways by a path and within a pair")))
}

/// Sends much one way and all of it back, and sees the end; one side in a thread.
fn talk(mut client: Stream, server: Stream) -> Result<(), String> {
    let sent: Vec<u8> = (0..BYTES).map(|index| (index % 251) as u8).collect();
    let echo = std::thread::Builder::new().name("echo".into()).spawn(move || {
        let mut server = server;
        let mut received = Vec::new();
        (&mut server).take(BYTES as u64).read_to_end(&mut received)?;
        server.write_all(&received)?;
        server.shutdown(Shutdown::Write)
    });
    let echo = echo.map_err(failed("start a thread"))?;
    client.write_all(&sent).map_err(failed("send"))?;
    let mut received = Vec::new();
    client.read_to_end(&mut received).map_err(failed("receive"))?;
    match echo.join() {
        Ok(echoed) => echoed.map_err(failed("send back"))?,
        Err(_) => return Err("the other side broke off".into()),
    }
    expect(received == sent, || format!("{} bytes came back, and not those that were sent", received.len()))
}
