//! Standard output: text for people or JSON for scripts, and a reader that goes away.

use std::io::{self, BufWriter, IsTerminal, Write};

use console::Term;
use serde::Serialize;

use super::table::Table;
use crate::client::ClientError;

/// Where a command's results go.
pub(crate) struct Out {
    to: Box<dyn Write>,
    json: bool,
    width: Option<usize>,
}

impl Out {
    /// Standard output.
    pub(crate) fn standard(json: bool) -> Self {
        let stdout = io::stdout();
        let width = stdout.is_terminal().then(|| Term::stdout().size_checked()).flatten();
        let width = width.map(|(_, columns)| usize::from(columns)).filter(|columns| *columns > 0);
        Self { to: Box::new(BufWriter::new(stdout)), json, width }
    }

    /// Whether results are for scripts.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// The columns of the terminal; none where the output goes elsewhere.
    pub(crate) fn width(&self) -> Option<usize> {
        self.width
    }

    /// One line.
    pub(crate) fn line(&mut self, line: impl AsRef<str>) -> Result<(), ClientError> {
        writeln!(self.to, "{}", line.as_ref()).map_err(failed)
    }

    /// A table.
    pub(crate) fn table(&mut self, table: &Table) -> Result<(), ClientError> {
        table.lines(self.width).iter().try_for_each(|line| self.line(line))
    }

    /// One JSON value, on a line of its own.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), ClientError> {
        serde_json::to_writer(&mut self.to, value).map_err(|e| failed(e.into()))?;
        self.to.write_all(b"\n").map_err(failed)
    }

    /// The value as JSON, or else what `show` prints.
    pub(crate) fn value(
        &mut self,
        value: &impl Serialize,
        show: impl FnOnce(&mut Self) -> Result<(), ClientError>,
    ) -> Result<(), ClientError> {
        if self.json { self.json(value) } else { show(self) }
    }

    /// Raw bytes go here.
    pub(crate) fn bytes(&mut self) -> &mut dyn Write {
        &mut self.to
    }

    /// Everything so far is to be seen.
    pub(crate) fn flush(&mut self) -> Result<(), ClientError> {
        self.to.flush().map_err(failed)
    }
}

fn failed(error: io::Error) -> ClientError {
    match error.kind() {
        io::ErrorKind::BrokenPipe => ClientError::OutputClosed,
        _ => ClientError::local("writing to standard output", error),
    }
}
