//! The operators' command line, run as a program.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod check;
mod double;
mod events;
mod fetch;
mod logs;
mod sets;
mod submit;
mod talk;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use double::{Double, TOKEN};

/// hello's derivations for one system: small enough to walk in every test.
const HELLO: &str = "2nfg943asrl9dv64zrr1a4kpb25mfafd-hello-2.12.2.drv";

/// The program, with a token and without anything from this machine's environment.
fn drover(double: &Double, arguments: &[&str]) -> Command {
    let mut command = bare(arguments);
    command.env("DROVER_COORDINATOR", &double.url).env("DROVER_TOKEN", TOKEN);
    command
}

fn bare(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_drover"));
    command.args(arguments).stdin(Stdio::null());
    for variable in ["DROVER_COORDINATOR", "DROVER_TOKEN", "DROVER_TOKEN_FILE"] {
        command.env_remove(variable);
    }
    command
}

/// How a program ended, and what it said.
struct Ran {
    code: i32,
    stdout: Vec<u8>,
    stderr: String,
}

impl Ran {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    /// The lines of `--json`.
    fn json(&self) -> Vec<serde_json::Value> {
        self.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// That it ended so, with all that it said where it did not.
    #[track_caller]
    fn ended(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            code,
            "stdout: {}\nstderr: {}",
            String::from_utf8_lossy(&self.stdout),
            self.stderr
        );
        self
    }
}

fn run(mut command: Command) -> Ran {
    let Output { status, stdout, stderr } = command.output().unwrap();
    Ran { code: status.code().unwrap(), stdout, stderr: String::from_utf8(stderr).unwrap() }
}

/// A folder with the derivations of the hello fixture, and with its sources if they are wanted.
fn hello(with_sources: bool) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
    unpack(&fixtures.join("hello-drvs.tar.zst"), folder.path());
    if with_sources {
        unpack(&fixtures.join("hello-sources.tar.zst"), folder.path());
    }
    folder
}

fn unpack(archive: &Path, folder: &Path) {
    let mut tar = Command::new("tar").arg("-x").arg("-C").arg(folder).stdin(Stdio::piped()).spawn().unwrap();
    let file = std::fs::File::open(archive).unwrap();
    zstd::stream::copy_decode(file, tar.stdin.take().unwrap()).unwrap();
    assert!(tar.wait().unwrap().success());
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The only entry of a folder with such a name.
fn named(folder: &Path, part: &str) -> PathBuf {
    let mut all: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| text(path).contains(part))
        .collect();
    all.sort();
    all.remove(0)
}
