//! Builds in the agent's own sandbox for tests: a store of its own, with a static busybox as the shell of all builders.
//!
//! `DROVER_BUSYBOX` names the busybox; without it the machine's own is taken.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use drover_agent::config::SandboxSettings;
use drover_agent::executor::sandbox::SandboxExecutor;
use drover_agent::executor::{Ended, Error, Executor, Job, NewText, Sink, Workplace};
use drover_store::derivation::{Derivation, Fixed, Input, Output};
use drover_store::hash::Sha256Hash;
use drover_store::nar::{self, Node};
use drover_store::path::{self, StorePath};
use drover_wire::agent;

use crate::ground::{skipped, unique};

const APPLETS: [&str; 26] = [
    "sh", "cat", "chmod", "cp", "dd", "echo", "env", "hostname", "id", "ln", "ls", "mkdir", "mkfifo",
    "mknod", "mv", "nc", "ps", "readlink", "rm", "sed", "seq", "sleep", "stat", "touch", "tr", "true",
];

/// A sandbox and a place for its store.
pub struct Yard {
    pub executor: SandboxExecutor,
    pub folder: tempfile::TempDir,
    pub shell: StorePath,
    shell_nar: Vec<u8>,
}

/// What to build.
#[derive(Default)]
pub struct Recipe<'a> {
    pub name: &'a str,
    pub script: String,
    /// `out` if there are none.
    pub outputs: &'a [&'a str],
    pub env: Vec<(&'a str, String)>,
    pub fixed: Option<(bool, Sha256Hash)>,
    pub sources: Vec<StorePath>,
    pub inputs: Vec<Made>,
    pub system: Option<&'a str>,
    pub builder: Option<String>,
    pub args: Option<Vec<String>>,
}

/// A derivation.
#[derive(Clone)]
pub struct Made {
    pub path: StorePath,
    pub text: Vec<u8>,
    pub derivation: Derivation,
    hash: Sha256Hash,
}

/// What came of a build.
#[derive(Debug)]
pub struct Built {
    pub ended: Ended,
    pub log: String,
    pub outputs: Vec<agent::Output>,
}

/// Keeps a log, and looks at it as it comes.
pub struct Log<F> {
    pub bytes: Vec<u8>,
    pub starts: u32,
    pub look: F,
}

impl<F: FnMut(&[u8])> Log<F> {
    pub fn new(look: F) -> Self {
        Self { bytes: Vec::new(), starts: 0, look }
    }
}

impl<F: FnMut(&[u8])> Sink for Log<F> {
    fn started(&mut self) {
        self.starts += 1;
    }

    fn log(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes.extend_from_slice(bytes);
        (self.look)(&self.bytes);
        Ok(())
    }
}

fn busybox() -> Option<PathBuf> {
    let named = std::env::var_os("DROVER_BUSYBOX").map(PathBuf::from);
    named
        .into_iter()
        .chain(["/bin/busybox", "/usr/bin/busybox"].map(PathBuf::from))
        .find(|path| path.is_file())
}

/// A sandbox; without one, the test says loudly that it is skipped.
pub fn yard() -> Option<Yard> {
    yard_with(|_| {})
}

