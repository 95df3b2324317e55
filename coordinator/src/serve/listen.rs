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
}

impl Listener {
    /// Listens at an address, with TLS if there is any to be spoken.
    pub(super) fn bind(address: SocketAddr, tls: Option<Arc<Tls>>) -> io::Result<Self> {
        Ok(Self { socket: bind(address)?, tls })
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

/// Serves until the coordinator stops, and what is under way then a moment longer.
pub(super) async fn serve(listener: Listener, router: Router, mut stopping: watch::Receiver<bool>) {
    let Listener { socket: listener, tls } = listener;
    let mut connections = JoinSet::new();
    loop {
        let taken = tokio::select! {
            taken = listener.accept() => taken,
            // Those that have ended are forgotten.
            Some(_) = connections.join_next() => continue,
            () = stops(&mut stopping) => break,
        };
        match taken {
            Ok((stream, peer)) => {
                connections.spawn(connection(stream, tls.clone(), peer, router.clone(), stopping.clone()));
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

async fn connection(
    stream: TcpStream,
    tls: Option<Arc<Tls>>,
    peer: SocketAddr,
    router: Router,
    mut stopping: watch::Receiver<bool>,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "a connection may be slow");
    }
    let Some(tls) = tls else { return speak(stream, peer, router, stopping).await };
    let greeted = tokio::select! {
        greeted = tls.accept(stream) => greeted,
        () = stops(&mut stopping) => None,
    };
    if let Some(stream) = greeted {
        speak(stream, peer, router, stopping).await;
    }
}

/// Answers the requests of one connection, whatever its bytes come through.
async fn speak<S>(stream: S, peer: SocketAddr, router: Router, mut stopping: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(HEAD_LIMIT);
    let served = builder
        .serve_connection(TokioIo::new(Patient::new(stream, PATIENCE)), TowerToHyperService::new(router));
    let mut served = pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = stops(&mut stopping) => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "a connection ended");
    }
}
