//! Connections: taken, served, and ended when the coordinator stops.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::patience::{PATIENCE, Patient};
use super::tls::Tls;
use crate::farm::numbers::Traffic;

/// How long the head of a request may take to come, and how long a connection may stay open between two requests.
const HEAD_TIME: Duration = Duration::from_secs(60);
/// The most bytes of a request's head.
const HEAD_LIMIT: usize = 64 * 1024;
/// How long requests may go on that are under way when the coordinator stops.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// The pause after a connection that could not be taken, such as for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);
const BACKLOG: u32 = 1024;

/// Where connections come in, and what they speak before HTTP.
#[derive(Debug)]
pub(super) struct Listener {
    socket: TcpListener,
    tls: Option<Arc<Tls>>,
    /// How many connections are open at once.
    most: usize,
    head_time: Duration,
    patience: Duration,
    traffic: Arc<Traffic>,
}

impl Listener {
    /// Listens at an address, with TLS if there is any to be spoken.
    pub(super) fn bind(address: SocketAddr, tls: Option<Arc<Tls>>) -> io::Result<Self> {
        let (most, traffic) = (usize::MAX, Arc::default());
        let (head_time, patience) = (HEAD_TIME, PATIENCE);
        Ok(Self { socket: bind(address)?, tls, most, head_time, patience, traffic })
    }

    /// With what goes through its connections counted there.
    pub(super) fn counted(self, traffic: &Arc<Traffic>) -> Self {
        Self { traffic: Arc::clone(traffic), ..self }
    }

    /// With so many connections at once, and no more.
    pub(super) fn of_at_most(self, most: usize) -> Self {
        Self { most, ..self }
    }

    /// At a socket whose connections hold few bytes, and with this patience where no more are taken.
    #[cfg(test)]
    pub(super) fn narrow(patience: Duration) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_send_buffer_size(8 << 10)?;
        socket.bind((std::net::Ipv4Addr::LOCALHOST, 0).into())?;
        let listener = Self::bind((std::net::Ipv4Addr::LOCALHOST, 0).into(), None)?;
        Ok(Self { socket: socket.listen(BACKLOG)?, patience, ..listener })
    }

    /// Where it listens.
    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

/// Listens at an address, also right after another process did.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    // Connections have it from their listener: a peer that vanished is noticed at some time.
    socket.set_keepalive(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until the coordinator stops, and what is under way then a moment longer. While as many connections are open as
/// the listener takes, others wait where the system keeps them.
pub(super) async fn serve(listener: Listener, router: Router, mut stopping: watch::Receiver<bool>) {
    let Listener { socket: listener, tls, most, head_time, patience, traffic } = listener;
    let mut connections = JoinSet::new();
    loop {
        let taken = tokio::select! {
            taken = listener.accept(), if connections.len() < most => taken,
            // Those that have ended are forgotten.
            Some(_) = connections.join_next() => continue,
            () = stops(&mut stopping) => break,
        };
        match taken {
            Ok((stream, peer)) => {
                let connection = Connection {
                    peer,
                    head_time,
                    patience,
                    router: router.clone(),
                    stopping: stopping.clone(),
                    traffic: Open::new(&traffic),
                };
                connections.spawn(connection.serve(stream, tls.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be taken");
                sleep(PAUSE).await;
            }
        }
    }
    drop(listener);
    let ended = timeout(LAST_WORDS, async { while connections.join_next().await.is_some() {} }).await;
    if ended.is_err() {
        tracing::warn!(connections = connections.len(), "connections were cut off");
    }
}

/// Waits until the coordinator stops.
pub(super) async fn stops(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

/// A connection that was taken.
struct Connection {
    peer: SocketAddr,
    head_time: Duration,
    patience: Duration,
    router: Router,
    stopping: watch::Receiver<bool>,
    traffic: Open,
}

/// A connection that is counted as long as it is open.
struct Open(Arc<Traffic>);

impl Open {
    fn new(traffic: &Arc<Traffic>) -> Self {
        traffic.taken.inc();
        traffic.open.inc();
        Self(Arc::clone(traffic))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.dec();
    }
}

impl Connection {
    async fn serve(mut self, stream: TcpStream, tls: Option<Arc<Tls>>) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(peer = %self.peer, %error, "a connection may be slow");
        }
        let Some(tls) = tls else { return self.speak(stream).await };
        let greeted = tokio::select! {
            greeted = tls.accept(stream) => greeted,
            () = stops(&mut self.stopping) => None,
        };
        if let Some(stream) = greeted {
            self.speak(stream).await;
        }
    }

    /// Answers its requests, whatever its bytes come through.
    async fn speak<S>(mut self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(self.head_time).max_buf_size(HEAD_LIMIT);
        let served = builder.serve_connection(
            TokioIo::new(Patient::new(stream, self.patience, Arc::clone(&self.traffic.0))),
            TowerToHyperService::new(self.router),
        );
        let mut served = pin!(served);
        let ended = tokio::select! {
            ended = served.as_mut() => ended,
            () = stops(&mut self.stopping) => {
                served.as_mut().graceful_shutdown();
                served.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(peer = %self.peer, %error, "a connection ended");
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn connections_that_say_nothing_or_not_to_the_end_go_and_those_that_wait_are_served() {
        const MOST: usize = 8;
        let head_time = Duration::from_millis(20);
        let listener = Listener::bind(([127, 0, 0, 1], 0).into(), None).unwrap();
        let listener = Listener { head_time, ..listener.of_at_most(MOST) };
        let address = listener.local_addr().unwrap();
        let (stop, stopping) = watch::channel(false);
        let router = Router::new().route("/", get(async || "hello"));
        let served = tokio::spawn(serve(listener, router, stopping));
        let mut silent = Vec::new();
        for n in 0..300 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            if n % 2 == 0 {
                stream.write_all(b"GET / HTTP/1.1\r\nHost: slow\r\nX: ").await.unwrap();
            }
            silent.push(stream);
        }
        let mut asking = TcpStream::connect(address).await.unwrap();
        asking.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        timeout(Duration::from_secs(60), asking.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("hello"), "{answer}");
        drop(silent);
        stop.send_replace(true);
        served.await.unwrap();
    }
}
