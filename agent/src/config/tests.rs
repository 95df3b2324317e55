//! What is accepted and what is refused, and with which words.

use super::*;
use std::path::Path;

const UUID: &str = "7a3c0d9e-52ef-4c5b-9a37-0f8e6f0f9a11";
const PASSWORD: [&str; 4] = ["--uuid", UUID, "--password", "pw"];

fn surroundings() -> Surroundings {
    Surroundings {
        default_file: "/no/such/drover-agent.conf".into(),
        daemon_socket: None,
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
    assert_eq!(config.log, LogSettings { level: LogLevel::Info, timestamps: true });
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
}

#[test]
fn a_dynamic_token_goes_with_a_name_or_the_host_name() {
    for (arguments, expected) in
        [(&["--dynamic-auth-token=t"][..], "board-7"), (&["--dynamic-auth-token=t", "--name=x"][..], "x")]
    {
        match accepted(arguments).credentials {
            Credentials::Token { name, token } => assert_eq!((&*name, token.expose()), (expected, "t")),
            Credentials::Password { .. } => panic!("a password"),
        }
    }
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
        Request::Run(config) => assert_eq!(config.log.level, LogLevel::Debug),
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
