//! The program as its operator starts it.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Output, Stdio};

fn agent(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_drover-agent"));
    command.args(arguments).env_remove("GUIX_DAEMON_SOCKET").stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_bad_configuration_ends_with_code_2_and_one_sentence() {
    let Output { status, stdout, stderr } = agent(&["--max-parallel-builds=none"]).output().unwrap();
    assert_eq!(status.code(), Some(2));
    assert!(stdout.is_empty());
    let said = text(&stderr);
    assert!(said.starts_with("drover-agent: --max-parallel-builds: “none”"), "{said}");
    assert_eq!(said.lines().count(), 1);
}

#[test]
fn help_goes_to_standard_output() {
    let Output { status, stdout, .. } = agent(&["--help"]).output().unwrap();
    assert!(status.success());
    assert!(text(&stdout).contains("--coordinator URL"));
}

#[test]
fn output_that_nobody_reads_changes_no_exit_code() {
    // The reading ends are closed before the program can write.
    for (arguments, code) in [(&["--help"][..], 0), (&["--nonsense"][..], 2)] {
        let (reader, out) = UnixStream::pair().unwrap();
        drop(reader);
        let (out, err) = (OwnedFd::from(out.try_clone().unwrap()), OwnedFd::from(out));
        let status = agent(arguments).stdout(out).stderr(err).status().unwrap();
        assert_eq!(status.code(), Some(code));
    }
}
