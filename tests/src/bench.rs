//! What all benches share: two sides run by turns, both printed, a figure and its limit at the end.

use std::fmt;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// A bench stops with what went wrong: it is read by people.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// What a bench ends with: the line `NAME: figure (limit L)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// The bench's name.
    pub name: &'static str,
    /// What was measured; the less, the better.
    pub figure: f64,
    /// The most that it may be.
    pub limit: f64,
    /// ` ms`, ` MB`, or nothing for a ratio.
    pub unit: &'static str,
}

impl Verdict {
    /// Whether the figure is within its limit.
    pub fn holds(&self) -> bool {
        self.figure <= self.limit
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, figure, limit, unit } = self;
        write!(f, "{name}: {figure:.2}{unit} (limit {limit}{unit})")
    }
}

/// Runs a bench, prints its verdict as the last line, and tells by the exit code whether it holds.
pub fn main(bench: impl FnOnce() -> Result<Verdict>) -> ExitCode {
    match bench() {
        Ok(verdict) => {
            println!("{verdict}");
            if verdict.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("the bench could not be run: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One of the figures of a bench that has several: in its last lines, each `NAME: FIGURE OF-WHAT (limit: L)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// What it is, in words that follow it.
    pub of: &'static str,
    /// What was measured.
    pub figure: f64,
    /// What it may be.
    pub limit: Limit,
}

/// A limit of a figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    /// It may not be less.
    Least(f64),
    /// It may not be more.
    Most(f64),
    /// It has none.
    None,
}

impl Figure {
    /// Whether the figure is within its limit.
    pub fn holds(&self) -> bool {
        match self.limit {
            Limit::Least(limit) => self.figure >= limit,
            Limit::Most(limit) => self.figure <= limit,
            Limit::None => true,
        }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { of, figure, limit } = self;
        match limit {
            Limit::Least(limit) => write!(f, "{figure:.2} {of} (limit: at least {limit})"),
            Limit::Most(limit) => write!(f, "{figure:.2} {of} (limit: at most {limit})"),
            Limit::None => write!(f, "{figure:.2} {of}"),
        }
    }
}

/// [`main()`] for a bench with several figures.
pub fn main_of_several(name: &str, bench: impl FnOnce() -> Result<Vec<Figure>>) -> ExitCode {
    match bench() {
        Ok(figures) => {
            for figure in &figures {
                let missed = if figure.holds() { "" } else { "  MISSED" };
                println!("{name}: {figure}{missed}");
            }
            if figures.iter().all(Figure::holds) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("the bench could not be run: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One of the two things that are compared.
pub struct Side<'a> {
    /// What it is called in the output.
    pub name: &'a str,
    /// Runs it once and answers how long that took.
    pub run: &'a mut dyn FnMut() -> Result<Duration>,
}

/// Runs both sides by turns, first once each without counting (caches are warm after that), then `runs` times, each time
/// in the other order. Prints every time and answers the ratio of the medians, `ours` over `theirs`.
///
/// # Errors
/// When a run fails.
pub fn ratio(runs: usize, theirs: Side<'_>, ours: Side<'_>) -> Result<f64> {
    compare(runs, theirs, ours, |n| n % 2 == 1)
}

/// As [`ratio`], for sides of which ours needs what theirs has just made: always theirs first.
///
/// # Errors
/// When a run fails.
pub fn ratio_in_order(runs: usize, theirs: Side<'_>, ours: Side<'_>) -> Result<f64> {
    compare(runs, theirs, ours, |_| true)
}

fn compare(
    runs: usize,
    theirs: Side<'_>,
    ours: Side<'_>,
    begins_with_theirs: impl Fn(usize) -> bool,
) -> Result<f64> {
    (theirs.run)()?;
    (ours.run)()?;
    let (mut of_theirs, mut of_ours) = (Vec::new(), Vec::new());
    for n in 1..=runs {
        let (a, b) = if begins_with_theirs(n) {
            let a = (theirs.run)()?;
            (a, (ours.run)()?)
        } else {
            let b = (ours.run)()?;
            ((theirs.run)()?, b)
        };
        let (a, b) = (a.as_secs_f64(), b.as_secs_f64());
        println!("run {n}: {} {a:.3} s, {} {b:.3} s", theirs.name, ours.name);
        of_theirs.push(a);
        of_ours.push(b);
    }
    let (a, b) = (median(&mut of_theirs), median(&mut of_ours));
    println!("median: {} {a:.3} s, {} {b:.3} s", theirs.name, ours.name);
    Ok(b / a)
}

/// The middle one; the mean of both middle ones when there is an even number. 0 of nothing.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values {
        [] => 0.0,
        values if values.len() % 2 == 1 => values[middle],
        values => (values[middle - 1] + values[middle]) / 2.0,
    }
}

/// How long `work` takes.
///
/// # Errors
/// Its own.
pub fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    let start = Instant::now();
    let value = work()?;
    Ok((value, start.elapsed()))
}

/// The most memory that the process of that status file (`/proc/self/status`) has had resident, in KiB.
///
/// # Errors
/// When the file cannot be read or has no `VmHWM`.
pub fn peak_kib(status: &str) -> Result<u64> {
    let text = std::fs::read_to_string(status)?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(number.ok_or_else(|| format!("{status} has no VmHWM"))?.trim().parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_at_its_limit_holds_and_one_above_does_not() {
        let verdict = Verdict { name: "formats", figure: 2.5, limit: 2.5, unit: "" };
        assert_eq!(verdict.to_string(), "formats: 2.50 (limit 2.5)");
        assert!(verdict.holds());
        assert!(!Verdict { figure: 2.5001, ..verdict }.holds());
    }

    #[test]
    fn a_figure_of_several_holds_on_the_right_side_of_its_limit() {
        let figure = Figure { of: "over nothing", figure: 5.0, limit: Limit::Least(5.0) };
        assert_eq!(figure.to_string(), "5.00 over nothing (limit: at least 5)");
        assert!(figure.holds());
        assert!(!Figure { figure: 4.99, ..figure.clone() }.holds());
        assert!(Figure { limit: Limit::Most(5.0), ..figure.clone() }.holds());
        assert!(!Figure { limit: Limit::Most(4.9), ..figure }.holds());
    }

    #[test]
    fn the_median_is_the_middle_one_or_between_both() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
