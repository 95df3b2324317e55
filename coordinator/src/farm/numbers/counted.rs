//! What is counted as it happens.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use drover_wire::route::Listener;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::database::Commits;
use crate::farm::change::Change;

pub(super) const PREFIX: &str = "drover";

/// From a second to a week.
const LONG: [f64; 12] =
    [1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1_800.0, 3_600.0, 10_800.0, 43_200.0, 172_800.0, 604_800.0];
/// From a hundredth of a second to an hour.
const DISPATCH: [f64; 11] = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0, 600.0, 3_600.0];
/// From a millisecond to a minute: the longest are those that are held open.
const REQUEST: [f64; 8] = [0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0];

/// What was measured in a job of the database; counted when that is committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// A build was given to an agent.
    Allocated(Waited),
    /// A try at a build is over.
    Closed {
        /// A report's outcome, or `lease-lost`.
        outcome: &'static str,
    },
    /// A builder has run to its end.
    Built {
        /// Where it could go.
        system: String,
        /// `succeeded`, `failed` or `timed-out`.
        outcome: &'static str,
        /// How long it took.
        time: Duration,
    },
}

/// How long a build waited for an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waited {
    /// Where it can go: a system, or a builtin.
    pub system: String,
    /// Since it was submitted; none for later tries, before which it did not only wait.
    pub since_submission: Option<Duration>,
    /// Since an agent could have had it.
    pub since_ready: Option<Duration>,
}

/// A request that is over. All of it is from the table of routes, so that there are only so many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Who asked.
    pub listener: Listener,
    /// How: `GET`, …; `other` for what is not in use.
    pub method: &'static str,
    /// The route's pattern; `none` for what is none.
    pub route: &'static str,
    /// The status; none if whoever asked left before there was one.
    pub status: Option<u16>,
    /// How long it took until the answer began, or they left.
    pub time: Duration,
}

