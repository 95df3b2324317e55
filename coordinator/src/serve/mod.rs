//! The coordinator's listeners: HTTP around the farm.
//!
//! [`run`] is the whole life of `drover serve`. Requests go from a connection (`listen`) through the table of routes
//! (`router`), who speaks (`auth`) and a handler (`agents`, `clients`, `public`) to the farm; what it
//! refuses becomes a status in one place (`problem`).

mod agents;
mod auth;
mod body;
mod bundle;
mod call;
mod clients;
mod content;
mod contents;
mod events;
mod file;
mod health;
mod hooks;
mod imports;
mod leftover;
mod listen;
mod log;
mod metrics;
mod nar;
mod observe;
mod pages;
mod pass;
mod patience;
mod problem;
mod public;
mod retention;
mod router;
mod sets;
mod storage;
mod tls;
mod transcode;

#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::num::NonZero;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use drover_os::machine;
use drover_wire::route;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;

use crate::config::{Config, ConfigError, ServeArgs, TlsListener};
use crate::farm::{self, Farm, OpenError};
use listen::Listener;
use tls::Tls;
pub use tls::TlsError;

/// How long threads that block may go on at the end.
const THREADS_END: Duration = Duration::from_secs(5);
/// The threads of the public's listener: each answers some ten thousand requests a second.
const PUBLIC_THREADS: usize = 4;
/// How many of its downloads wait for disks at a time.
const PUBLIC_BLOCKING_THREADS: usize = 64;

/// The files that a connection of the public has open at most, and those that are kept for all else: a few hundred agents
/// with some connections each, the database, logs and hooks. Half of what there is, where that is less.
const FILES_EACH: u64 = 2;
const OTHER_FILES: u64 = 4096;
/// So many connections are taken whatever the limit is.
const FEWEST: u64 = 64;

/// Why the coordinator could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// There is no valid configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The option `log` is not what it should be.
    #[error("the option log cannot be “{value}”: {reason}; use a level such as info, or info,drover=debug")]
    Log {
        /// What was given.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The farm could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There was no client token yet, and none could be made.
    #[error("cannot make the first client token: {0}")]
    Token(farm::Error),
    /// An address that cannot be listened to.
    #[error("cannot listen on {address} for {whom}: {source}; the option {option} sets another address")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Agents, clients or everybody.
        whom: &'static str,
        /// Where it is configured.
        option: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The certificate for TLS, or its key.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Threads or signals could not be had.
    #[error("cannot start: {0}")]
    Start(io::Error),
}

/// Runs the coordinator until SIGTERM or SIGINT. A second one ends it without waiting for requests under way.
///
/// # Errors
/// When it cannot start: a bad configuration, a state folder that cannot be used or is in use, an address that
/// cannot be listened to.
pub fn run(args: ServeArgs) -> Result<(), ServeError> {
    let config = args.resolve()?;
    machine::share_memory();
    crate::logging::start(&config.log, config.log_json)
        .map_err(|reason| ServeError::Log { value: config.log.clone(), reason })?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(ServeError::Start)?;
    let for_public = public_runtime().map_err(ServeError::Start)?;
    let served = serve(&runtime, &for_public, config);
    for_public.shutdown_timeout(THREADS_END);
    runtime.shutdown_timeout(THREADS_END);
    served
}

/// Threads for downloads: however slow the disks are that they wait for, agents and clients are answered.
fn public_runtime() -> io::Result<Runtime> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(PUBLIC_THREADS);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .max_blocking_threads(PUBLIC_BLOCKING_THREADS)
        .thread_name("public")
        .enable_all()
        .build()
}

