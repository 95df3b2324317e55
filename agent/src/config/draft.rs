//! A configuration in the making: what each option says, before they are seen together.

use std::path::{Path, PathBuf};
use std::time::Duration;

use drover_tls::Trust;
use uuid::Uuid;

use crate::options;
use crate::session::LEAST_STORE;

use super::choice::{self, ExecutorKind};
use super::sandbox::SandboxDraft;
use super::sources::Given;
use super::values::{self, BaseUrl, DaemonSocket, LogLevels, Secret};
use super::{Config, ConfigError, Credentials, Glance, LogSettings, Place, Surroundings};

/// The environment variable by which Guix's own programs find the daemon.
pub(super) const DAEMON_VARIABLE: &str = "GUIX_DAEMON_SOCKET";

/// How much disk is kept free for the store unless something else is said: twice what a build must find, so that what
/// nobody needs goes before no builds are taken, and not while there is room for them.
const GC_BELOW: u64 = 2 * LEAST_STORE;

/// What was given so far. Each option has a method, which the table of options names.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    coordinator: Option<BaseUrl>,
    trust: Option<Trust>,
    uuid: Option<Uuid>,
    password: Option<Secret>,
    name: Option<String>,
    token: Option<Secret>,
    hardware: Option<String>,
    set_clock: Option<bool>,
    systems: Vec<String>,
    max_parallel_builds: Option<u32>,
    max_parallel_uploads: Option<u32>,
    max_allocated_builds: Option<u32>,
    max_load: Option<f64>,
    derivation_urls: Vec<String>,
    non_derivation_urls: Vec<String>,
    timeout: Option<Duration>,
    max_silent_time: Option<Duration>,
    drain_time: Option<Duration>,
    state_dir: Option<PathBuf>,
    executor: Option<ExecutorKind>,
    daemon_socket: Option<DaemonSocket>,
    gc_below: Option<Option<u64>>,
    /// What the sandbox is told; `sandbox` has the methods.
    pub(super) sandbox: SandboxDraft,
    timestamps: Option<bool>,
    log_levels: Option<LogLevels>,
    log_json: Option<bool>,
    /// Where each option was given.
    places: Vec<(&'static str, Place)>,
}

pub(super) type Applied = Result<(), String>;

impl Draft {
    pub(crate) fn coordinator(&mut self, text: &str) -> Applied {
        self.coordinator = Some(text.parse()?);
        Ok(())
    }

    pub(crate) fn ca_file(&mut self, text: &str) -> Applied {
        self.trust = Some(Trust::of_file(Path::new(text))?);
        Ok(())
    }

    pub(crate) fn coordinator_key(&mut self, text: &str) -> Applied {
        let pin = text.parse()?;
        match &mut self.trust {
            Some(Trust::Keys(pins)) => pins.push(pin),
            _ => self.trust = Some(Trust::Keys(vec![pin])),
        }
        Ok(())
    }

    pub(crate) fn uuid(&mut self, text: &str) -> Applied {
        let uuid = text
            .parse()
            .map_err(|_| format!("“{text}” is not a UUID such as 7a3c0d9e-52ef-4c5b-9a37-0f8e6f0f9a11"))?;
        self.uuid = Some(uuid);
        Ok(())
    }

    pub(crate) fn password(&mut self, text: &str) -> Applied {
        self.password = Some(Secret::new(text)?);
        Ok(())
    }

    pub(crate) fn password_file(&mut self, text: &str) -> Applied {
        self.password = Some(Secret::from_file(text)?);
        Ok(())
    }

    pub(crate) fn name(&mut self, text: &str) -> Applied {
        self.name = Some(values::name(text)?);
        Ok(())
    }

    pub(crate) fn token(&mut self, text: &str) -> Applied {
        self.token = Some(Secret::new(text)?);
        Ok(())
    }

    pub(crate) fn token_file(&mut self, text: &str) -> Applied {
        self.token = Some(Secret::from_file(text)?);
        Ok(())
    }

    pub(crate) fn hardware(&mut self, text: &str) -> Applied {
        self.hardware = Some(values::hardware(text)?);
        Ok(())
    }

    pub(crate) fn set_clock(&mut self, text: &str) -> Applied {
        self.set_clock = Some(values::boolean(text)?);
        Ok(())
    }

    pub(crate) fn system(&mut self, text: &str) -> Applied {
        let system = values::system(text)?;
        if self.systems.contains(&system) {
            return Err(format!("{system} is there already"));
        }
        self.systems.push(system);
        Ok(())
    }

    pub(crate) fn max_parallel_builds(&mut self, text: &str) -> Applied {
        self.max_parallel_builds = Some(values::count(text)?);
        Ok(())
    }

    pub(crate) fn max_parallel_uploads(&mut self, text: &str) -> Applied {
        self.max_parallel_uploads = Some(values::count(text)?);
        Ok(())
    }

    pub(crate) fn max_allocated_builds(&mut self, text: &str) -> Applied {
        self.max_allocated_builds = Some(values::count(text)?);
        Ok(())
    }

