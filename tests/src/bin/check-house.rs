//! What `ci/check` asks of the house itself: that arrows point downward, that the agent stays small, that `unsafe`
//! stays in one crate, that files stay short, and that no script knows a registry by its address.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use serde_json::Value;

type Findings = Vec<String>;
type Outcome = Result<Findings, Box<dyn std::error::Error>>;
type Check = (&'static str, fn() -> Outcome);

/// Who may use whom, normally; nothing that is not here.
const ARROWS: &[(&str, &[&str])] = &[
    ("drover-os", &[]),
    ("drover-store", &[]),
    ("drover-tls", &[]),
    ("drover-wire", &["drover-store"]),
    ("drover-agent", &["drover-os", "drover-store", "drover-tls", "drover-wire"]),
    ("drover", &["drover-os", "drover-store", "drover-tls", "drover-wire"]),
    ("drover-tests", &["drover-os", "drover-store", "drover-tls", "drover-wire", "drover-agent", "drover"]),
];

/// What each of these must not have below it, at any depth.
const FORBIDDEN: &[(&str, &[&str])] = &[
    ("drover-os", &["tokio", "rusqlite", "ureq", "axum", "hyper"]),
    ("drover-store", &["tokio", "rusqlite", "ureq", "axum", "hyper", "rustls"]),
    ("drover-tls", &["tokio", "rusqlite", "axum", "hyper", "openssl-sys", "aws-lc-sys"]),
    ("drover-wire", &["tokio", "rusqlite", "ureq", "axum", "hyper", "rustls"]),
    ("drover-agent", &["tokio", "rusqlite", "axum", "hyper", "openssl-sys", "aws-lc-sys"]),
];

const AGENT_TARGET: &str = "x86_64-unknown-linux-musl";
const AGENT_CRATES_LIMIT: usize = 80;
const FILE_LINES_LIMIT: usize = 750;

fn main() -> ExitCode {
    let checks: &[Check] = &[
        ("arrows point downward", arrows),
        ("nothing forbidden below the agent and the platform", forbidden),
        ("the agent has few dependencies", agent_crates),
        ("unsafe code is in platform/os only", unsafe_code),
        ("files are short", file_lengths),
        ("scripts name no registry's host", hosts),
    ];
    let mut bad = false;
    let mut out = io::stdout().lock();
    for (name, check) in checks {
        let findings = check().unwrap_or_else(|error| vec![format!("could not be checked: {error}")]);
        bad |= !findings.is_empty();
        let _ = writeln!(out, "{}: {name}", if findings.is_empty() { "ok" } else { "FAILED" });
        for finding in findings {
            let _ = writeln!(out, "    {finding}");
        }
    }
    if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn cargo(arguments: &[&str]) -> Result<String, Box<dyn std::error::Error>> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(program).args(arguments).current_dir(drover_tests::top()).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn arrows() -> Outcome {
    let metadata: Value = serde_json::from_str(&cargo(&["metadata", "--format-version", "1", "--no-deps"])?)?;
    let mut findings = Findings::new();
    for package in metadata["packages"].as_array().ok_or("cargo metadata names no packages")? {
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, allowed)) = ARROWS.iter().find(|(from, _)| *from == name) else {
            findings.push(format!("{name} is new: say in check-house.rs what it may use"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let to = dependency["name"].as_str().unwrap_or_default();
            if ARROWS.iter().any(|(ours, _)| *ours == to) && !allowed.contains(&to) {
                findings.push(format!("{name} uses {to}, which it may not"));
            }
        }
    }
    Ok(findings)
}

/// The crates below one of ours, as it is compiled for the agents' first target.
fn below(package: &str) -> Result<BTreeSet<String>, Box<dyn std::error::Error>> {
    let tree = cargo(&[
        "tree",
        "--locked",
        "-p",
        package,
        "--target",
        AGENT_TARGET,
        "-e",
        "normal",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ])?;
    Ok(tree
        .lines()
        .map(|line| line.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
        .filter(|line| !line.is_empty() && line.split(' ').next() != Some(package))
        .collect())
}

fn forbidden() -> Outcome {
    let mut findings = Findings::new();
    for (package, bans) in FORBIDDEN {
        for krate in below(package)? {
            if krate.split(' ').next().is_some_and(|name| bans.contains(&name)) {
                findings.push(format!("{package} has {krate} below it"));
            }
        }
    }
    Ok(findings)
}

fn agent_crates() -> Outcome {
    let crates = below("drover-agent")?;
    let _ = writeln!(io::stdout(), "    {} crates below drover-agent for {AGENT_TARGET}", crates.len());
    if crates.len() < AGENT_CRATES_LIMIT {
        return Ok(Findings::new());
    }
    Ok(vec![format!("{} crates, and {AGENT_CRATES_LIMIT} is too many: {crates:?}", crates.len())])
}

/// The files that git knows, and new ones that it does not ignore.
fn files() -> Result<Vec<PathBuf>, Box<dyn std::error::Error>> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
        .current_dir(drover_tests::top())
        .output()?;
    if !output.status.success() {
        return Err("git ls-files failed; this needs a git checkout".into());
    }
    let names = String::from_utf8(output.stdout)?;
    let files = names.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from);
    Ok(files.filter(|file| drover_tests::top().join(file).is_file()).collect())
}

fn text(file: &Path) -> Result<String, io::Error> {
    let file = drover_tests::top().join(file);
    fs::read(file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn rust_files() -> Result<Vec<PathBuf>, Box<dyn std::error::Error>> {
    Ok(files()?.into_iter().filter(|file| file.extension().is_some_and(|e| e == "rs")).collect())
}

fn unsafe_code() -> Outcome {
    let mut findings = Findings::new();
    // Spelt apart, so that this file does not find itself.
    let words = [
        concat!("uns", "afe {"),
        concat!("uns", "afe fn"),
        concat!("uns", "afe impl"),
        concat!("(uns", "afe_code"),
    ];
    for file in rust_files()?.iter().filter(|file| !file.starts_with("platform/os")) {
        for (number, line) in text(file)?.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if words.iter().any(|word| code.contains(word)) {
                findings.push(format!("{}:{}: {}", file.display(), number + 1, line.trim()));
            }
        }
    }
    Ok(findings)
}

fn file_lengths() -> Outcome {
    let mut lengths = Vec::new();
    for file in rust_files()? {
        lengths.push((text(&file)?.lines().count(), file));
    }
    lengths.sort_unstable();
    let median = lengths.get(lengths.len() / 2).map_or(0, |(lines, _)| *lines);
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "    {} Rust files, {median} lines at the median; the longest:", lengths.len());
    for (lines, file) in lengths.iter().rev().take(5) {
        let _ = writeln!(out, "    {lines:6} {}", file.display());
    }
    let long = |lines: usize, file: &Path| {
        if file.ends_with("src/main.rs") { lines > 100 } else { lines > FILE_LINES_LIMIT }
    };
    Ok(lengths
        .iter()
        .filter(|(lines, file)| long(*lines, file))
        .map(|(lines, file)| format!("{} has {lines} lines: split it by concern", file.display()))
        .collect())
}

/// A machine's own configuration says where its packages come from; a script that knows better breaks behind mirrors.
fn hosts() -> Outcome {
    let hosts = [
        concat!("crates", ".io"),
        concat!("deb.", "debian"),
        concat!("debian", ".org"),
        concat!("pypi", ".org"),
        concat!("npmjs", ".org"),
        concat!("rust-", "lang.org"),
        concat!("git", "hub.com"),
        concat!("rustup", ".rs"),
    ];
    let mut findings = Findings::new();
    for file in files()? {
        if !(file.starts_with("ci") || file.starts_with(".ci")) {
            continue;
        }
        for (number, line) in text(&file)?.lines().enumerate() {
            if let Some(host) = hosts.iter().find(|host| line.contains(*host)) {
                findings.push(format!("{}:{} names {host}", file.display(), number + 1));
            }
        }
    }
    Ok(findings)
}
