//! Whether this machine has sandboxes for us.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use thiserror::Error;

use super::{Failure, Ids, Limits, Sandbox};
use crate::Deadline;
use crate::process::{Exit, Program};

/// How long the sandbox that is tried may take, on a machine that is very busy.
const PATIENCE: Duration = Duration::from_secs(60);
/// Who nobody is: the user that the sandbox is tried for as root.
const NOBODY: u32 = 65534;

/// Why there are no sandboxes, and what to do about it.
#[derive(Debug, Error)]
pub enum Unavailable {
    /// The machine refuses a step.
    #[error("there are no sandboxes here: {0}")]
    Refused(Failure),
    /// It cannot be tried.
    #[error("cannot try whether there are sandboxes here: {0}")]
    Untried(#[from] io::Error),
    /// What was tried did not end as it should.
    #[error(
        "there are no sandboxes here: the first one ended with {0:?}; a security module may have killed it"
    )]
    Ended(Option<Exit>),
}

/// Whether there are sandboxes: goes into one, and leaves.
///
/// # Errors
/// Why there are none.
pub fn available() -> Result<(), Unavailable> {
    let folder = Folder::new()?;
    let sandbox = Sandbox {
        root: folder.0.clone(),
        made: Vec::new(),
        binds: Vec::new(),
        ids: Ids { inside: (NOBODY, NOBODY), outside: crate::user::is_root().then_some((NOBODY, NOBODY)) },
        host_name: "localhost".into(),
        network: false,
        bits32: false,
        folder: "/".into(),
        limits: Limits::default(),
        cgroup: None,
    };
    match try_it(&sandbox) {
        Ok(Some(Exit::Code(0))) => Ok(()),
        Ok(end) => Err(Unavailable::Ended(end)),
        Err(error) => match error.downcast::<Failure>() {
            Ok(failure) => Err(Unavailable::Refused(failure)),
            Err(error) => Err(error.into()),
        },
    }
}

fn try_it(sandbox: &Sandbox) -> io::Result<Option<Exit>> {
    Program::new("nothing").sandbox(sandbox)?.only_try().spawn()?.wait(Deadline::after(PATIENCE))
}

/// A fresh folder that is removed with this.
struct Folder(PathBuf);

impl Folder {
    fn new() -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("drover-sandbox-{}-{count}", std::process::id());
        let folder = std::path::absolute(std::env::temp_dir())?.join(name);
        let failed = |error: io::Error| {
            io::Error::new(error.kind(), format!("make the folder {}: {error}", folder.display()))
        };
        std::fs::create_dir(&folder).map_err(failed)?;
        let made = Self(folder.clone());
        // Whoever is in the sandbox has to see it, whatever we hide from others.
        std::fs::set_permissions(&made.0, std::fs::Permissions::from_mode(0o755)).map_err(failed)?;
        Ok(made)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Empty, it does no harm where it cannot be removed.
        let _ = std::fs::remove_dir(&self.0);
    }
}
