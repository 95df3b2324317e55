//! A table `[hooks.NAME]`: what is done when something happened.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use drover_wire::hook::{Event, HookKind, HookName};
use serde::Deserialize;

use super::location::{Location, LocationConfig};
use super::places::Gib;
use super::{Config, ConfigError, MOST};

/// The most runs that all hooks together may have under way: each has a thread.
const THREADS: usize = 256;

/// A table `[hooks.NAME]`: what is done when something happened.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct HookConfig {
    /// What it does; by default, what its name says.
    pub kind: Option<HookKind>,
    /// What it starts from.
    pub on: Option<Vec<Event>>,
    /// Whether it is switched on; it is, by default.
    pub enabled: Option<bool>,
    /// How many runs it may have under way.
    pub parallel: Option<usize>,
    /// How long one try may take.
    pub seconds: Option<u64>,
    /// How often a run is tried before it is given up.
    pub tries: Option<u32>,
    /// How long it waits before the second try; the time doubles from try to try.
    pub first_wait_seconds: Option<u64>,
    /// How long it waits between two tries at most.
    pub longest_wait_seconds: Option<u64>,
    /// `retry`: how often what failed is built again.
    pub times: Option<u32>,
    /// `retry`: whether what took too long is built again, too.
    pub timeouts: Option<bool>,
    /// `retry`: how long it is left to agents that did not fail it.
    pub other_agents_seconds: Option<u64>,
    /// `push`: where it copies to.
    #[serde(flatten)]
    pub to: LocationConfig,
    /// `push`: how much of a folder's disk stays free; by default, as much as of that of the state folder.
    pub reserve_gib: Option<Gib>,
    /// `command`: the program, by its path from the root on or its name on PATH.
    pub program: Option<PathBuf>,
    /// `command`: its arguments.
    pub arguments: Option<Vec<String>>,
}

/// A hook, as it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// Its name.
    pub name: HookName,
    /// What it does.
    pub task: Task,
    /// What it starts from.
    pub on: Vec<Event>,
    /// Whether it is switched on.
    pub enabled: bool,
    /// How many runs it may have under way.
    pub parallel: usize,
    /// How long one try may take.
    pub limit: Duration,
    /// How often a run is tried before it is given up.
    pub tries: u32,
    /// How long it waits before the second try.
    pub first_wait: Duration,
    /// How long it waits between two tries at most.
    pub longest_wait: Duration,
}

/// What a hook does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// Shows outputs to the public.
    Publish,
    /// Has missing inputs built.
    SubmitMissingInputs,
    /// Builds again what failed.
    Retry {
        /// How often.
        times: u32,
        /// Whether what took too long is, too.
        timeouts: bool,
        /// How long it is left to other agents.
        other_agents: Duration,
    },
    /// Copies what is published.
    Push {
        /// Where it copies to.
        to: Location,
        /// The bytes of a folder's disk that stay free.
        reserve: u64,
    },
    /// Runs a program.
    Command {
        /// The program.
        program: PathBuf,
        /// Its arguments.
        arguments: Vec<String>,
    },
}

impl Hook {
    /// Whether it pushes to where this is, or within it, or it is within where it pushes to.
    #[must_use]
    pub fn pushes_into(&self, at: &Location) -> bool {
        self.enabled && matches!(&self.task, Task::Push { to, .. } if to.overlaps(at))
    }
}

impl Task {
    /// The word for it.
    #[must_use]
    pub fn kind(&self) -> HookKind {
        match self {
            Self::Publish => HookKind::Publish,
            Self::SubmitMissingInputs => HookKind::SubmitMissingInputs,
            Self::Retry { .. } => HookKind::Retry,
            Self::Push { .. } => HookKind::Push,
            Self::Command { .. } => HookKind::Command,
        }
    }
}

