//! How what was found is printed.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::{Finding, Outcome};

/// How it is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// For people, as it comes.
    Lines,
    /// For programs, at the end.
    Json,
}

/// What was found so far.
pub(super) struct Report {
    form: Form,
    checks: Vec<Value>,
    works: bool,
}

impl Report {
    pub(super) fn new(form: Form) -> Self {
        let report = Self { form, checks: Vec::new(), works: true };
        if form == Form::Lines {
            report.print(&format!("drover-agent {}, for {}\n", env!("CARGO_PKG_VERSION"), system()));
        }
        report
    }

    /// Says what is examined, before that can go wrong in any way.
    pub(super) fn begin(&self, name: &str) {
        if self.form == Form::Lines {
            self.print(&format!("{name:<13}"));
        }
    }

    pub(super) fn end(&mut self, name: &str, outcome: &Outcome) {
        let (state, detail) = match outcome {
            Ok(Finding::Works(detail)) => ("works", detail),
            Ok(Finding::Unknown(detail)) => ("unknown", detail),
            Err(detail) => ("fails", detail),
        };
        self.works = self.works && outcome.is_ok();
        // One line each, whatever a system or a peer has to say.
        let detail: String = detail.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        match self.form {
            Form::Lines => self.print(&format!("{state:<8} {detail}\n")),
            Form::Json => self.checks.push(json!({ "name": name, "state": state, "detail": detail })),
        }
    }

    /// Whether nothing failed.
    pub(super) fn finish(self) -> bool {
        if self.form == Form::Json {
            let report = json!({
                "version": env!("CARGO_PKG_VERSION"),
                "system": system(),
                "works": self.works,
                "checks": self.checks,
            });
            self.print(&format!("{report}\n"));
        }
        self.works
    }

    fn print(&self, text: &str) {
        let mut out = io::stdout().lock();
        // A reader that has seen enough is no failure.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

/// What this program was compiled for, as Guix has it, and what it is if Guix has no name for it.
fn system() -> String {
    drover_os::machine::system()
        .unwrap_or_else(|| format!("{} {}", std::env::consts::ARCH, std::env::consts::OS))
}
