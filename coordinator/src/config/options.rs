//! The options: one definition each.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;

use serde::Deserialize;

use super::metrics::MetricsListen;
use super::tls::TlsListener;
use super::{HookConfig, PlaceConfig, Placement, RetentionConfig};

macro_rules! options {
    ($($(#[$attribute:meta])* $name:ident: $type:ty = $default:expr, $shown:literal, $help:literal;)+) => {
        /// What was given of the options, by flags or by a file; the two have the same names.
        #[derive(Debug, Clone, Default, clap::Args, Deserialize)]
        #[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
        pub struct Options {
            $(
                #[doc = $help]
                #[arg(long, help = concat!($help, " [default: ", $shown, "]"))]
                $(#[$attribute])*
                pub $name: Option<$type>,
            )+
            /// Where nars are kept beside the state folder; a file can say it, flags cannot.
            #[arg(skip)]
            pub places: Option<Vec<PlaceConfig>>,
            /// What is done when something happened, by name; a file can say it, flags cannot.
            #[arg(skip)]
            pub hooks: Option<BTreeMap<String, HookConfig>>,
            /// What is kept for how long; a file can say it, flags cannot.
            #[arg(skip)]
            pub retention: Option<RetentionConfig>,
        }

        /// The configuration of a coordinator.
        #[derive(Debug, Clone)]
        pub struct Config {
            $(
                #[doc = $help]
                pub $name: $type,
            )+
            /// Where nars are kept beside the state folder.
            pub places: Vec<PlaceConfig>,
            /// What is done when something happened, by name.
            pub hooks: BTreeMap<String, HookConfig>,
            /// What is kept for how long.
            pub retention: RetentionConfig,
        }

        impl Options {
            /// These, and where nothing was given those.
            #[must_use]
            pub fn over(self, those: Self) -> Self {
                Self {
                    $($name: self.$name.or(those.$name),)+
                    places: self.places.or(those.places),
                    hooks: self.hooks.or(those.hooks),
                    retention: self.retention.or(those.retention),
                }
            }

            /// These, and where nothing was given the defaults.
            #[must_use]
            pub fn resolve(self) -> Config {
                Config {
                    $($name: self.$name.unwrap_or_else(|| $default),)+
                    places: self.places.unwrap_or_default(),
                    hooks: self.hooks.unwrap_or_default(),
                    retention: self.retention.unwrap_or_default(),
                }
            }
        }
    };
}

options! {
    #[arg(value_name = "FOLDER")]
    state: PathBuf = PathBuf::from("/var/lib/drover"), "/var/lib/drover",
        "The folder that everything is kept in";
    #[arg(value_name = "ADDRESS:PORT")]
    agents_listen: SocketAddr = loopback(8745), "127.0.0.1:8745",
        "Where agents are listened to";
    #[arg(value_name = "ADDRESS:PORT")]
    clients_listen: SocketAddr = loopback(8746), "127.0.0.1:8746",
        "Where clients are listened to";
    #[arg(value_name = "ADDRESS:PORT")]
    public_listen: SocketAddr = loopback(8747), "127.0.0.1:8747",
        "Where everybody is listened to who wants substitutes: read-only, without a token";
    #[arg(value_name = "ADDRESS:PORT")]
    metrics_listen: MetricsListen = MetricsListen(None), "none",
        "Where programs of this machine are listened to that read /metrics without a token: a loopback address";
    #[arg(value_name = "COUNT")]
    public_connections: u32 = 4096, "4096",
        "How many connections of everybody are open at once; others wait until one ends";
    #[arg(value_name = "FILE")]
    tls_certificate: PathBuf = PathBuf::new(), "none: no TLS",
        "Certificates (PEM) for TLS, the coordinator's own first; read again when the file changes";
    #[arg(value_name = "FILE")]
    tls_key: PathBuf = PathBuf::new(), "none",
        "The private key (PEM) of the first certificate";
    #[arg(value_name = "LISTENER", value_delimiter = ',', num_args = 1)]
    tls_listeners: Vec<TlsListener> = Vec::new(), "all three, if there is a certificate",
        "Which listeners speak TLS";
    #[arg(value_name = "FILE")]
    signing_key: PathBuf = PathBuf::new(), "a new one",
        "The secret Guix key that signs at first, such as /etc/guix/signing-key.sec; see drover key rotate for another";
    #[arg(value_name = "SECONDS")]
    narinfo_ttl_seconds: u64 = 86_400, "86400",
        "How long clients may believe that something can be had here; what is removed goes no sooner";
    #[arg(value_name = "SECONDS")]
    narinfo_miss_seconds: u64 = 60, "60",
        "How long clients may believe that something cannot be had here";
    #[arg(value_name = "DAYS")]
    sources_check_days: u64 = 90, "90",
        "How many days it takes to see for every source that was fetched whether it is still there; 0 for never";
    #[arg(value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    sources_check_private: bool = false, "false",
        "Whether sources are looked for in private networks, too: derivations that clients submit say where";
    #[arg(value_name = "SECONDS")]
    lease_seconds: u64 = 900, "900",
        "How long an agent that is not heard of keeps its builds";
    #[arg(value_name = "SECONDS")]
    heartbeat_seconds: u64 = 30, "30",
        "How often agents are to say that they are there";
    #[arg(value_name = "SECONDS")]
    poll_seconds: u64 = 50, "50",
        "How long an agent's question for work stays open; keep it below the timeout of a proxy in between";
    #[arg(value_name = "SECONDS")]
    timeout_seconds: u64 = 0, "0: the agents' own",
        "How long a build may take, unless its submission says so";
    #[arg(value_name = "SECONDS")]
    max_silent_seconds: u64 = 0, "0: the agents' own",
        "How long a build may be silent, unless its submission says so";
    #[arg(value_name = "URL", value_delimiter = ',', num_args = 1)]
    substitute_servers: Vec<String> = Vec::new(), "none",
        "Servers that agents can fetch inputs from, which need not be built here then";
    #[arg(value_name = "SECONDS")]
    substitute_seconds: u64 = 10, "10",
        "How long a substitute server may take to answer";
    #[arg(value_name = "COUNT")]
    setup_failures: u32 = 5, "5",
        "How often a build may fail to be set up before it is given up";
    #[arg(value_name = "MIB")]
    max_nar_mib: u64 = 64 * 1024, "65536",
        "The largest output that is accepted, uncompressed";
    #[arg(value_name = "MIB")]
    max_log_mib: u64 = 4096, "4096",
        "The longest log that is accepted for one try at a build";
    #[arg(value_name = "MIB")]
    disk_reserve_mib: u64 = 1024, "1024",
        "The free disk space below which no uploads are taken";
    #[arg(value_name = "MIB")]
    storage_low_mib: u64 = 20 * 1024, "20480",
        "How little room a place for nars has when an event says that it is low";
    #[arg(value_name = "POLICY")]
    placement: Placement = Placement::MostFree, "most-free",
        "Where new nars go: most-free, or in-order (see the places of the configuration file)";
    #[arg(value_name = "MIB")]
    check_mib_per_second: u64 = 20, "20",
        "How fast files that an import uses where they lie are read to check them; 0: only when an agent needs them";
    #[arg(value_name = "COUNT")]
    import_parallel: u32 = 4, "4",
        "How many items an import takes at a time";
    #[arg(value_name = "SECONDS")]
    import_silence_seconds: u64 = 60, "60",
        "How long a server that something is imported from may be silent before it is asked again";
    #[arg(value_name = "LEVELS")]
    log: String = "info".to_owned(), "info",
        "What is logged: error, warn, info, debug or trace, also by part as in info,drover=debug";
    #[arg(value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    log_json: bool = false, "false",
        "Whether the log is written as JSON, a line for each event";
}

impl Default for Config {
    fn default() -> Self {
        Options::default().resolve()
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
}