impl Config {
    /// The hooks: those that are built in, and those of the configuration, by name.
    ///
    /// # Errors
    /// When one of them cannot be, with its name and the reason.
    pub fn all_hooks(&self) -> Result<Vec<Hook>, ConfigError> {
        let mut all: BTreeMap<&str, HookConfig> = [HookKind::Publish, HookKind::SubmitMissingInputs]
            .iter()
            .map(|kind| (kind.as_str(), HookConfig::default()))
            .collect();
        all.extend(self.hooks.iter().map(|(name, hook)| (name.as_str(), hook.clone())));
        let refused = |name: &str, reason: String| ConfigError::Hook { hook: name.to_owned(), reason };
        let mut hooks = Vec::with_capacity(all.len());
        for (name, config) in all {
            let resolved = config.resolve(name, self.disk_reserve_mib.saturating_mul(1 << 20));
            hooks.push(resolved.map_err(|reason| refused(name, reason))?);
        }
        let threads: usize = hooks.iter().map(|hook| hook.parallel).sum();
        if threads > THREADS {
            let most = hooks.iter().max_by_key(|hook| hook.parallel).map_or("", |hook| hook.name.as_str());
            let reason = format!(
                "all hooks together may have {THREADS} runs under way, and parallel adds up to {threads}"
            );
            return Err(refused(most, reason));
        }
        self.check_pushes(&hooks)?;
        Ok(hooks)
    }

    /// What one hook pushes is nobody else's: another would write over it, a place would remove it, and a web server
    /// that serves it would serve what is theirs.
    fn check_pushes(&self, hooks: &[Hook]) -> Result<(), ConfigError> {
        let mut others = vec![("is the state folder".to_owned(), Location::Folder(self.state.clone()))];
        for place in &self.places {
            // One that cannot be is refused with the places.
            if let Ok(Some(at)) = place.location() {
                others.push((format!("is the place “{}”", place.name), at));
            }
        }
        for hook in hooks.iter().filter(|hook| hook.enabled) {
            let Task::Push { to, .. } = &hook.task else { continue };
            if let Some((whose, other)) = others.iter().find(|(_, other)| to.overlaps(other)) {
                let reason = format!(
                    "it pushes to {}, and at {} {whose}: give it a folder or bucket, or a prefix in one, of its own \
                     that is not within another's",
                    to.shown(),
                    other.shown()
                );
                return Err(ConfigError::Hook { hook: hook.name.to_string(), reason });
            }
            others.push((format!("is what the hook “{}” pushes to", hook.name), to.clone()));
        }
        Ok(())
    }
}

impl HookConfig {
    /// `reserve`: what stays free of the disk of a folder, unless it says something else.
    fn resolve(&self, name: &str, reserve: u64) -> Result<Hook, String> {
        let name: HookName =
            name.parse().map_err(|error: drover_wire::hook::HookNameError| error.to_string())?;
        let kind = match self.kind {
            Some(kind) => kind,
            None => name.as_str().parse().map_err(|_| {
                let known: Vec<&str> = HookKind::ALL.iter().map(|kind| kind.as_str()).collect();
                format!("say what it does, with kind = one of {}", known.join(", "))
            })?,
        };
        self.check_options(&name, kind)?;
        let task = self.task(kind, reserve)?;
        let on = self.events(kind)?;
        let parallel = self.parallel.unwrap_or(match kind {
            HookKind::Publish | HookKind::Push => 4,
            _ => 1,
        });
        let in_bounds = |option: &str, value: u64| match value {
            1..=MOST => Ok(value),
            _ => Err(format!("{option} must be more than 0 and less than a thousand million")),
        };
        in_bounds("parallel", parallel as u64)?;
        let tries = self.tries.unwrap_or(8);
        in_bounds("tries", u64::from(tries))?;
        let seconds = |option, given: Option<u64>, default| {
            in_bounds(option, given.unwrap_or(default)).map(Duration::from_secs)
        };
        let limit = seconds("seconds", self.seconds, 600)?;
        let first_wait = seconds("first-wait-seconds", self.first_wait_seconds, 10)?;
        let longest_wait = seconds("longest-wait-seconds", self.longest_wait_seconds, 3600)?;
        if longest_wait < first_wait {
            return Err("longest-wait-seconds must not be less than first-wait-seconds".to_owned());
        }
        let enabled = self.enabled.unwrap_or(true);
        Ok(Hook { name, task, on, enabled, parallel, limit, tries, first_wait, longest_wait })
    }

