//! What is accepted and what is refused, and with which words.

use super::*;
use std::path::Path;

const UUID: &str = "7a3c0d9e-52ef-4c5b-9a37-0f8e6f0f9a11";
const PASSWORD: [&str; 4] = ["--uuid", UUID, "--password", "pw"];

fn surroundings() -> Surroundings {
    Surroundings {
        default_file: "/no/such/drover-agent.conf".into(),
        daemon_socket: None,
        daemon: GuixDaemon::Nothing,
        acl: "/no/such/acl".into(),
        host_name: Some("board-7".into()),
        system: Some("riscv64-linux".into()),
        processors: Some(4),
    }
}

fn read_line(arguments: &[&str]) -> Result<Request, ConfigError> {
    read(arguments.iter().map(OsString::from), &surroundings())
}

fn accepted(arguments: &[&str]) -> Config {
    match read_line(arguments).unwrap() {
        Request::Run(config) => *config,
        Request::Print(text) => panic!("{text}"),
    }
}

/// Accepted besides a uuid and a password.
fn with(arguments: &[&str]) -> Config {
    accepted(&[&PASSWORD, arguments].concat())
}

#[track_caller]
fn refused(arguments: &[&str], place: &str, words: &str) {
    let error = read_line(arguments).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{place}: ")), "{error}");
    assert!(error.contains(words), "{error}");
}

fn file(folder: &tempfile::TempDir, name: &str, contents: &str) -> String {
    let path = folder.path().join(name);
    std::fs::write(&path, contents).unwrap();
    path.to_str().unwrap().to_owned()
}

/// What is refused in a file, at which of its lines.
#[track_caller]
fn refused_line(contents: &str, line: usize, words: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = file(&folder, "agent.conf", contents);
    refused(&["--config", &path], &format!("{path}:{line}"), words);
}

#[test]
fn everything_has_a_default_but_who_this_is() {
    let config = accepted(&PASSWORD);
    assert_eq!(config.coordinator.to_string(), "http://localhost:8745");
    assert_eq!(config.systems, ["riscv64-linux"]);
    assert_eq!(
        (config.max_parallel_builds, config.max_parallel_uploads, config.max_allocated_builds),
        (1, 1, 2)
    );
    assert!((config.max_1min_load_average - 4.0).abs() < f64::EPSILON);
    assert_eq!((config.timeout, config.max_silent_time), (None, None));
    assert_eq!(config.drain_time, Duration::from_secs(600));
    assert_eq!(config.state_dir, Path::new("/var/lib/drover-agent"));
    assert_eq!(config.daemon_socket, DaemonSocket::usual());
    assert_eq!(config.log, LogSettings { levels: LogLevels::default(), timestamps: true, json: false });
    assert_eq!(config.sandbox, SandboxSettings::default());
    match config.credentials {
        Credentials::Password { uuid, password } => {
            assert_eq!((&*uuid.to_string(), password.expose()), (UUID, "pw"))
        }
        Credentials::Token { .. } => panic!("a token"),
    }
}

#[test]
fn options_are_read_from_the_command_line_in_both_forms() {
    let config = with(&["--max-parallel-builds=3", "--drain-time", "90s", "--system=a-b", "--system", "c-d"]);
    assert_eq!((config.max_parallel_builds, config.max_allocated_builds), (3, 4));
    assert_eq!(config.drain_time, Duration::from_secs(90));
    assert_eq!(config.systems, ["a-b", "c-d"]);
}

#[test]
fn a_switch_needs_no_value() {
    assert!(with(&["--timestamp-log-output"]).log.timestamps);
    assert!(!with(&["--timestamp-log-output=false"]).log.timestamps);
    assert!(
        !with(&[]).set_clock && with(&["--set-clock"]).set_clock && !with(&["--set-clock=false"]).set_clock
    );
}

#[test]
fn a_dynamic_token_goes_with_a_name_or_the_host_name() {
    for (arguments, expected) in
        [(&["--dynamic-auth-token=t"][..], "board-7"), (&["--dynamic-auth-token=t", "--name=x"][..], "x")]
    {
        match accepted(arguments).credentials {
            Credentials::Token { name, token, .. } => assert_eq!((&*name, token.expose()), (expected, "t")),
            Credentials::Password { .. } => panic!("a password"),
        }
    }
}

