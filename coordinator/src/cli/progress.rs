//! Progress bars where people look: on standard error, if it is a terminal.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::text::clean;
use crate::client::{Unit, Watch};

const TICK: Duration = Duration::from_millis(120);

/// Shows a bar for each piece of work, and warnings always.
pub(crate) struct Progress {
    shown: bool,
    bar: Mutex<Option<ProgressBar>>,
}

impl Progress {
    /// On standard error.
    pub(crate) fn standard() -> Self {
        Self { shown: std::io::stderr().is_terminal(), bar: Mutex::new(None) }
    }

    /// Does something that prints, with the bar out of the way.
    pub(crate) fn aside<T>(&self, print: impl FnOnce() -> T) -> T {
        match self.bar().as_ref() {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// A sentence on standard error.
    pub(crate) fn say(&self, sentence: &str) {
        // A standard error that is closed must not stop anything.
        self.aside(|| drop(writeln!(std::io::stderr(), "{}", clean(sentence))));
    }

    fn bar(&self) -> MutexGuard<'_, Option<ProgressBar>> {
        self.bar.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch for Progress {
    fn begin(&self, what: &str, total: Option<u64>, unit: Unit) {
        self.end();
        if !self.shown {
            return;
        }
        let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
        let template = match (total, unit) {
            (Some(_), Unit::Things) => "{prefix}  {bar:24} {pos}/{len}  {wide_msg}",
            (Some(_), Unit::Bytes) => "{prefix}  {bar:24} {bytes}/{total_bytes}  {bytes_per_sec}, {eta} left",
            (None, Unit::Things) => "{prefix}  {spinner} {pos}  {wide_msg}",
            (None, Unit::Bytes) => "{prefix}  {spinner} {bytes}  {bytes_per_sec}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_prefix(clean(what).into_owned());
        bar.enable_steady_tick(TICK);
        *self.bar() = Some(bar);
    }

    fn advance(&self, by: u64) {
        if let Some(bar) = self.bar().as_ref() {
            bar.inc(by);
        }
    }

    fn note(&self, text: &str) {
        if let Some(bar) = self.bar().as_ref() {
            bar.set_message(clean(text).into_owned());
        }
    }

    fn warn(&self, sentence: &str) {
        self.say(&format!("drover: {sentence}"));
    }

    fn end(&self) {
        if let Some(bar) = self.bar().take() {
            bar.finish_and_clear();
        }
    }
}