    /// An option that means nothing to a hook of this kind is a mistake.
    fn check_options(&self, name: &HookName, kind: HookKind) -> Result<(), String> {
        use HookKind::{Command, Publish, Push, Retry};
        let given = [
            ("on", self.on.is_some(), &[Publish, Push, Command][..]),
            ("parallel", self.parallel.is_some(), &[Publish, Push, Retry, Command]),
            ("seconds", self.seconds.is_some(), &[Push, Command]),
            ("tries", self.tries.is_some(), &[Publish, Push, Retry, Command]),
            ("first-wait-seconds", self.first_wait_seconds.is_some(), &[Publish, Push, Retry, Command]),
            ("longest-wait-seconds", self.longest_wait_seconds.is_some(), &[Publish, Push, Retry, Command]),
            ("times", self.times.is_some(), &[Retry]),
            ("timeouts", self.timeouts.is_some(), &[Retry]),
            ("other-agents-seconds", self.other_agents_seconds.is_some(), &[Retry]),
            ("program", self.program.is_some(), &[Command]),
            ("arguments", self.arguments.is_some(), &[Command]),
            ("reserve-gib", self.reserve_gib.is_some(), &[Push]),
        ];
        let of_others = given.iter().filter(|(_, given, kinds)| *given && !kinds.contains(&kind));
        let of_push = self.to.given().filter(|_| kind != Push);
        if let Some(option) = of_others.map(|(option, ..)| *option).chain(of_push).next() {
            return Err(format!("the option {option} means nothing to a hook of the kind {kind}"));
        }
        for single in [Publish, HookKind::SubmitMissingInputs, Retry] {
            if (kind == single) != (name.as_str() == single.as_str()) {
                return Err(format!(
                    "there is one hook of the kind {single}, and that is its name, which no other may have"
                ));
            }
        }
        Ok(())
    }

    fn task(&self, kind: HookKind, reserve: u64) -> Result<Task, String> {
        Ok(match kind {
            HookKind::Publish => Task::Publish,
            HookKind::SubmitMissingInputs => Task::SubmitMissingInputs,
            HookKind::Retry => Task::Retry {
                times: match self.times.unwrap_or(1) {
                    times @ 1..=1000 => times,
                    _ => return Err("times must be 1 to 1000; enabled = false switches it off".to_owned()),
                },
                timeouts: self.timeouts.unwrap_or(false),
                other_agents: Duration::from_secs(self.other_agents_seconds.unwrap_or(3600).min(MOST)),
            },
            HookKind::Push => match (self.to.location()?, self.reserve_gib) {
                (Location::Bucket(_), Some(_)) => {
                    return Err("a bucket has no disk, and so no reserve-gib".to_owned());
                }
                (to, given) => Task::Push { to, reserve: given.map_or(reserve, |Gib(bytes)| bytes) },
            },
            HookKind::Command => {
                let program = self.program.clone().ok_or("say which program it runs, with program = …")?;
                find_program(&program)?;
                Task::Command { program, arguments: self.arguments.clone().unwrap_or_default() }
            }
        })
    }

    fn events(&self, kind: HookKind) -> Result<Vec<Event>, String> {
        let mut on = match (&self.on, kind) {
            (Some(on), _) => on.clone(),
            (None, HookKind::Publish) => vec![Event::BuildSuccess],
            (None, HookKind::SubmitMissingInputs) => vec![Event::MissingInputs],
            (None, HookKind::Retry) => vec![Event::BuildFailure],
            (None, HookKind::Push) => vec![Event::Published],
            (None, HookKind::Command) => Vec::new(),
        };
        if on.is_empty() {
            let known: Vec<&str> = Event::ALL.iter().map(|event| event.as_str()).collect();
            return Err(format!("say what it starts from, with on = a list of {}", known.join(", ")));
        }
        on.sort_unstable();
        on.dedup();
        Ok(on)
    }
}

