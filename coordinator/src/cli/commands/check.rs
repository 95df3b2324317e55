//! `drover derivation check …`

use drover_store::check::Problem;
use serde::Serialize;

use super::with_standard_input;
use crate::cli::out::Out;
use crate::cli::progress::Progress;
use crate::cli::text::{clean, count};
use crate::cli::{CheckArgs, Exit};
use crate::client::ClientError;
use crate::client::check::{self, Checked};

/// A line of `--json`.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Event<'a> {
    /// Something that is not right.
    Problem {
        /// The derivation; empty for a file that could not be read, which the words name.
        path: &'a str,
        problem: String,
    },
    /// At the end.
    Summary {
        given: usize,
        inputs: usize,
        parsed: usize,
        byte_exact: usize,
        name_right: usize,
        outputs_right: usize,
        problems: usize,
    },
}

pub(in crate::cli) fn run(args: &CheckArgs, out: &mut Out, watch: &Progress) -> Result<Exit, ClientError> {
    let checked = check::run(&with_standard_input(&args.paths)?, &args.store, watch)?;
    for (path, problem) in &checked.report.problems {
        tell(path, problem, out)?;
    }
    let Checked { given, inputs, report } = &checked;
    let summary = Event::Summary {
        given: *given,
        inputs: *inputs,
        parsed: report.parsed,
        byte_exact: report.exact,
        name_right: report.named,
        outputs_right: report.outputs,
        problems: report.problems.len(),
    };
    out.value(&summary, |out| out.line(words(&checked)))?;
    Ok(if report.is_clean() { Exit::Success } else { Exit::Failed })
}

fn tell(path: &str, problem: &Problem, out: &mut Out) -> Result<(), ClientError> {
    out.value(&Event::Problem { path, problem: problem.to_string() }, |out| {
        let problem = problem.to_string();
        out.line(if path.is_empty() {
            clean(&problem).into_owned()
        } else {
            format!("{path}: {}", clean(&problem))
        })
    })
}

fn words(checked: &Checked) -> String {
    let Checked { given, inputs, report } = checked;
    let beside = match inputs {
        0 => String::new(),
        _ => format!(" and {} of theirs", count(*inputs as u64, "input", "inputs")),
    };
    format!(
        "{}{beside}: {} parsed, {} byte-exact, {} with their own name right, {} with their outputs right; {}",
        count(*given as u64, "derivation", "derivations"),
        report.parsed,
        report.exact,
        report.named,
        report.outputs,
        match report.problems.len() {
            0 => "no mismatch".to_owned(),
            n => count(n as u64, "problem", "problems"),
        }
    )
}