#[test]
fn a_machine_that_is_told_by_its_hardware_enrols_with_a_token_and_not_with_a_uuid() {
    let hardware = |arguments: &[&str]| match accepted(arguments).credentials {
        Credentials::Token { hardware, .. } => hardware,
        Credentials::Password { .. } => panic!("a password"),
    };
    let token = "--dynamic-auth-token=t";
    assert_eq!(hardware(&[token, "--hardware=serial:4711"]).as_deref(), Some("serial:4711"));
    assert_eq!(hardware(&[token]), None);
    for wrong in ["", "serial: 4711", "sérial", &"x".repeat(129)] {
        refused(&[token, &format!("--hardware={wrong}")], "--hardware", "visible ASCII characters");
    }
    let with_uuid = [&PASSWORD[..], &["--hardware=x"]].concat();
    refused(&with_uuid, "--hardware", "goes with a dynamic token");
}

#[test]
fn a_file_has_the_same_names_and_the_command_line_wins() {
    let folder = tempfile::tempdir().unwrap();
    let secret = file(&folder, "secret", "from the file\n");
    let contents = format!(
        "# who we are\n  uuid={UUID}\npassword = a = # b\n\nmax-parallel-builds = 2\nsystem = a-b\nsystem = c-d\n"
    );
    let path = file(&folder, "agent.conf", &contents);
    let config = accepted(&["--config", &path]);
    assert_eq!((config.max_parallel_builds, config.systems.len()), (2, 2));
    assert!(
        matches!(config.credentials, Credentials::Password { password, .. } if password.expose() == "a = # b")
    );

    let config =
        accepted(&["--config", &path, "--max-parallel-builds=5", "--system=e-f", "--password-file", &secret]);
    assert_eq!((config.max_parallel_builds, config.systems), (5, vec!["e-f".to_owned()]));
    assert!(
        matches!(config.credentials, Credentials::Password { password, .. } if password.expose() == "from the file")
    );
}

#[test]
fn the_default_file_is_read_if_it_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(&folder, "agent.conf", "dynamic-auth-token = t\nlog-level = debug\n");
    let there = Surroundings { default_file: path.clone().into(), ..surroundings() };
    match read([], &there).unwrap() {
        Request::Run(config) => assert_eq!(config.log.levels.of("drover_agent"), LogLevel::Debug),
        Request::Print(text) => panic!("{text}"),
    }
    std::fs::write(&path, "oops\n").unwrap();
    assert!(read([], &there).unwrap_err().to_string().starts_with(&format!("{path}:1: ")));
}

#[test]
fn the_daemon_is_found_as_guix_finds_it() {
    let guix = Surroundings { daemon_socket: Some("guix://board:1".into()), ..surroundings() };
    let arguments = || PASSWORD.iter().map(OsString::from);
    match read(arguments(), &guix).unwrap() {
        Request::Run(config) => {
            assert_eq!(config.daemon_socket, DaemonSocket::Tcp { host: "board".into(), port: 1 })
        }
        Request::Print(text) => panic!("{text}"),
    }
    let bad = Surroundings { daemon_socket: Some("ssh://board".into()), ..surroundings() };
    let error = read(arguments(), &bad).unwrap_err().to_string();
    assert!(error.starts_with("environment variable GUIX_DAEMON_SOCKET: "), "{error}");
    assert_eq!(with(&["--daemon-socket=/s"]).daemon_socket, DaemonSocket::Unix("/s".into()));
}

#[test]
fn a_sandbox_has_no_servers_that_are_folders() {
    let url = "--non-derivation-substitute-urls=https://farm file:///srv/nars";
    let refusal = [&PASSWORD[..], &["--executor=sandbox", url]].concat();
    refused(&refusal, "--non-derivation-substitute-urls", "file:///srv/nars");
    assert_eq!(with(&["--executor=daemon", url]).non_derivation_substitute_urls.len(), 2);
}

#[test]
fn help_and_version_need_nothing_else() {
    for (option, words) in [("--help", "--max-1min-load-average"), ("--version", "drover-agent ")] {
        match read_line(&["--uuid=nonsense", option]).unwrap() {
            Request::Print(text) => assert!(text.contains(words) && text.ends_with('\n')),
            Request::Run(_) => panic!("{option} was not heeded"),
        }
    }
}

#[test]
fn unknown_options_are_refused() {
    refused(&["--colour=red"], "configuration", "no option --colour");
    refused(&["-v"], "configuration", "no option -v");
    refused(&["build"], "configuration", "“build” is not an option");
    refused_line("\ncolour = red\n", 2, "no option colour");
    refused_line("config = /x\n", 1, "no option config");
}