/// Whether there is such a program.
fn find_program(program: &Path) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    let is_program = |path: &Path| {
        std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    if program.is_absolute() {
        return match is_program(program) {
            true => Ok(()),
            false => Err(format!("its program {} is not there, or cannot be run", program.display())),
        };
    }
    if program.components().count() != 1 {
        return Err(format!(
            "its program {} must be named from the root on, or as it is on PATH",
            program.display()
        ));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|folder| is_program(&folder.join(program))) {
        return Ok(());
    }
    Err(format!("its program {} is not on PATH", program.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PlaceConfig;

    fn read(text: &str) -> Result<Vec<Hook>, String> {
        #[derive(Deserialize)]
        struct All {
            hooks: BTreeMap<String, HookConfig>,
        }
        let all: All = toml::from_str(text).map_err(|error| error.to_string())?;
        Config { hooks: all.hooks, ..Config::default() }.all_hooks().map_err(|error| error.to_string())
    }

    #[test]
    fn publishing_and_missing_inputs_are_seen_to_without_any_configuration() {
        let hooks = Config::default().all_hooks().unwrap();
        let kinds: Vec<HookKind> = hooks.iter().map(|hook| hook.task.kind()).collect();
        assert_eq!(kinds, [HookKind::Publish, HookKind::SubmitMissingInputs]);
        assert!(hooks.iter().all(|hook| hook.enabled));
    }

    #[test]
    fn a_hook_is_what_its_name_says_unless_it_says_something_else() {
        let hooks = read(
            "[hooks.retry]\ntimes = 2\n[hooks.mirror]\nkind = 'push'\nfolder = '/srv/mirror'\n\
             reserve-gib = 0.5\n[hooks.publish]\nenabled = false\n[hooks.tell]\nkind = 'command'\nprogram = '/bin/sh'\non = ['build-failure']",
        )
        .unwrap();
        let named = |name: &str| hooks.iter().find(|hook| hook.name.as_str() == name).unwrap();
        assert!(matches!(named("retry").task, Task::Retry { times: 2, timeouts: false, .. }));
        let to = Location::Folder("/srv/mirror".into());
        assert_eq!(named("mirror").task, Task::Push { to, reserve: 1 << 29 });
        assert_eq!(named("mirror").on, [Event::Published]);
        assert!(!named("publish").enabled);
        assert_eq!(named("tell").on, [Event::BuildFailure]);
    }

    #[cfg(feature = "s3")]
    #[test]
    fn a_folder_that_is_pushed_to_keeps_the_reserve_of_the_state_unless_it_says_another_and_a_bucket_has_none()
     {
        let hooks = read("[hooks.push]\nfolder = '/srv'").unwrap();
        let push = hooks.iter().find(|hook| hook.name.as_str() == "push").unwrap();
        let reserve = Config::default().disk_reserve_mib << 20;
        assert_eq!(push.task, Task::Push { to: Location::Folder("/srv".into()), reserve });
        let error = read("[hooks.push]\nbucket = 's3://nars'\nreserve-gib = 1").unwrap_err();
        assert!(error.contains("a bucket has no disk"), "{error}");
    }

    #[test]
    fn what_a_hook_pushes_to_is_nobody_elses() {
        let base = tempfile::tempdir().unwrap();
        let at = |name: &str| base.path().join(name);
        std::os::unix::fs::symlink(at("mirror"), at("link")).unwrap();
        std::fs::create_dir(at("mirror")).unwrap();
        let try_with = |folders: [&str; 2], place: &str| {
            let push = |folder: &str, enabled| HookConfig {
                kind: Some(HookKind::Push),
                enabled: Some(enabled),
                to: LocationConfig { folder: Some(at(folder)), ..LocationConfig::default() },
                ..HookConfig::default()
            };
            let [one, two] = folders.map(|folder| push(folder.trim_end_matches('!'), !folder.ends_with('!')));
            let to = LocationConfig { folder: Some(at(place)), ..LocationConfig::default() };
            let place = PlaceConfig { name: "near".to_owned(), at: to, ..PlaceConfig::default() };
            let hooks = BTreeMap::from([("one".to_owned(), one), ("two".to_owned(), two)]);
            let config = Config { hooks, places: vec![place], state: at("state"), ..Config::default() };
            config.all_hooks().map(|_| ()).map_err(|error| error.to_string())
        };
        assert_eq!(try_with(["mirror", "mirror-2"], "near"), Ok(()));
        assert_eq!(try_with(["mirror", "link!"], "near"), Ok(()), "what is switched off pushes nothing");
        for (folders, place, names) in [
            (["mirror", "mirror"], "near", ["“two”", "“one”"]),
            (["mirror", "link"], "near", ["“two”", "“one”"]),
            (["mirror", "link/within"], "near", ["“two”", "“one”"]),
            (["a", "near/mirror"], "near", ["“two”", "“near”"]),
            (["mirror", "b"], "link/nars", ["“one”", "“near”"]),
            (["state/mirror", "b"], "near", ["“one”", "the state folder"]),
            (["a", "."], "../near", ["“two”", "the state folder"]),
        ] {
            let error = try_with(folders, place).unwrap_err();
            assert!(names.iter().all(|name| error.contains(name)), "{folders:?} {place}: {error}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_name_of_the_hook_and_what_to_write() {
        for (hook, said) in [
            ("[hooks.tell]", "kind = one of"),
            ("[hooks.Tell]\nkind = 'command'", "name of a hook"),
            ("[hooks.tell]\nkind = 'shout'", "unknown variant `shout`"),
            ("[hooks.tell]\nkind = 'command'\nprogram = '/bin/sh'", "on = a list of"),
            ("[hooks.tell]\nkind = 'command'\nprogram = '/bin/sh'\non = []", "on = a list of"),
            (
                "[hooks.tell]\nkind = 'command'\nprogram = '/bin/sh'\non = ['build-fails']",
                "unknown variant `build-fails`",
            ),
            ("[hooks.tell]\nkind = 'command'\non = ['published']", "program ="),
            ("[hooks.tell]\nkind = 'command'\nprogram = '/no/such'\non = ['published']", "/no/such"),
            (
                "[hooks.tell]\nkind = 'command'\nprogram = 'no-such-program'\non = ['published']",
                "not on PATH",
            ),
            ("[hooks.tell]\nkind = 'command'\nprogram = 'a/b'\non = ['published']", "from the root"),
            ("[hooks.push]", "either a folder or a bucket"),
            ("[hooks.push]\nfolder = 'here'", "from the root"),
            ("[hooks.push]\nfolder = '/srv'\nprogram = '/bin/sh'", "program means nothing"),
            ("[hooks.push]\nfolder = '/srv'\nregion = 'eu'", "belong to a bucket"),
            ("[hooks.push]\nfolder = '/srv'\nreserve-gib = -1", "GiB"),
            ("[hooks.retry]\nreserve-gib = 1", "reserve-gib means nothing"),
            ("[hooks.push]\nfolders = '/srv'", "unknown field `folders`"),
            ("[hooks.retry]\nbucket = 's3://nars'", "bucket means nothing"),
            ("[hooks.push]\nfolder = '/srv'\nparallel = 0", "parallel must be more than 0"),
            ("[hooks.push]\nfolder = '/srv'\nparallel = 300", "runs under way"),
            ("[hooks.push]\nfolder = '/srv'\ntries = 0", "tries must be more than 0"),
            ("[hooks.push]\nfolder = '/srv'\nseconds = 0", "seconds must be more than 0"),
            (
                "[hooks.push]\nfolder = '/srv'\nfirst-wait-seconds = 60\nlongest-wait-seconds = 5",
                "longest-wait-seconds",
            ),
            (
                "[hooks.publish]\nkind = 'command'\nprogram = '/bin/sh'\non = ['published']",
                "no other may have",
            ),
            ("[hooks.show]\nkind = 'publish'", "that is its name"),
            ("[hooks.retry]\ntimes = 0", "times must be"),
            ("[hooks.retry]\nonce = true", "once"),
            ("[hooks.submit-missing-inputs]\nparallel = 2", "parallel means nothing"),
        ] {
            let error = read(hook).unwrap_err();
            assert!(error.contains(said), "{hook}: {error}");
        }
        let error = read("[hooks.tell]").unwrap_err();
        assert!(error.contains("tell"), "{error}");
    }
}
