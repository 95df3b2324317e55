//! What a sandbox is told, and the options that say it.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use drover_store::key::Acl;
use drover_store::sexp;

use super::draft::{Applied, Draft};
use super::{ConfigError, ExecutorKind, Place, Surroundings, values};

/// Guix's own list of keys.
pub(super) const ACL: &str = "/etc/guix/acl";

/// What a sandbox must know.
#[derive(Debug, Clone, PartialEq)]
pub struct SandboxSettings {
    /// The folder in which the store is `gnu/store`; absolute.
    pub store_root: PathBuf,
    /// Whose signed items are taken.
    pub keys: Acl,
    /// How many processors builders are told to use; 0: all that there are.
    pub build_cores: u32,
    /// The folder into which the build folders of failed builds go; absolute. None: they are removed.
    pub keep_failed: Option<PathBuf>,
    /// What the addresses of content-addressed downloads begin with, in the order in which to ask, after the farm and the
    /// addresses of a derivation; without a slash at the end.
    pub mirrors: Vec<String>,
    /// The most bytes that a build may print.
    pub log_limit: Option<u64>,
    /// The most files, folders and symbolic links of an output.
    pub max_output_files: u64,
    /// The most bytes of an output.
    pub max_output_size: u64,
    /// The most processes and threads of a build.
    pub max_processes: u64,
    /// The most bytes of memory of a build.
    pub memory: Option<u64>,
    /// The most processors of a build.
    pub processors: Option<f64>,
    /// The bytes that the store may have in all: those of the items' nars, and 8 KiB for each item.
    pub store_budget: Option<u64>,
}

impl Default for SandboxSettings {
    /// What counts where nothing is said; nobody's items are taken. The largest packages of Guix have less than a tenth
    /// of these files and bytes.
    fn default() -> Self {
        Self {
            store_root: "/".into(),
            keys: Acl::default(),
            build_cores: 0,
            keep_failed: None,
            mirrors: Vec::new(),
            log_limit: Some(1 << 30),
            max_output_files: 4_000_000,
            max_output_size: 100 << 30,
            max_processes: 8192,
            memory: None,
            processors: None,
            store_budget: None,
        }
    }
}

/// What was given so far.
#[derive(Debug, Default)]
pub(super) struct SandboxDraft {
    settings: SandboxSettings,
    keys: Option<Acl>,
}

impl SandboxDraft {
    /// Whether its store is another one than a daemon's.
    pub(super) fn has_store_of_its_own(&self) -> bool {
        self.settings.store_root != Path::new("/")
    }

    /// The settings, with the machine's own list of keys if no other is given and it is needed.
    pub(super) fn finish(
        self,
        executor: ExecutorKind,
        surroundings: &Surroundings,
    ) -> Result<SandboxSettings, ConfigError> {
        let keys = match self.keys {
            Some(keys) => keys,
            None if executor == ExecutorKind::Sandbox => machines_keys(&surroundings.acl)?,
            None => Acl::default(),
        };
        Ok(SandboxSettings { keys, ..self.settings })
    }
}

impl Draft {
    pub(crate) fn store_root(&mut self, text: &str) -> Applied {
        self.sandbox.settings.store_root = values::folder(text)?;
        Ok(())
    }

    pub(crate) fn store_budget(&mut self, text: &str) -> Applied {
        self.sandbox.settings.store_budget = values::size_or_none(text)?;
        Ok(())
    }

    pub(crate) fn authorized_keys(&mut self, text: &str) -> Applied {
        let keys = read_keys(Path::new(text)).map_err(|error| format!("{text}: {error}"))?;
        if keys.keys().is_empty() {
            return Err(format!("{text}: no key in it may sign what is imported"));
        }
        self.sandbox.keys = Some(keys);
        Ok(())
    }

    pub(crate) fn mirrors(&mut self, text: &str) -> Applied {
        self.sandbox.settings.mirrors = values::prefixes(text)?;
        Ok(())
    }

    pub(crate) fn build_cores(&mut self, text: &str) -> Applied {
        self.sandbox.settings.build_cores = values::count_or_none(text)?;
        Ok(())
    }

    pub(crate) fn keep_failed(&mut self, text: &str) -> Applied {
        self.sandbox.settings.keep_failed = Some(values::folder(text)?);
        Ok(())
    }

    pub(crate) fn log_limit(&mut self, text: &str) -> Applied {
        self.sandbox.settings.log_limit = values::size_or_none(text)?;
        Ok(())
    }

    pub(crate) fn max_output_files(&mut self, text: &str) -> Applied {
        self.sandbox.settings.max_output_files = values::count(text)?.into();
        Ok(())
    }

    pub(crate) fn max_output_size(&mut self, text: &str) -> Applied {
        self.sandbox.settings.max_output_size = values::size(text)?;
        Ok(())
    }

    pub(crate) fn max_processes(&mut self, text: &str) -> Applied {
        self.sandbox.settings.max_processes = values::count(text)?.into();
        Ok(())
    }

    pub(crate) fn max_memory(&mut self, text: &str) -> Applied {
        self.sandbox.settings.memory = values::size_or_none(text)?;
        Ok(())
    }

    pub(crate) fn max_processors(&mut self, text: &str) -> Applied {
        self.sandbox.settings.processors = if text == "none" { None } else { Some(values::load(text)?) };
        Ok(())
    }
}

/// A machine without the list trusts nobody; one whose list cannot be read is not to be guessed about.
fn machines_keys(acl: &Path) -> Result<Acl, ConfigError> {
    match read_keys(acl) {
        Err(KeysError::Read(error)) if error.kind() == io::ErrorKind::NotFound => Ok(Acl::default()),
        Err(error) => Err(Place::File(acl.to_owned()).error(format!("{error}; see --authorized-keys"))),
        Ok(keys) => Ok(keys),
    }
}

/// Why a list of keys is none.
#[derive(Debug, thiserror::Error)]
enum KeysError {
    #[error("{0}")]
    Read(#[from] io::Error),
    #[error("it is too large for a list of keys")]
    Size,
    #[error("it is not UTF-8, and so no list of keys")]
    Text,
    #[error("{0}")]
    Keys(#[from] drover_store::key::Error),
}

fn read_keys(path: &Path) -> Result<Acl, KeysError> {
    let mut bytes = Vec::new();
    let most = u64::try_from(sexp::SIZE_MAX).unwrap_or(u64::MAX);
    let read = File::open(path)?.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if read > sexp::SIZE_MAX {
        return Err(KeysError::Size);
    }
    Ok(Acl::parse_keys(std::str::from_utf8(&bytes).map_err(|_| KeysError::Text)?)?)
}