    pub(crate) fn max_load(&mut self, text: &str) -> Applied {
        self.max_load = Some(values::load(text)?);
        Ok(())
    }

    pub(crate) fn derivation_urls(&mut self, text: &str) -> Applied {
        self.derivation_urls = values::urls(text)?;
        Ok(())
    }

    pub(crate) fn non_derivation_urls(&mut self, text: &str) -> Applied {
        self.non_derivation_urls = values::urls(text)?;
        Ok(())
    }

    pub(crate) fn timeout(&mut self, text: &str) -> Applied {
        self.timeout = Some(positive(text)?);
        Ok(())
    }

    pub(crate) fn max_silent_time(&mut self, text: &str) -> Applied {
        self.max_silent_time = Some(positive(text)?);
        Ok(())
    }

    pub(crate) fn drain_time(&mut self, text: &str) -> Applied {
        self.drain_time = Some(values::duration(text)?);
        Ok(())
    }

    pub(crate) fn state_dir(&mut self, text: &str) -> Applied {
        self.state_dir = Some(values::folder(text)?);
        Ok(())
    }

    pub(crate) fn executor(&mut self, text: &str) -> Applied {
        self.executor = Some(text.parse()?);
        Ok(())
    }

    pub(crate) fn gc_below(&mut self, text: &str) -> Applied {
        self.gc_below = Some(if text == "0" { None } else { values::size_or_none(text)? });
        Ok(())
    }

    pub(crate) fn daemon_socket(&mut self, text: &str) -> Applied {
        self.daemon_socket = Some(text.parse()?);
        Ok(())
    }

    pub(crate) fn timestamps(&mut self, text: &str) -> Applied {
        self.timestamps = Some(values::boolean(text)?);
        Ok(())
    }

    pub(crate) fn log_level(&mut self, text: &str) -> Applied {
        self.log_levels = Some(text.parse()?);
        Ok(())
    }

    pub(crate) fn log_json(&mut self, text: &str) -> Applied {
        self.log_json = Some(values::boolean(text)?);
        Ok(())
    }

    /// Reads every value.
    pub(super) fn from_given(given: &[Given]) -> Result<Self, ConfigError> {
        let mut draft = Self::default();
        for Given { option, value, place } in given {
            (option.apply)(&mut draft, value).map_err(|reason| match place {
                Place::Option(_) => place.error(reason),
                _ => place.error(format!("{}: {reason}", option.name)),
            })?;
            draft.places.push((option.name, place.clone()));
        }
        Ok(draft)
    }

    /// Sees all values together, and fills in what was not said.
    pub(super) fn finish(mut self, surroundings: &Surroundings) -> Result<Config, ConfigError> {
        let credentials = self.credentials(surroundings)?;
        self.finish_as(credentials, surroundings)
    }

    /// As [`Draft::finish`], for who looks: as nobody if nothing says who.
    pub(super) fn glance(mut self, surroundings: &Surroundings) -> Result<Glance, ConfigError> {
        let has_coordinator = self.coordinator.is_some();
        let (credentials, nobody) = match self.credentials(surroundings) {
            Ok(credentials) => (credentials, None),
            Err(error) => {
                let token = Secret::new("nobody").map_err(|reason| Place::Nowhere.error(reason))?;
                (Credentials::Token { name: "nobody".into(), token, hardware: None }, Some(error.to_string()))
            }
        };
        Ok(Glance { config: self.finish_as(credentials, surroundings)?, nobody, has_coordinator })
    }

