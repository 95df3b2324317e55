//! Every option there is: the one table from which command line, configuration file and `--help` are made.

use crate::config::{Draft, ExecutorKind};

/// Reads a value into the configuration; the error says what is wrong with the value, without naming the option.
pub(crate) type Apply = fn(&mut Draft, &str) -> Result<(), String>;

/// One option.
pub(crate) struct Definition {
    /// On the command line `--name`, in the file `name = value`.
    pub(crate) name: &'static str,
    /// What the value is, in capitals.
    pub(crate) argument: &'static str,
    /// What is taken without it, for `--help`; empty if that needs no mention.
    pub(crate) default: &'static str,
    /// What it is for, for `--help`.
    pub(crate) help: &'static str,
    /// Whether it may be given more than once.
    pub(crate) repeatable: bool,
    /// Options of one group are alternatives: only one of them may be given, and one on the command line replaces
    /// whichever the file has.
    pub(crate) group: &'static str,
    /// Whether the value may be left out on the command line, meaning `true`.
    pub(crate) switch: bool,
    /// The executor that it is for, if not for each.
    pub(crate) only: Option<ExecutorKind>,
    /// Reads its value.
    pub(crate) apply: Apply,
}

const fn option(
    name: &'static str,
    argument: &'static str,
    default: &'static str,
    help: &'static str,
    apply: Apply,
) -> Definition {
    Definition {
        name,
        argument,
        default,
        help,
        repeatable: false,
        group: name,
        switch: false,
        only: None,
        apply,
    }
}

const fn sandbox(
    name: &'static str,
    argument: &'static str,
    default: &'static str,
    help: &'static str,
    apply: Apply,
) -> Definition {
    Definition { only: Some(ExecutorKind::Sandbox), ..option(name, argument, default, help, apply) }
}

/// All options but `--config`, `--help` and `--version`, which a file cannot hold. In the order of `--help`.
#[rustfmt::skip]
pub(crate) static OPTIONS: &[Definition] = &[
    option("coordinator", "URL", "http://localhost:8745", "the coordinator", Draft::coordinator),
    Definition { group: "trust", ..option("ca-file", "FILE", "system's", "trust these (PEM) only", Draft::ca_file) },
    Definition { group: "trust", repeatable: true, ..option("coordinator-key", "KEY", "", "trust this sha256/… only; repeatable", Draft::coordinator_key) },
    option("uuid", "UUID", "", "who this is; goes with a password", Draft::uuid),
    Definition { group: "password", ..option("password", "TEXT", "", "the password (better in a file)", Draft::password) },
    Definition { group: "password", ..option("password-file", "FILE", "", "a file that holds the password", Draft::password_file) },
    option("name", "NAME", "host name", "the name to go with a token", Draft::name),
    Definition { group: "token", ..option("dynamic-auth-token", "TEXT", "", "the token (better in a file)", Draft::token) },
    Definition { group: "token", ..option("dynamic-auth-token-file", "FILE", "", "a file that holds the token", Draft::token_file) },
    option("hardware", "TEXT", "", "what tells this machine: enrol once", Draft::hardware),
    Definition { switch: true, ..option("set-clock", "BOOL", "false", "set it by the coordinator's", Draft::set_clock) },
    Definition { repeatable: true, ..option("system", "SYSTEM", "this one's", "build for it; repeatable", Draft::system) },
    option("max-parallel-builds", "N", "1", "builds that run at a time", Draft::max_parallel_builds),
    option("max-parallel-uploads", "N", "1", "outputs sent at a time", Draft::max_parallel_uploads),
    option("max-allocated-builds", "N", "those + 1", "builds held at a time", Draft::max_allocated_builds),
    option("max-1min-load-average", "N", "processors", "start no build above it", Draft::max_load),
    option("derivation-substitute-urls", "URLS", "", "servers for derivations", Draft::derivation_urls),
    option("non-derivation-substitute-urls", "URLS", "", "servers for inputs of builds", Draft::non_derivation_urls),
    option("timeout", "TIME", "none", "for builds that bring none", Draft::timeout),
    option("max-silent-time", "TIME", "none", "for builds that bring none", Draft::max_silent_time),
    option("drain-time", "TIME", "10m", "SIGTERM waits so long for builds", Draft::drain_time),
    option("state-dir", "FOLDER", "/var/lib/drover-agent", "its memory", Draft::state_dir),
    option("executor", "NAME", "daemon if there", "daemon or sandbox", Draft::executor),
    Definition { only: Some(ExecutorKind::Daemon), ..option("daemon-socket", "SOCKET", "Guix's own", "where guix-daemon listens", Draft::daemon_socket) },
    option("gc-below", "SIZE", "2G", "clean the store with less disk free", Draft::gc_below),
    Definition { switch: true, ..option("timestamp-log-output", "BOOL", "true", "begin log lines with the time", Draft::timestamps) },
    option("log-level", "LEVELS", "info", "error to trace; or warn,PART=info", Draft::log_level),
    Definition { switch: true, ..option("log-json", "BOOL", "false", "log lines are JSON", Draft::log_json) },
    sandbox("store-root", "FOLDER", "/", "its store is gnu/store in it", Draft::store_root),
    sandbox("store-budget", "SIZE", "none", "clean above it; items +8K each", Draft::store_budget),
    sandbox("authorized-keys", "FILE", "/etc/guix/acl", "whose items it takes", Draft::authorized_keys),
    sandbox("content-addressed-mirrors", "URLS", "", "where else downloads are by hash", Draft::mirrors),
    sandbox("build-cores", "N", "0, all", "what builders are told to use", Draft::build_cores),
    sandbox("keep-failed", "FOLDER", "", "keep folders of failed builds here", Draft::keep_failed),
    sandbox("log-limit", "SIZE", "1G", "end builds that print more", Draft::log_limit),
    sandbox("max-output-files", "N", "4000000", "in one output", Draft::max_output_files),
    sandbox("max-output-size", "SIZE", "100G", "of one output", Draft::max_output_size),
    sandbox("max-processes", "N", "8192", "of one build, threads too", Draft::max_processes),
    sandbox("max-memory", "SIZE", "none", "of one build", Draft::max_memory),
    sandbox("max-processors", "N", "none", "of one build, such as 1.5", Draft::max_processors),
];