/// One with other settings.
pub fn yard_with(change: impl FnOnce(&mut SandboxSettings)) -> Option<Yard> {
    let Some(busybox) = busybox() else {
        skipped("a static busybox: set DROVER_BUSYBOX");
        return None;
    };
    if let Err(error) = drover_os::sandbox::available() {
        skipped(&format!("a sandbox: {error}"));
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let roots = folder.path().join("roots");
    fs::create_dir(&roots).unwrap();
    let mut settings = SandboxSettings {
        store_root: folder.path().join("root"),
        keys: drover_store::key::Acl::default(),
        build_cores: 3,
        keep_failed: None,
        mirrors: Vec::new(),
        log_limit: None,
        max_output_files: 10_000,
        max_output_size: 1 << 30,
        max_processes: 100,
        memory: None,
        processors: None,
        store_budget: None,
    };
    change(&mut settings);
    let executor = SandboxExecutor::new(settings, &roots, None).unwrap();
    let link = |name: &str| (name.as_bytes().to_vec(), Node::Symlink(b"busybox".to_vec()));
    let mut bin: BTreeMap<_, _> = APPLETS.into_iter().map(link).collect();
    bin.insert(b"busybox".to_vec(), Node::program(fs::read(busybox).unwrap()));
    let shell_nar = Node::Directory([(b"bin".to_vec(), Node::Directory(bin))].into()).to_nar();
    let shell = path::source("test-shell", &Sha256Hash::of(&shell_nar)).unwrap();
    Some(Yard { executor, folder, shell, shell_nar })
}

impl Made {
    /// Of a derivation that has no inputs.
    pub fn of(name: &str, derivation: Derivation) -> Self {
        let text = derivation.print();
        let path = derivation.path_of_text(name, &text).unwrap();
        Self { path, text, hash: derivation.hash_with(&[]), derivation }
    }

    pub fn out(&self) -> &StorePath {
        self.output("out")
    }

    pub fn output(&self, name: &str) -> &StorePath {
        &self.derivation.output(name).unwrap().path
    }
}

impl Yard {
    pub fn store(&self) -> &Path {
        self.executor.store()
    }

    pub fn shell_nar(&self) -> &[u8] {
        &self.shell_nar
    }

    pub fn roots(&self) -> PathBuf {
        self.folder.path().join("roots")
    }

    /// Where an item is on this machine.
    pub fn on_disk(&self, item: &StorePath) -> PathBuf {
        self.store().join(item.base_name())
    }

    /// A place with the shell in it.
    pub fn open(&self) -> Box<dyn Workplace> {
        self.open_at(&self.executor)
    }

    /// The same, at another executor.
    pub fn open_at(&self, executor: &dyn Executor) -> Box<dyn Workplace> {
        let mut place = executor.open().unwrap();
        if !place.missing(std::slice::from_ref(&self.shell)).unwrap().is_empty() {
            place.add_file(&self.shell, true, &mut &self.shell_nar[..]).unwrap();
        }
        place
    }

    /// The derivation of a recipe, which gets a salt.
    pub fn made(&self, recipe: &Recipe<'_>) -> Made {
        let bin = format!("{}/bin", self.shell);
        let names = if recipe.outputs.is_empty() { &["out"][..] } else { recipe.outputs };
        let mut names: Vec<&str> = names.to_vec();
        names.sort_unstable();
        let fixed = recipe.fixed.map(|(recursive, hash)| Fixed {
            recursive,
            algorithm: "sha256".to_owned(),
            hash: hash.as_bytes().to_vec(),
        });
        let mut env: BTreeMap<Vec<u8>, Vec<u8>> =
            recipe.env.iter().map(|(k, v)| (k.as_bytes().to_vec(), v.clone().into_bytes())).collect();
        env.entry(b"PATH".to_vec()).or_insert_with(|| bin.clone().into_bytes());
        env.entry(b"salt".to_vec()).or_insert_with(|| unique().into_bytes());
        env.extend(names.iter().map(|name| (name.as_bytes().to_vec(), Vec::new())));
        let sources: BTreeSet<StorePath> =
            recipe.sources.iter().cloned().chain([self.shell.clone()]).collect();
        let mut inputs = recipe.inputs.clone();
        inputs.sort_by(|a, b| a.path.cmp(&b.path));
        let input = |made: &Made| Input {
            derivation: made.path.clone(),
            outputs: made.derivation.outputs.iter().map(|output| output.name.clone()).collect(),
        };
        let output =
            |name: &&str| Output { name: (*name).to_owned(), path: self.shell.clone(), fixed: fixed.clone() };
        let args = || vec!["-ec".to_owned(), recipe.script.clone()];
        let mut derivation = Derivation {
            outputs: names.iter().map(output).collect(),
            inputs: inputs.iter().map(input).collect(),
            sources: sources.into_iter().collect(),
            system: recipe.system.map_or_else(|| drover_os::machine::system().unwrap(), str::to_owned),
            builder: recipe.builder.clone().unwrap_or_else(|| format!("{bin}/sh")).into_bytes(),
            args: recipe.args.clone().unwrap_or_else(args).into_iter().map(String::into_bytes).collect(),
            env: env.into_iter().collect(),
        };
        let hashes: Vec<Sha256Hash> = inputs.iter().map(|made| made.hash).collect();
        for (name, path) in derivation.outputs_with(recipe.name, &hashes).unwrap() {
            let variable = derivation.env.iter_mut().find(|(key, _)| key == name.as_bytes()).unwrap();
            variable.1 = path.full().into_bytes();
            derivation.outputs.iter_mut().find(|output| output.name == name).unwrap().path = path;
        }
        let text = derivation.print();
        let path = derivation.path_of_text(&format!("{}.drv", recipe.name), &text).unwrap();
        Made { path, text, hash: derivation.hash_with(&hashes), derivation }
    }

    pub fn add(&self, place: &mut dyn Workplace, made: &Made) {
        let references = made.derivation.references();
        place.add_texts(&[NewText { path: &made.path, text: &made.text, references: &references }]).unwrap();
    }

    /// Builds something, to whatever end.
    pub fn build(&self, made: &Made) -> Built {
        self.build_for(made, None, None)
    }

    /// Builds it within limits of time.
    pub fn build_for(&self, made: &Made, timeout: Option<u64>, max_silent_time: Option<u64>) -> Built {
        let mut place = self.open();
        self.add(place.as_mut(), made);
        let outputs = place.outputs_of(&made.path).unwrap();
        place.clear(&outputs).unwrap();
        let mut log = Log::new(|_: &[u8]| {});
        let job = Job { derivation: made.path.clone(), timeout, max_silent_time };
        let ended = place.build(&job, &mut log).unwrap();
        let log = String::from_utf8_lossy(&log.bytes).into_owned();
        let outputs = match ended {
            Ended::Succeeded => place.describe(&outputs).unwrap(),
            _ => {
                assert_eq!(place.missing(&outputs).unwrap(), outputs, "a failed build has outputs");
                Vec::new()
            }
        };
        self.assert_nothing_is_left(made);
        Built { ended, log, outputs }
    }

    /// Builds something that is not there while others do, with nothing of its end looked at.
    pub fn build_beside(&self, made: &Made) -> (Ended, String) {
        let mut place = self.open();
        self.add(place.as_mut(), made);
        let mut log = Log::new(|_: &[u8]| {});
        let job = Job { derivation: made.path.clone(), timeout: None, max_silent_time: None };
        let ended = place.build(&job, &mut log).unwrap();
        (ended, String::from_utf8_lossy(&log.bytes).into_owned())
    }

    /// Builds a recipe.
    pub fn run(&self, recipe: &Recipe<'_>) -> Built {
        self.build(&self.made(recipe))
    }

    /// Builds a script without more, and gives the log of its success.
    pub fn log_of(&self, name: &str, script: &str) -> String {
        let built = self.run(&Recipe { name, script: script.to_owned(), ..Recipe::default() });
        assert_eq!(built.ended, Ended::Succeeded, "{}", built.log);
        built.log
    }

    /// Builds a recipe that fails, and says why.
    pub fn failure(&self, recipe: &Recipe<'_>) -> String {
        let built = self.run(recipe);
        match built.ended {
            Ended::Exited(why) | Ended::Failed(why) => why,
            other => panic!("{other:?}: {}", built.log),
        }
    }

    /// Builds a script that fails, and says why.
    pub fn why(&self, name: &str, script: &str) -> String {
        self.failure(&Recipe { name, script: script.to_owned(), ..Recipe::default() })
    }

    pub fn nar(&self, output: &agent::Output) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.executor.nar(output).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    }

    /// No process, no folder in the store, no control group, nothing in the machine's /tmp.
    pub fn assert_nothing_is_left(&self, made: &Made) {
        let salt = made.derivation.env(b"salt").unwrap();
        assert_eq!(crate::ground::processes_with(salt), Vec::<String>::new());
        let own = self.store().join(".drover");
        let making = own.join("making");
        let names = |folder: &Path| -> Vec<_> {
            fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().file_name()).collect()
        };
        assert!(names(&making).is_empty(), "{:?}", names(&making));
        let build_folder = format!("guix-build-{}", made.path.name());
        let in_tmp = names(&std::env::temp_dir());
        assert!(!in_tmp.iter().any(|name| name.to_string_lossy().starts_with(&build_folder)), "{in_tmp:?}");
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(&*own.to_string_lossy()), "{mounts}");
    }
}

/// The hash of the nar of a tree.
pub fn hash_of(tree: &Path) -> Sha256Hash {
    let mut nar = Vec::new();
    nar::pack(tree, &mut nar).unwrap();
    Sha256Hash::of(&nar)
}

/// Whether an error is that of a build that was stopped.
pub fn is_away(result: &Result<Ended, Error>) -> bool {
    matches!(result, Err(Error::Away(_)))
}
