//! The coordinator's two listeners: HTTP around the farm.
//!
//! [`run`] is the whole life of `drover serve`. Requests go from a connection (`listen`) through the table of routes
//! (`router`), who speaks (`auth`) and a handler (`agents`, `clients`) to the farm; what it refuses becomes a status
//! in one place (`problem`).

mod agents;
mod auth;
mod body;
mod bundle;
mod call;
mod clients;
mod leftover;
mod listen;
mod log;
mod nar;
mod problem;
mod router;
mod sets;

use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::config::{Config, ConfigError, ServeArgs};
use crate::farm::{self, Farm, OpenError};

/// How long threads that block may go on at the end.
const THREADS_END: Duration = Duration::from_secs(5);

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
        /// Agents or clients.
        whom: &'static str,
        /// Where it is configured.
        option: &'static str,
        /// What the system said.
        source: io::Error,
    },
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
    start_log(&config)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(ServeError::Start)?;
    let served = serve(&runtime, config);
    runtime.shutdown_timeout(THREADS_END);
    served
}

fn serve(runtime: &Runtime, config: Config) -> Result<(), ServeError> {
    let (agents, clients) = (config.agents_listen, config.clients_listen);
    let farm = {
        let _within = runtime.enter();
        Farm::open(config)?
    };
    if let Some(file) = farm.first_client_token().map_err(ServeError::Token)? {
        say(&format!("the operator's client token is in the file {}", file.display()));
    }
    runtime.block_on(async {
        let stop = Stop::new().map_err(ServeError::Start)?;
        let listen = |address, whom, option| {
            listen::bind(address).map_err(|source| ServeError::Listen { address, whom, option, source })
        };
        let agents = listen(agents, "agents", "agents-listen")?;
        let clients = listen(clients, "clients", "clients-listen")?;
        farm.start_tasks();
        for (listener, whom) in [(&agents, "agents"), (&clients, "clients")] {
            if let Ok(address) = listener.local_addr() {
                say(&format!("listening for {whom} on {address}"));
            }
        }
        serve_both(&farm, agents, clients, stop).await;
        Ok(())
    })
}

async fn serve_both(
    farm: &Arc<Farm>,
    agents: tokio::net::TcpListener,
    clients: tokio::net::TcpListener,
    mut stop: Stop,
) {
    let both = async {
        tokio::join!(
            listen::serve(agents, router::for_agents(farm), farm.stopping()),
            listen::serve(clients, router::for_clients(farm), farm.stopping()),
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
        _ = both => tracing::info!("stopped"),
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

fn start_log(config: &Config) -> Result<(), ServeError> {
    let filter = EnvFilter::try_new(&config.log)
        .map_err(|error| ServeError::Log { value: config.log.clone(), reason: error.to_string() })?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    // A log that is there already, as in a test, stays.
    let _ = if config.log_json { log.json().try_init() } else { log.try_init() };
    Ok(())
}