/// The option of this name.
pub(crate) fn find(name: &str) -> Option<&'static Definition> {
    OPTIONS.iter().find(|option| option.name == name)
}

/// What `--help` prints: one line for each option, within 80 columns.
pub(crate) fn help() -> String {
    let mut text = String::from(
        "Usage: drover-agent [OPTION]...\n\
         \x20      drover-agent doctor [--json] [OPTION]...   what works on this machine\n\
         Builds what a drover coordinator allocates, by guix-daemon or in a sandbox.\n\n",
    );
    let for_sandbox = |option: &&Definition| option.only == Some(ExecutorKind::Sandbox);
    OPTIONS.iter().filter(|option| !for_sandbox(option)).for_each(|option| describe(&mut text, option));
    line(&mut text, "config FILE", &format!("name = value [{}]", crate::config::DEFAULT_FILE));
    line(&mut text, "help, --version", "print this, or the version");
    text.push_str("\nOf the sandbox:\n");
    OPTIONS.iter().filter(for_sandbox).for_each(|option| describe(&mut text, option));
    text.push_str(
        "TIME: 90, 90s, 10m, 2h. SIZE: bytes, or 512K, 64M, 20G, 1T; limits also: none.\n\
         Options win over the file. Exit codes: 0 stopped, 1 failed, 2 refused options.\n",
    );
    text
}

fn describe(text: &mut String, option: &Definition) {
    let what = if option.default.is_empty() {
        option.help.to_owned()
    } else {
        format!("{} [{}]", option.help, option.default)
    };
    let (before, after) = if option.switch { ("[=", "]") } else { (" ", "") };
    line(text, &format!("{}{before}{}{after}", option.name, option.argument), &what);
}

fn line(text: &mut String, option: &str, what: &str) {
    text.push_str(&format!("  --{option:<35} {what}\n"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn help_fits_a_large_screen_and_names_every_option() {
        let help = help();
        assert!(help.lines().count() <= 50, "{} lines", help.lines().count());
        for line in help.lines() {
            assert!(line.chars().count() <= 80, "too wide: {line}");
        }
        assert!(OPTIONS.iter().all(|option| help.contains(&format!("--{}", option.name))));
    }

    #[test]
    fn no_option_is_there_twice() {
        let mut seen = HashSet::new();
        assert!(OPTIONS.iter().all(|option| seen.insert(option.name)));
    }
}