#[test]
fn options_without_a_value_or_with_one_too_many_are_refused() {
    refused(&["--name"], "--name", "needs a value");
    refused(&["--config"], "--config", "needs a value");
    refused(&["--name=a", "--name=b"], "--name", "given twice");
    refused(&["--config=/a", "--config=/b"], "--config", "given twice");
    refused_line("name = a\nname = b\n", 2, "given twice");
    refused_line("just words\n", 1, "“name = value”");
}

#[test]
fn every_bad_value_is_refused_with_what_is_expected() {
    for (option, value, words) in [
        ("coordinator", "farm", "http://"),
        ("coordinator", "ftp://farm", "http:// or https://"),
        ("uuid", "me", "UUID"),
        ("password", "", "empty"),
        ("dynamic-auth-token", "a\u{7}", "control character"),
        ("name", "two words", "without blanks"),
        ("system", "linux", "x86_64-linux"),
        ("max-parallel-builds", "0", "from 1 on"),
        ("max-parallel-uploads", "many", "from 1 on"),
        ("max-allocated-builds", "-1", "from 1 on"),
        ("max-1min-load-average", "nan", "above 0"),
        ("max-1min-load-average", "0", "above 0"),
        ("derivation-substitute-urls", "ci.guix.gnu.org", "https://"),
        ("non-derivation-substitute-urls", "https://a b", "“b”"),
        ("timeout", "0", "every build"),
        ("timeout", "1d", "2h"),
        ("max-silent-time", "soon", "10m"),
        ("drain-time", "-1s", "10m"),
        ("state-dir", "state", "absolute"),
        ("daemon-socket", "socket", "absolute path"),
        ("executor", "docker", "neither daemon nor sandbox"),
        ("gc-below", "little", "20G"),
        ("store-root", "store", "absolute"),
        ("store-budget", "10GB", "20G"),
        ("authorized-keys", "/no/such/keys", "/no/such/keys: No such file"),
        ("content-addressed-mirrors", "https://a ftp://b", "“ftp://b”"),
        ("content-addressed-mirrors", "https://a?b", "“?”"),
        ("build-cores", "all", "from 0 on"),
        ("build-cores", "-1", "from 0 on"),
        ("keep-failed", "failed", "absolute"),
        ("log-limit", "0", "“none”"),
        ("max-output-files", "none", "from 1 on"),
        ("max-output-files", "0", "from 1 on"),
        ("max-output-size", "none", "20G"),
        ("max-output-size", "9999999T", "more than there is"),
        ("max-processes", "0", "from 1 on"),
        ("max-memory", "-1G", "20G"),
        ("max-processors", "0", "above 0"),
        ("max-processors", "inf", "above 0"),
        ("timestamp-log-output", "perhaps", "true nor false"),
        ("log-level", "loud", "none of error"),
    ] {
        refused(&[&format!("--{option}={value}")], &format!("--{option}"), words);
        if !value.chars().any(char::is_control) {
            refused_line(&format!("# first\n{option} = {value}\n"), 2, words);
        }
    }
    refused(&["--system=a-b", "--system=a-b"], "--system", "already");
}

#[test]
fn files_that_cannot_be_read_or_hold_nothing_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let empty = file(&folder, "empty", "\n");
    let long = file(&folder, "long", &"x".repeat(5000));
    let two = file(&folder, "two", "one\ntwo\n");
    for option in ["password-file", "dynamic-auth-token-file"] {
        let place = format!("--{option}");
        refused(&[&place, "/no/such/file"], &place, "/no/such/file: No such file");
        refused(&[&place, &empty], &place, "it is empty");
        refused(&[&place, &long], &place, "5000 bytes are no secret");
        refused(&[&place, &two], &place, "control character");
    }
    refused(&["--ca-file", "/no/such.pem"], "--ca-file", "/no/such.pem");
    refused(&["--ca-file", &two], "--ca-file", "no certificate");
    refused(&["--config", "/no/such.conf"], "--config", "/no/such.conf");
    refused(&["--config", folder.path().to_str().unwrap()], "--config", "cannot read");
}

#[test]
fn a_pinned_key_is_for_https_and_instead_of_a_file_of_authorities() {
    const PIN: &str = "sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
    let folder = tempfile::tempdir().unwrap();
    let ca = file(&folder, "ca.pem", "");
    let pinned = ["--coordinator", "https://farm.example:8745", "--coordinator-key", PIN];
    let config = with(&[&pinned[..], &["--coordinator-key", PIN]].concat());
    assert!(matches!(config.trust, Trust::Keys(pins) if pins.len() == 2));
    refused(&[&PASSWORD[..], &pinned[2..]].concat(), "--coordinator-key", "https://");
    refused(&[&pinned[..], &["--ca-file", &ca]].concat(), "--ca-file", "cannot both be given");
    refused(&["--coordinator-key", "sha256/abc"], "--coordinator-key", "drover key tls");
}

