//! A TCP proxy with switches, between an agent and its coordinator: connections can be cut, stalled and let through
//! again, and what passes is counted.
#![expect(clippy::unwrap_used, reason = "a test's tools fail by failing the test")]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

/// What happens to bytes and connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Everything passes.
    Open,
    /// Connections stay, and nothing passes.
    Stalled,
    /// There are no connections, and new ones are closed at once.
    Cut,
}

#[derive(Debug)]
struct Shared {
    mode: Mutex<Mode>,
    changed: Condvar,
    streams: Mutex<Vec<TcpStream>>,
    sent: AtomicU64,
    received: AtomicU64,
    /// Cuts when so many bytes have been sent.
    cut_at: AtomicU64,
    closed: AtomicBool,
}

/// A proxy; it ends when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Proxy {
    /// A proxy on a free port of the loopback that leads to this address.
    ///
    /// # Panics
    /// When there is no free port.
    #[must_use]
    pub fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            mode: Mutex::new(Mode::Open),
            changed: Condvar::new(),
            streams: Mutex::new(Vec::new()),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            cut_at: AtomicU64::new(u64::MAX),
            closed: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if accepting.closed.load(Ordering::SeqCst) {
                    return;
                }
                accept(&accepting, client, target);
            }
        });
        Self { address, shared }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens, for a program that wants a URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Ends all connections, and every new one at once.
    pub fn cut(&self) {
        self.shared.set(Mode::Cut);
    }

    /// Cuts by itself as soon as so many more bytes have been sent to the target.
    pub fn cut_after(&self, bytes: u64) {
        self.shared.cut_at.store(self.sent() + bytes, Ordering::SeqCst);
    }

    /// Waits until it has cut by itself.
    ///
    /// # Panics
    /// When it does not within [`crate::wait::LONG`].
    #[track_caller]
    pub fn wait_cut(&self) {
        crate::wait::until("the proxy should have cut the connection", || {
            (*self.shared.mode.lock().unwrap() == Mode::Cut).then_some(())
        });
    }

    /// Lets connections be, and nothing through.
    pub fn stall(&self) {
        self.shared.set(Mode::Stalled);
    }

    /// Lets everything through again.
    pub fn restore(&self) {
        self.shared.cut_at.store(u64::MAX, Ordering::SeqCst);
        self.shared.set(Mode::Open);
    }

    /// Bytes that went to the target so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::SeqCst)
    }

    /// Bytes that came from the target so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.shared.received.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        self.cut();
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn set(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
        self.changed.notify_all();
        if mode == Mode::Cut {
            for stream in self.streams.lock().unwrap().drain(..) {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }

    /// Waits while nothing may pass; whether anything may pass afterwards.
    fn passes(&self) -> bool {
        let mut mode = self.mode.lock().unwrap();
        while *mode == Mode::Stalled {
            mode = self.changed.wait(mode).unwrap();
        }
        *mode == Mode::Open
    }
}

fn accept(shared: &Arc<Shared>, client: TcpStream, target: SocketAddr) {
    if *shared.mode.lock().unwrap() == Mode::Cut {
        return;
    }
    let Ok(server) = TcpStream::connect_timeout(&target, Duration::from_secs(5)) else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (Ok(client_too), Ok(server_too)) = (client.try_clone(), server.try_clone()) else { return };
    {
        let mut streams = shared.streams.lock().unwrap();
        for stream in [&client, &server] {
            if let Ok(stream) = stream.try_clone() {
                streams.push(stream);
            }
        }
    }
    let (up, down) = (Arc::clone(shared), Arc::clone(shared));
    thread::spawn(move || copy(&up, client, server, true));
    thread::spawn(move || copy(&down, server_too, client_too, false));
}

fn copy(shared: &Shared, mut from: TcpStream, mut to: TcpStream, up: bool) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if !shared.passes() || to.write_all(&buffer[..n]).is_err() {
            break;
        }
        let count = if up { &shared.sent } else { &shared.received };
        let total = count.fetch_add(n as u64, Ordering::SeqCst) + n as u64;
        if up && total >= shared.cut_at.load(Ordering::SeqCst) {
            shared.set(Mode::Cut);
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
