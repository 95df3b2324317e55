//! The place for one build in the sandbox.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use drover_store::nar::{self, Limits};
use drover_store::path::StorePath;
use drover_wire::ItemInfo;
use drover_wire::agent::Output;

use super::plan::{self, Plan};
use super::{Ground, Stopping, import, substitute};
use crate::executor::{Ended, Error, Job, Nars, NewText, Sink, Stopper, Workplace};
use crate::store::{Hold, StoreError};

/// What a build keeps in the store, and the word that it is to stop.
#[derive(Debug)]
pub struct SandboxWorkplace {
    ground: Arc<Ground>,
    hold: Hold,
    stop: Arc<Stopping>,
}

impl SandboxWorkplace {
    pub(super) fn new(ground: Arc<Ground>) -> Result<Self, Error> {
        let hold = ground.store.hold(std::iter::empty());
        Ok(Self { ground, hold, stop: Arc::new(Stopping::new()?) })
    }
}

impl Workplace for SandboxWorkplace {
    fn protect(&mut self, paths: &mut dyn Iterator<Item = &StorePath>) -> Result<(), Error> {
        self.hold.add(paths.cloned());
        Ok(())
    }

    fn missing(&mut self, paths: &[StorePath]) -> Result<Vec<StorePath>, Error> {
        let store = &self.ground.store;
        // A derivation says itself what it refers to, and there may be thousands.
        let inputs = paths.iter().filter(|path| !path.name().ends_with(".drv"));
        store.drop_unreadable(inputs, &self.hold);
        Ok(paths.iter().filter(|path| !store.has(path)).cloned().collect())
    }

    fn add_texts(&mut self, texts: &[NewText<'_>]) -> Result<(), Error> {
        for NewText { path, text, references } in texts {
            self.hold.add([(*path).clone()]);
            self.ground.store.add_text(path, text, references)?;
        }
        Ok(())
    }

    fn add_file(&mut self, path: &StorePath, recursive: bool, nar: &mut dyn Read) -> Result<(), Error> {
        self.hold.add([path.clone()]);
        self.ground.store.add_file(path, recursive, nar, Limits::default()).map_err(|error| match error {
            // Of its stream and not of its contents: it can be asked for again.
            StoreError::Nar { item, source: nar::Error::Io { error: source, .. } } => {
                Error::Stream { attempted: format!("read the nar of {item}"), source }
            }
            error => error.into(),
        })
    }

    fn import(&mut self, items: &[&ItemInfo], from: &dyn Nars) -> Result<(), Error> {
        let Ground { store, settings, .. } = &*self.ground;
        import::import(store, &mut self.hold, &settings.keys, items, from, &self.stop)
    }

    fn substitute(&mut self, servers: &[String], paths: &[StorePath]) -> Result<(), Error> {
        let Ground { store, settings, .. } = &*self.ground;
        substitute::substitute(store, &mut self.hold, &settings.keys, servers, paths, &self.stop)
    }

    fn outputs_of(&mut self, derivation: &StorePath) -> Result<Vec<StorePath>, Error> {
        let derivation = plan::read(&self.ground.store, derivation)?;
        Ok(derivation.outputs.into_iter().map(|output| output.path).collect())
    }

    fn clear(&mut self, outputs: &[StorePath]) -> Result<(), Error> {
        // As a daemon does: what was built upon the old ones, and nobody needs, goes with them.
        Ok(self.ground.store.remove_with_referrers(outputs)?)
    }

    fn stopper(&self) -> Stopper {
        let stop = Arc::clone(&self.stop);
        Box::new(move || stop.stop())
    }

    fn build(&mut self, job: &Job, sink: &mut dyn Sink) -> Result<Ended, Error> {
        let plan = Plan::read(&self.ground.store, &job.derivation)?;
        // They are needed until they are delivered, which is for longer than it takes to build them.
        self.hold.add(plan.outputs());
        self.ground.build(&plan, job, sink, &self.stop)
    }

    fn describe(&mut self, outputs: &[StorePath]) -> Result<Vec<Output>, Error> {
        let describe = |path: &StorePath| {
            let item = self.ground.store.item(path)?;
            let item =
                item.ok_or_else(|| Error::Refused(format!("the output {path} is not in the store")))?;
            let mut references = item.references;
            references.sort_unstable();
            Ok(Output { path: item.path, nar_hash: item.nar_hash, nar_size: item.nar_size, references })
        };
        outputs.iter().map(describe).collect()
    }

    fn keep(&mut self, link: &Path) -> Result<(), Error> {
        // The store looks through this folder by itself.
        if link.parent() == Some(&self.ground.roots) && link.is_symlink() {
            return Ok(());
        }
        let (link, roots) = (link.display(), self.ground.roots.display());
        Err(Error::Refused(format!(
            "keep what {link} points to: only symbolic links in {roots} keep anything"
        )))
    }
}

#[cfg(test)]
mod tests;