#[test]
fn a_line_that_is_not_text_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(&folder, "agent.conf", "");
    std::fs::write(&path, b"name = a\npassword = \xff\n").unwrap();
    refused(&["--config", &path], &format!("{path}:2"), "not UTF-8");
}

#[test]
fn contradictions_are_refused() {
    refused(&[], "configuration", "who this agent is");
    refused(&["--uuid", UUID], "--uuid", "--password-file");
    refused(&["--password=x"], "--password", "needs --uuid");
    refused(&[&PASSWORD[..], &["--password-file=/x"]].concat(), "--password-file", "cannot both be given");
    refused(&[&PASSWORD[..], &["--dynamic-auth-token=t"]].concat(), "--dynamic-auth-token", "contradict");
    refused(&["--uuid", UUID, "--dynamic-auth-token=t"], "--dynamic-auth-token", "contradict");
    refused(&[&PASSWORD[..], &["--name=x"]].concat(), "--name", "from the coordinator");
    let limits = ["--max-parallel-builds=4", "--max-allocated-builds=3"];
    refused(&[&PASSWORD[..], &limits].concat(), "--max-allocated-builds", "less than");
    refused_line(&format!("uuid = {UUID}\npassword = x\ndynamic-auth-token = y\n"), 3, "contradict");
}

/// What is chosen, with an environment variable or without, and options.
fn chosen(seen: GuixDaemon, variable: Option<&str>, arguments: &[&str]) -> Choice {
    let there = Surroundings { daemon: seen, daemon_socket: variable.map(OsString::from), ..surroundings() };
    match read([&PASSWORD, arguments].concat().iter().map(OsString::from), &there).unwrap() {
        Request::Run(config) => config.executor,
        Request::Print(text) => panic!("{text}"),
    }
}

#[test]
fn a_daemon_is_preferred_where_there_is_one_or_somebody_says_so() {
    use ExecutorKind::{Daemon, Sandbox};
    for (expected, why, seen, variable, arguments) in [
        (Daemon, "socket is there", GuixDaemon::Socket, None, &[][..]),
        (Daemon, "database", GuixDaemon::Database, None, &["--store-root=/"]),
        (Daemon, "configured", GuixDaemon::Nothing, Some("/s"), &[]),
        (Daemon, "configured", GuixDaemon::Nothing, None, &["--daemon-socket=/s"]),
        (Daemon, "as configured", GuixDaemon::Nothing, None, &["--executor=daemon"]),
        (Sandbox, "as configured", GuixDaemon::Socket, Some("/s"), &["--executor=sandbox"]),
    ] {
        let choice = chosen(seen, variable, arguments);
        assert_eq!(choice.kind, expected, "{arguments:?}");
        assert!(choice.why.contains(why), "{choice:?}");
    }
    if crate::executor::HAS_SANDBOX {
        assert_eq!(chosen(GuixDaemon::Nothing, None, &[]).kind, Sandbox);
        // A store of its own is in no daemon's way.
        assert_eq!(chosen(GuixDaemon::Database, None, &["--store-root=/srv"]).kind, Sandbox);
    }
}

#[test]
fn the_defaults_of_the_sandbox_are_those_that_help_names() {
    for option in crate::options::OPTIONS.iter().filter(|option| option.only == Some(ExecutorKind::Sandbox)) {
        let value = match option.name {
            "authorized-keys" | "keep-failed" => continue,
            "build-cores" => "0",
            _ => option.default,
        };
        let config = with(&[&format!("--{}={value}", option.name), "--executor=sandbox"]);
        assert_eq!(config.sandbox, SandboxSettings::default(), "{}", option.name);
    }
}

#[test]
fn the_options_of_the_sandbox_are_its_settings() {
    let config = with(&[
        "--store-root=/srv/farm",
        "--store-budget=20G",
        "--content-addressed-mirrors=http://farm.example:8747/file/ https://b",
        "--build-cores=3",
        "--keep-failed=/var/tmp/failed",
        "--log-limit=none",
        "--max-output-files=10000",
        "--max-output-size=1G",
        "--max-processes=100",
        "--max-memory=512M",
        "--max-processors=1.5",
    ]);
    let expected = SandboxSettings {
        store_root: "/srv/farm".into(),
        keys: config.sandbox.keys.clone(),
        build_cores: 3,
        keep_failed: Some("/var/tmp/failed".into()),
        mirrors: vec!["http://farm.example:8747/file".into(), "https://b".into()],
        log_limit: None,
        max_output_files: 10_000,
        max_output_size: 1 << 30,
        max_processes: 100,
        memory: Some(512 << 20),
        processors: Some(1.5),
        store_budget: Some(20 << 30),
    };
    assert_eq!(config.sandbox, expected);
}