type Labels<const N: usize> = [(&'static str, &'static str); N];
type BySystem = Family<[(&'static str, String); 1], Histogram, Buckets>;

/// Makes histograms with these bounds.
#[derive(Debug, Clone, Copy)]
struct Buckets(&'static [f64]);

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

/// What is counted in this process.
#[derive(Debug)]
pub struct Numbers {
    registry: Registry,
    started: SystemTime,
    /// What labels say of systems.
    pub(super) systems: Systems,
    wait: BySystem,
    dispatch: BySystem,
    building: Family<[(&'static str, String); 2], Histogram, Buckets>,
    opened: Counter,
    closed: Family<Labels<1>, Counter>,
    requests: Family<Labels<4>, Counter>,
    request_times: Family<Labels<3>, Histogram, Buckets>,
    uploads: Family<Labels<1>, Counter>,
    uploads_open: Gauge,
    upload_bytes: Counter,
    log_bytes: Counter,
    traffic: [Arc<Traffic>; 3],
    /// Of the stream of events.
    pub stream: Stream,
    /// Of the database's writer.
    pub commits: Commits,
}

/// Systems that have a label of their own: those that were met first. Derivations may name any, and each would be rows for
/// ever; the rest is called `other`.
#[derive(Debug, Default)]
pub(super) struct Systems(Mutex<HashSet<String>>);

/// How many there are: Guix knows a dozen.
const SYSTEMS: usize = 64;

impl Systems {
    /// What a system is called.
    pub(super) fn label(&self, system: &str) -> String {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.contains(system) {
            if known.len() >= SYSTEMS {
                return "other".to_owned();
            }
            known.insert(system.to_owned());
        }
        system.to_owned()
    }
}

/// What goes through the connections of a listener.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Connections that are open.
    pub open: Gauge,
    /// Connections that were taken.
    pub taken: Counter,
    /// Bytes that came, without what TLS adds to them.
    pub received: Counter,
    /// Bytes that went out.
    pub sent: Counter,
}

/// The same of all listeners.
#[derive(Debug, Default)]
struct AllTraffic {
    open: Family<Labels<1>, Gauge>,
    taken: Family<Labels<1>, Counter>,
    received: Family<Labels<1>, Counter>,
    sent: Family<Labels<1>, Counter>,
}

impl AllTraffic {
    fn of(&self, listener: Listener) -> Traffic {
        let label = [("listener", listener_name(listener))];
        Traffic {
            open: self.open.get_or_create_owned(&label),
            taken: self.taken.get_or_create_owned(&label),
            received: self.received.get_or_create_owned(&label),
            sent: self.sent.get_or_create_owned(&label),
        }
    }

    fn register(self, registry: &mut Registry) {
        registry.register("connections_open", "Connections that are open, by listener", self.open);
        registry.register("connections", "Connections that were taken, by listener", self.taken);
        let received = "Bytes that came over connections, heads of requests included and what TLS adds not";
        registry.register_with_unit("network_received", received, Unit::Bytes, self.received);
        let sent = "Bytes that went out over connections, heads of answers included and what TLS adds not";
        registry.register_with_unit("network_sent", sent, Unit::Bytes, self.sent);
    }
}

/// How the stream of events does.
#[derive(Debug, Clone, Default)]
pub struct Stream {
    /// Who reads it now.
    pub readers: Gauge,
    /// Readers that were cut off since they were too slow.
    pub cut_off: Counter,
    /// Events that were sent, to all readers together.
    pub sent: Counter,
}

impl Stream {
    fn register(&self, registry: &mut Registry) {
        registry.register("event_readers", "Who reads the stream of events", self.readers.clone());
        let cut_off = "Readers of the stream of events that were cut off since they were too slow";
        registry.register("event_readers_cut_off", cut_off, self.cut_off.clone());
        let sent = "Events that were sent to readers of the stream, to all of them together";
        registry.register("events_sent", sent, self.sent.clone());
    }
}

/// The name of a listener.
pub(super) fn listener_name(listener: Listener) -> &'static str {
    match listener {
        Listener::Agents => "agents",
        // Pages have none of their own.
        Listener::Clients | Listener::Pages => "clients",
        Listener::Public => "public",
    }
}

const LISTENERS: [Listener; 3] = [Listener::Agents, Listener::Clients, Listener::Public];

impl Default for Numbers {
    /// Nothing was counted yet.
    fn default() -> Self {
        let traffic = AllTraffic::default();
        let mut numbers = Self {
            registry: Registry::with_prefix(PREFIX),
            started: SystemTime::now(),
            systems: Systems::default(),
            wait: Family::new_with_constructor(Buckets(&LONG)),
            dispatch: Family::new_with_constructor(Buckets(&DISPATCH)),
            building: Family::new_with_constructor(Buckets(&LONG)),
            opened: Counter::default(),
            closed: Family::default(),
            requests: Family::default(),
            request_times: Family::new_with_constructor(Buckets(&REQUEST)),
            uploads: Family::default(),
            uploads_open: Gauge::default(),
            upload_bytes: Counter::default(),
            log_bytes: Counter::default(),
            traffic: LISTENERS.map(|listener| Arc::new(traffic.of(listener))),
            stream: Stream::default(),
            commits: Commits::default(),
        };
        // They are there before the first of them happens, so that its happening shows as an increase.
        let _ = numbers.closed.get_or_create(&[("outcome", "lease-lost")]);
        for end in [UploadEnd::Complete, UploadEnd::CutOff, UploadEnd::Refused] {
            let _ = numbers.uploads.get_or_create(&[("end", end.word())]);
        }
        traffic.register(&mut numbers.registry);
        numbers.register();
        numbers
    }
}

impl Numbers {
    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register_with_unit(
            "build_wait",
            "How long builds waited for their first agent since they were submitted, by system or builtin",
            Unit::Seconds,
            self.wait.clone(),
        );
        registry.register_with_unit(
            "build_dispatch",
            "How long builds waited for an agent since nothing but that was missing, by system or builtin",
            Unit::Seconds,
            self.dispatch.clone(),
        );
        registry.register_with_unit(
            "build_duration",
            "How long builders ran, as far as it was seen, by system or builtin and outcome",
            Unit::Seconds,
            self.building.clone(),
        );
        registry.register("leases_opened", "Builds that were given to agents", self.opened.clone());
        registry.register(
            "leases_closed",
            "Tries at builds that are over, by how they ended; lease-lost: the agent was not heard of in time, or came back without it",
            self.closed.clone(),
        );
        registry.register(
            "requests",
            "Requests, by listener, method, route and class of status; left: whoever asked did not wait for the answer",
            self.requests.clone(),
        );
        registry.register_with_unit(
            "request_duration",
            "How long requests took until the answer began; some are held open",
            Unit::Seconds,
            self.request_times.clone(),
        );
        registry.register(
            "uploads",
            "Uploads of outputs that are over, by how they ended: complete, cut-off or refused",
            self.uploads.clone(),
        );
        registry.register("uploads_open", "Uploads of outputs under way", self.uploads_open.clone());
        registry.register_with_unit(
            "upload",
            "Bytes of outputs that agents have uploaded, compressed",
            Unit::Bytes,
            self.upload_bytes.clone(),
        );
        registry.register_with_unit(
            "log_received",
            "Bytes of logs that agents have sent",
            Unit::Bytes,
            self.log_bytes.clone(),
        );
        self.stream.register(registry);
        self.commits.register(registry);
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// When the process began, in seconds since 1970.
    pub(super) fn started(&self) -> f64 {
        self.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
    }

    /// Counts what a commit changed.
    pub fn follow(&self, changes: &[Change]) {
        for change in changes {
            if let Change::Measured(fact) = change {
                self.count(fact);
            }
        }
    }

    fn count(&self, fact: &Fact) {
        match fact {
            Fact::Allocated(waited) => {
                self.opened.inc();
                let system = [("system", self.systems.label(&waited.system))];
                if let Some(submission) = waited.since_submission {
                    self.wait.get_or_create(&system).observe(submission.as_secs_f64());
                }
                if let Some(ready) = waited.since_ready {
                    self.dispatch.get_or_create(&system).observe(ready.as_secs_f64());
                }
            }
            Fact::Closed { outcome } => {
                self.closed.get_or_create(&[("outcome", *outcome)]).inc();
            }
            Fact::Built { system, outcome, time } => {
                let labels = [("system", self.systems.label(system)), ("outcome", (*outcome).to_owned())];
                self.building.get_or_create(&labels).observe(time.as_secs_f64());
            }
        }
    }

    /// Counts a request.
    pub fn request(&self, request: &Request) {
        let Request { listener, method, route, status, time } = *request;
        let class = match status {
            None => "left",
            Some(100..=199) => "1xx",
            Some(200..=299) => "2xx",
            Some(300..=399) => "3xx",
            Some(400..=499) => "4xx",
            Some(_) => "5xx",
        };
        let [listener, method, route] =
            [("listener", listener_name(listener)), ("method", method), ("route", route)];
        self.requests.get_or_create(&[listener, method, route, ("status", class)]).inc();
        if status.is_some() {
            self.request_times.get_or_create(&[listener, method, route]).observe(time.as_secs_f64());
        }
    }

    /// The connections of a listener.
    pub fn traffic_of(&self, listener: Listener) -> &Arc<Traffic> {
        let [agents, clients, public] = &self.traffic;
        match listener {
            Listener::Agents => agents,
            Listener::Clients | Listener::Pages => clients,
            Listener::Public => public,
        }
    }

    /// An upload begins; it ends when what is given is dropped.
    pub(in crate::farm) fn upload(self: &Arc<Self>) -> Upload {
        self.uploads_open.inc();
        Upload { numbers: Arc::clone(self), end: UploadEnd::CutOff }
    }

    /// A chunk of a log came.
    pub(in crate::farm) fn log_came(&self, bytes: usize) {
        self.log_bytes.inc_by(bytes as u64);
    }
}

/// How an upload ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::farm) enum UploadEnd {
    /// All of it is here.
    Complete,
    /// The rest is awaited.
    CutOff,
    /// It is not wanted.
    Refused,
}

impl UploadEnd {
    fn word(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::CutOff => "cut-off",
            Self::Refused => "refused",
        }
    }
}

/// An upload under way.
#[derive(Debug)]
pub(in crate::farm) struct Upload {
    numbers: Arc<Numbers>,
    end: UploadEnd,
}

impl Upload {
    /// So many bytes of it came.
    pub(in crate::farm) fn came(&self, bytes: usize) {
        self.numbers.upload_bytes.inc_by(bytes as u64);
    }

    /// How it ended.
    pub(in crate::farm) fn ends(&mut self, end: UploadEnd) {
        self.end = end;
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.numbers.uploads_open.dec();
        self.numbers.uploads.get_or_create(&[("end", self.end.word())]).inc();
    }
}