    fn finish_as(
        mut self,
        credentials: Credentials,
        surroundings: &Surroundings,
    ) -> Result<Config, ConfigError> {
        let max_parallel_builds = self.max_parallel_builds.unwrap_or(1);
        let max_allocated_builds =
            self.max_allocated_builds.unwrap_or_else(|| max_parallel_builds.saturating_add(1));
        if max_allocated_builds < max_parallel_builds {
            let reason = format!(
                "max-allocated-builds ({max_allocated_builds}) is less than max-parallel-builds \
                 ({max_parallel_builds}): a build must be held to run"
            );
            return Err(self.place(&["max-allocated-builds"]).error(reason));
        }
        if self.systems.is_empty() {
            let Some(system) = surroundings.system.clone() else {
                return Err(Place::Nowhere.error("what this machine builds for is not known; give --system"));
            };
            self.systems.push(system);
        }
        let daemon_socket: Option<DaemonSocket> =
            match (self.daemon_socket.take(), &surroundings.daemon_socket) {
                (Some(socket), _) => Some(socket),
                (None, Some(text)) => text
                    .to_str()
                    .ok_or_else(|| "it is not UTF-8".to_owned())
                    .and_then(str::parse)
                    .map(Some)
                    .map_err(|reason| Place::Variable(DAEMON_VARIABLE).error(reason))?,
                (None, None) => None,
            };
        let other_store = self.sandbox.has_store_of_its_own();
        let executor =
            choice::choose(self.executor, daemon_socket.is_some(), other_store, surroundings.daemon);
        let local = self.non_derivation_urls.iter().find(|url| url.starts_with("file:"));
        if let (ExecutorKind::Sandbox, Some(url)) = (executor.kind, local) {
            let reason = format!(
                "{url}: the sandbox reads substitutes from servers of http:// and https:// only; leave it out, or build with \
                 --executor daemon"
            );
            return Err(self.place(&["non-derivation-substitute-urls"]).error(reason));
        }
        let unheeded = self.unheeded(executor.kind);
        let sandbox = std::mem::take(&mut self.sandbox).finish(executor.kind, surroundings)?;
        let coordinator: BaseUrl = match self.coordinator.take() {
            Some(url) => url,
            None => "http://localhost:8745".parse().map_err(|reason: String| Place::Nowhere.error(reason))?,
        };
        let trust = self.trust.take().unwrap_or_default();
        if matches!(trust, Trust::Keys(_)) && !coordinator.is_https() {
            let reason =
                format!("a pinned key is of use with https:// only, and the coordinator is {coordinator}");
            return Err(self.place(&["coordinator-key"]).error(reason));
        }
        Ok(Config {
            coordinator,
            trust,
            credentials,
            set_clock: self.set_clock.unwrap_or(false),
            systems: self.systems,
            max_parallel_builds,
            max_parallel_uploads: self.max_parallel_uploads.unwrap_or(1),
            max_allocated_builds,
            max_1min_load_average: self.max_load.unwrap_or(f64::from(surroundings.processors.unwrap_or(1))),
            derivation_substitute_urls: self.derivation_urls,
            non_derivation_substitute_urls: self.non_derivation_urls,
            timeout: self.timeout,
            max_silent_time: self.max_silent_time,
            drain_time: self.drain_time.unwrap_or(Duration::from_secs(600)),
            state_dir: self.state_dir.unwrap_or_else(|| "/var/lib/drover-agent".into()),
            executor,
            daemon_socket: daemon_socket.unwrap_or_else(DaemonSocket::usual),
            sandbox,
            gc_below: self.gc_below.unwrap_or(Some(GC_BELOW)),
            unheeded,
            log: LogSettings {
                levels: self.log_levels.unwrap_or_default(),
                timestamps: self.timestamps.unwrap_or(true),
                json: self.log_json.unwrap_or(false),
            },
        })
    }

    fn credentials(&mut self, surroundings: &Surroundings) -> Result<Credentials, ConfigError> {
        const PASSWORD: &[&str] = &["password", "password-file"];
        const TOKEN: &[&str] = &["dynamic-auth-token", "dynamic-auth-token-file"];
        match (self.uuid.take(), self.password.take(), self.token.take()) {
            (None, None, None) => Err(Place::Nowhere.error(
                "nothing says who this agent is: give --uuid with --password-file, or --dynamic-auth-token-file",
            )),
            (Some(_), None, None) => {
                Err(self.place(&["uuid"]).error("a uuid needs --password-file (or --password)"))
            }
            (None, Some(_), _) => Err(self.place(PASSWORD).error("a password needs --uuid")),
            (Some(_), _, Some(_)) => {
                let other = self.place(&["uuid"]);
                let reason = format!("a dynamic token and a uuid (given at {other}) contradict each other");
                Err(self.place(TOKEN).error(reason))
            }
            (Some(_), Some(_), None) if self.name.is_some() => {
                Err(self.place(&["name"]).error("an agent with a uuid has its name from the coordinator"))
            }
            (Some(_), Some(_), None) if self.hardware.is_some() => Err(self
                .place(&["hardware"])
                .error("an agent with a uuid does not enrol itself: hardware goes with a dynamic token")),
            (Some(uuid), Some(password), None) => Ok(Credentials::Password { uuid, password }),
            (None, None, Some(token)) => {
                let name = match self.name.take() {
                    Some(name) => name,
                    None => surroundings
                        .host_name
                        .as_deref()
                        .ok_or_else(|| "this machine has no host name".to_owned())
                        .and_then(values::name)
                        .map_err(|reason| Place::Nowhere.error(format!("{reason}; give --name")))?,
                };
                Ok(Credentials::Token { name, token, hardware: self.hardware.take() })
            }
        }
    }

    /// The options that were given and are for the other executor.
    fn unheeded(&self, executor: ExecutorKind) -> Vec<&'static str> {
        let options = self.places.iter().filter_map(|(name, _)| options::find(name));
        options.filter(|option| option.only.is_some_and(|only| only != executor)).map(|o| o.name).collect()
    }

    /// Where the first of these options was given.
    fn place(&self, names: &[&str]) -> Place {
        let given = self.places.iter().find(|(name, _)| names.contains(name));
        given.map_or(Place::Nowhere, |(_, place)| place.clone())
    }
}

fn positive(text: &str) -> Result<Duration, String> {
    match values::duration(text)? {
        Duration::ZERO => Err("0 would end every build at once; leave it out for no limit".into()),
        time => Ok(time),
    }
}