#[test]
fn a_store_is_cleaned_before_no_builds_are_taken_unless_said() {
    for executor in ["--executor=daemon", "--executor=sandbox"] {
        let gc_below = |arguments: &[&str]| with(&[&[executor], arguments].concat()).gc_below;
        let by_itself = gc_below(&[]);
        assert!(by_itself > Some(crate::session::LEAST_STORE) && by_itself <= Some(4 << 30), "{by_itself:?}");
        assert_eq!(gc_below(&["--gc-below=5G"]), Some(5 << 30));
        assert_eq!(gc_below(&["--gc-below=none"]), None);
        assert_eq!(gc_below(&["--gc-below=0"]), None);
    }
}

#[test]
fn options_for_the_other_executor_are_named() {
    let given = ["--daemon-socket=/s", "--store-root=/x", "--max-memory=1G", "--gc-below=1G"];
    let unheeded = |executor| with(&[&given[..], &[executor]].concat()).unheeded;
    assert_eq!(unheeded("--executor=daemon"), ["store-root", "max-memory"]);
    assert_eq!(unheeded("--executor=sandbox"), ["daemon-socket"]);
}

#[test]
fn keys_are_the_machines_own_or_those_of_a_file() {
    const KEY: &str = "(public-key (ecc (curve Ed25519) (q \
                       #45FD5D90D345B379BC434B88D8ED6B1998B015830CFEC0B9BD263558C2963B9B#)))";
    let folder = tempfile::tempdir().unwrap();
    let acl = file(&folder, "acl", &format!("(acl (entry {KEY} (tag (guix import))))"));
    let plain = file(&folder, "plain", &format!("{KEY}\n{KEY}\n"));
    let count = |config: &Config| config.sandbox.keys.keys().len();
    assert_eq!(count(&with(&["--authorized-keys", &acl])), 1);
    assert_eq!(count(&with(&["--authorized-keys", &plain])), 2);

    let sandbox = || ["--executor=sandbox"].iter().chain(&PASSWORD).map(OsString::from);
    let machine = |acl: &str| Surroundings { acl: acl.into(), ..surroundings() };
    match read(sandbox(), &machine(&acl)).unwrap() {
        Request::Run(config) => assert_eq!(count(&config), 1),
        Request::Print(text) => panic!("{text}"),
    }
    let bad = file(&folder, "bad", &format!("{KEY}\n(public-key)\n"));
    let error = read(sandbox(), &machine(&bad)).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{bad}: key 2 of the list: ")), "{error}");
    assert!(error.contains("--authorized-keys"), "{error}");
    // Beside a daemon nobody looks at it.
    let daemon = ["--executor=daemon"].iter().chain(&PASSWORD).map(OsString::from);
    assert!(read(daemon, &machine(&bad)).is_ok());

    let open = file(&folder, "open", "(acl");
    let none = file(&folder, "none", "(acl)");
    let large = file(&folder, "large", &" ".repeat((1 << 20) + 1));
    let bytes = file(&folder, "bytes", "");
    std::fs::write(&bytes, b"(acl \xff)").unwrap();
    for (path, words) in [
        (&bad, "key 2 of the list"),
        (&open, "at byte 4"),
        (&none, "no key in it"),
        (&large, "too large"),
        (&bytes, "not UTF-8"),
    ] {
        refused(&["--authorized-keys", path], "--authorized-keys", words);
        refused_line(&format!("authorized-keys = {path}\n"), 1, words);
    }
    refused(&["--authorized-keys", folder.path().to_str().unwrap()], "--authorized-keys", "directory");
}

#[test]
fn a_machine_that_does_not_know_itself_is_told_what_to_give() {
    let unknown = Surroundings { host_name: None, system: None, ..surroundings() };
    let error = read(["--dynamic-auth-token=t".into()], &unknown).unwrap_err().to_string();
    assert!(error.contains("--name"), "{error}");
    let error = read(PASSWORD.iter().map(OsString::from), &unknown).unwrap_err().to_string();
    assert!(error.contains("--system"), "{error}");
}

#[test]
fn no_secret_is_shown() {
    assert!(!format!("{:?}", with(&[])).contains("pw"));
}