fn serve(runtime: &Runtime, for_public: &Runtime, config: Config) -> Result<(), ServeError> {
    let (agents, clients, public) = (config.agents_listen, config.clients_listen, config.public_listen);
    let metrics = config.metrics_listen.0;
    let connections = connections(config.public_connections);
    let tls = open_tls(&config)?;
    let tls = [TlsListener::Agents, TlsListener::Clients, TlsListener::Public]
        .map(|listener| tls.clone().filter(|_| config.speaks_tls(listener)));
    let farm = {
        let _within = runtime.enter();
        Farm::open(config)?
    };
    if let Some(file) = farm.first_client_token().map_err(ServeError::Token)? {
        say(&format!("the operator's client token is in the file {}", file.display()));
    }
    runtime.block_on(async {
        let stop = Stop::new().map_err(ServeError::Start)?;
        let listen = |address, tls, whom, option| {
            Listener::bind(address, tls).map_err(|source| ServeError::Listen {
                address,
                whom,
                option,
                source,
            })
        };
        let [tls_of_agents, tls_of_clients, tls_of_public] = tls;
        let traffic = |listener| farm.numbers().traffic_of(listener);
        let agents = listen(agents, tls_of_agents, "agents", "agents-listen")?;
        let agents = agents.counted(traffic(route::Listener::Agents));
        let clients = listen(clients, tls_of_clients, "clients", "clients-listen")?;
        let clients = clients.counted(traffic(route::Listener::Clients));
        let public = {
            let _within = for_public.enter();
            let public = listen(public, tls_of_public, "everybody", "public-listen")?;
            public.of_at_most(connections).counted(traffic(route::Listener::Public))
        };
        let metrics =
            metrics.map(|address| listen(address, None, "metrics", "metrics-listen")).transpose()?;
        farm.start_tasks();
        let fixed = [(&agents, "agents"), (&clients, "clients"), (&public, "everybody")];
        for (listener, whom) in fixed.into_iter().chain(metrics.iter().map(|metrics| (metrics, "metrics"))) {
            if let Ok(address) = listener.local_addr() {
                say(&format!("listening for {whom} on {address}"));
            }
        }
        let public = for_public.spawn(listen::serve(public, router::for_public(&farm), farm.stopping()));
        let metrics = async {
            if let Some(metrics) = metrics {
                listen::serve(metrics, router::for_metrics(&farm), farm.stopping()).await;
            }
        };
        serve_all(&farm, agents, clients, public, metrics, stop).await;
        Ok(())
    })
}

/// How many connections of the public there can be at once: each may have a file open, and the rest of the coordinator
/// needs some files, too.
fn connections(wanted: u32) -> usize {
    let files = machine::allow_open_files(u64::from(wanted) * FILES_EACH + OTHER_FILES);
    let possible = ((files - OTHER_FILES.min(files / 2)) / FILES_EACH).max(FEWEST);
    let most = u64::from(wanted).min(possible);
    if most < u64::from(wanted) {
        tracing::warn!(
            wanted,
            most,
            files,
            "this process may not open enough files for so many connections of the public; raise its limit (LimitNOFILE)"
        );
    }
    usize::try_from(most).unwrap_or(usize::MAX)
}

/// The certificate of the configuration, if there is one.
fn open_tls(config: &Config) -> Result<Option<Arc<Tls>>, TlsError> {
    if config.tls_certificate.as_os_str().is_empty() {
        return Ok(None);
    }
    let tls = Tls::open(&config.tls_certificate, &config.tls_key)?;
    if let Some(pin) = tls.pin() {
        say(&format!("the key of the TLS certificate is {pin}: who trusts no authority can pin it"));
    }
    Ok(Some(Arc::new(tls)))
}

async fn serve_all(
    farm: &Arc<Farm>,
    agents: Listener,
    clients: Listener,
    public: JoinHandle<()>,
    metrics: impl Future<Output = ()>,
    mut stop: Stop,
) {
    let all = async {
        tokio::join!(
            listen::serve(agents, router::for_agents(farm), farm.stopping()),
            listen::serve(clients, router::for_clients(farm), farm.stopping()),
            public,
            metrics,
        )
    };
    let stopped = async {
        stop.wanted().await;
        tracing::info!("stopping");
        farm.stop();
        stop.wanted().await;
        tracing::warn!("stopping at once");
    };
    tokio::select! {
        _ = all => tracing::info!("stopped"),
        () = stopped => {}
    }
}

/// The signals that end the coordinator.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn wanted(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Tells the operator something that does not depend on what is logged.
fn say(fact: &str) {
    // Nobody reads: nobody needs to know.
    let _ = writeln!(io::stdout().lock(), "{fact}");
}
