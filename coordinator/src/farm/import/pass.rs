//! The roots of an import, wherever they come from, in one pass.

use std::path::PathBuf;
use std::sync::Arc;

use drover_store::StorePath;
use drover_wire::import::PublishedQuestion;

use super::folder::{Closed, Narinfos};
use super::herder::Kept;
use super::rows::{self, Cursor, Kind};
use super::run::{Run, Trouble};
use super::source::{Source, SourceError};

/// How much of what a mirror refused is asked for again in one pass.
const AGAIN: usize = 500;

/// A root, by where it comes from.
pub(super) enum Root {
    /// It was told: that it is not there is to be said.
    Told(StorePath),
    /// It may be there, or may have been there a moment ago.
    Likely(StorePath),
    /// It was refused before.
    Again(StorePath),
    /// It is a narinfo's file.
    Narinfo(PathBuf),
    /// A nar-herder's database has its narinfo.
    Kept(Kept),
}

impl Run<'_> {
    /// Goes through all roots. The answer: where the next pass is to begin.
    pub(super) fn all_roots(&mut self) -> Result<Cursor, Trouble> {
        let reached = self.its_roots()?;
        if self.job.options.every_minutes.is_some() {
            self.refused_before()?;
        }
        Ok(reached)
    }

    fn its_roots(&mut self) -> Result<Cursor, Trouble> {
        let id = self.job.id;
        if self.farm.database.read_blocking(|sql| rows::was_told(sql, id))? {
            self.numbered(Kind::Told, Root::Told, move |run, after| {
                Ok(run.farm.database.read_blocking(|sql| rows::told(sql, id, after))?)
            })?;
            return Ok(Cursor::default());
        }
        let source = Arc::clone(&self.source);
        if let Source::Folder(folder) = &*source {
            if folder.herder().is_some() {
                self.in_herder()?;
                return Ok(Cursor::default());
            }
            self.in_folder(Narinfos::new(folder)?)?;
            return Ok(Cursor::default());
        }
        if self.is_drover()? {
            self.numbered(Kind::Published, Root::Likely, Self::published)?;
            // A mirror goes on from here.
            return Ok(self.cursor);
        }
        self.cursor = Cursor::default();
        self.numbered(Kind::Wanted, Root::Likely, |run, after| {
            Ok(run.farm.database.read_blocking(|sql| rows::wanted(sql, after))?)
        })?;
        Ok(Cursor::default())
    }

    fn in_folder(&mut self, mut narinfos: Narinfos) -> Result<(), Trouble> {
        let mut is_empty = true;
        loop {
            match narinfos.next() {
                Ok(Some(file)) => {
                    is_empty = false;
                    self.root(Root::Narinfo(file), self.cursor)?;
                }
                Ok(None) => break,
                Err(Closed { folder, why }) => {
                    // One that is not for everybody is at the top of many disks.
                    self.refuse(&folder.display().to_string(), SourceError::Refused(why).into())?;
                }
            }
        }
        if is_empty {
            let why = format!(
                "there is no narinfo below {}, no file that ends in .narinfo; a nar-herder has them in its database, which \
                 --herder names",
                self.job.options.source
            );
            return Err(SourceError::Refused(why).into());
        }
        self.go_on(true)
    }

    fn in_herder(&mut self) -> Result<(), Trouble> {
        self.numbered(Kind::Kept, Root::Kept, |run, after| {
            let source = Arc::clone(&run.source);
            let Source::Folder(folder) = &*source else { return Ok(Vec::new()) };
            let some = folder.herder().map(|herder| herder.after(after)).transpose()?.unwrap_or_default();
            Ok(some.into_iter().map(|kept| (kept.id, kept)).collect())
        })?;
        if self.cursor.number == 0 {
            let herder = self.job.options.herder.as_deref().unwrap_or_default();
            return Err(SourceError::Refused(format!("there is no narinfo in {herder}")).into());
        }
        Ok(())
    }

    /// Whether the source says what it published after something. Where its numbers are lower than they were, it has
    /// begun anew, and so does this.
    fn is_drover(&mut self) -> Result<bool, Trouble> {
        let source = Arc::clone(&self.source);
        let Source::Server(server) = &*source else { return Ok(false) };
        let cursor = self.cursor.of(Kind::Published);
        let question = PublishedQuestion { after: cursor.number, limit: Some(1) };
        let page = match server.published(question) {
            Ok(page) => page,
            // It knows no such address, in words of its own.
            Err(SourceError::Refused(_)) => None,
            Err(error) => return Err(error.into()),
        };
        if let Some(last) = page.as_ref().and_then(|page| page.last).filter(|last| *last < cursor.number) {
            let source = &self.job.options.source;
            tracing::warn!(import = self.job.id, source, last, was = cursor.number, "a server counts anew");
            self.cursor = Cursor::default();
        }
        Ok(page.is_some())
    }

    fn published(&mut self, after: u64) -> Result<Vec<(u64, StorePath)>, Trouble> {
        let Source::Server(server) = &*self.source else { return Ok(Vec::new()) };
        let question = PublishedQuestion { after, limit: None };
        let page = server.published(question)?.unwrap_or_default();
        Ok(page.items.into_iter().map(|item| (item.number, item.path)).collect())
    }

    /// Goes through roots that have numbers of this kind, some at a time.
    fn numbered<R>(
        &mut self,
        kind: Kind,
        root: impl Fn(R) -> Root,
        next: impl Fn(&mut Self, u64) -> Result<Vec<(u64, R)>, Trouble>,
    ) -> Result<(), Trouble> {
        self.cursor = self.cursor.of(kind);
        let mut reached = self.cursor;
        loop {
            let some = next(self, reached.number)?;
            let Some((last, _)) = some.last() else { break };
            if *last <= reached.number {
                return Err(
                    SourceError::Failed("its list of what was published goes in circles".to_owned()).into()
                );
            }
            for (number, one) in some {
                reached.number = number;
                self.root(root(one), reached)?;
            }
        }
        self.go_on(true)?;
        // What waits to be used where it lies belongs to these roots.
        self.flush()
    }

    /// Gives some of what was refused before another chance: it may have been for a reason that has passed. The others
    /// have theirs in the next passes.
    fn refused_before(&mut self) -> Result<(), Trouble> {
        let (id, after) = (self.job.id, self.again.clone());
        let some = self.farm.database.read_blocking(|sql| rows::refusals(sql, id, &after, AGAIN))?;
        let last = some.get(AGAIN - 1).cloned().unwrap_or_default();
        for item in some {
            if let Ok(path) = StorePath::parse_base(&item) {
                self.root(Root::Again(path), self.cursor)?;
            }
        }
        self.go_on(true)?;
        *self.again = last;
        self.flush()
    }
}
