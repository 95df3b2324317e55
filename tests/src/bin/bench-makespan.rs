//! The bench `makespan`: all packages of a Guix for two systems on a made-up farm, from the first build to the last, through
//! the core that serves, over what no order can be better than; and beside it first in, first out, and the plain depth.
//!
//! `bench-makespan FOLDER`: see `whole_guix` for what is in it.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use drover_tests::bench::{self, Figure, Limit, Result};
use drover_tests::replay::{self, Bound, ByCore, ByNumber, Load, Machine, Order, Place};
use drover_tests::whole_guix::WholeGuix;

const SEEDS: u64 = 10;
/// What half of all builds take less than, at the speed 1, in milliseconds.
const MEDIAN: f64 = 60_000.0;
/// The speeds of fast, middling and slow machines.
const FAST: f64 = 1.0;
const MIDDLING: f64 = 0.75;
const SLOW: f64 = 0.5;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match arguments.as_slice() {
        [folder] => bench::main_of_several("makespan", || compare(Path::new(folder))),
        _ => {
            eprintln!("usage: bench-makespan FOLDER");
            ExitCode::from(2)
        }
    }
}

fn farm() -> Vec<Machine> {
    let some = |count: usize, place, speed| vec![Machine { place, speed }; count];
    [
        some(4, Place::X86, FAST),
        some(4, Place::X86, MIDDLING),
        some(6, Place::Arm, MIDDLING),
        some(12, Place::Arm, SLOW),
    ]
    .concat()
}

fn compare(folder: &Path) -> Result<Vec<Figure>> {
    let guix = WholeGuix::read(folder, &["x86_64-linux", "aarch64-linux"])?;
    let load = Load::of(&guix);
    let depths = load.depths();
    let of = |place| load.places.iter().filter(|other| **other == place).count();
    println!(
        "{} derivations, {} wanted; {} builds ({} x86, {} arm, {} fetched) with {} edges, depth {}",
        guix.nodes.len(),
        guix.rows.len(),
        load.len(),
        of(Place::X86),
        of(Place::Arm),
        of(Place::Fetch),
        load.inputs.iter().map(Vec::len).sum::<usize>(),
        depths.iter().max().unwrap_or(&0)
    );
    let machines = farm();
    println!(
        "x86: 4 machines of speed {FAST}, 4 of {MIDDLING}; arm: 6 of {MIDDLING}, 12 of {SLOW}; the x86 machines fetch; each \
         does one thing at a time"
    );
    println!(
        "durations: log-normal, sigma 2, a median of {} s, each drawn by itself; no name tells the core anything",
        MEDIAN / 1e3
    );
    println!(
        "bound: the largest of x86 (work of x86 and of what is fetched over the speed of all x86 machines), arm (the same of arm) \
         and way (the longest way through the graph, each build on the fastest machine for it)"
    );
    println!("seed  x86 (h)  arm (h)  way (h)  first in, first out  depth   core");
    let mut worst = [0.0_f64; 3];
    let mut least_naive = f64::INFINITY;
    for seed in 1..=SEEDS {
        let durations = replay::durations(&load, seed, MEDIAN);
        let bound = Bound::of(&load, &durations, &machines);
        let over = |order: &mut dyn Order| replay::run(&load, &durations, &machines, order) / bound.value();
        let by_age = (0..load.len() as u64).collect();
        let by_depth = depths.iter().map(|depth| u64::MAX - depth).collect();
        let ratios = [
            over(&mut ByNumber::new(&load, &machines, by_age)),
            over(&mut ByNumber::new(&load, &machines, by_depth)),
            over(&mut ByCore::new(&load, &machines)),
        ];
        let hours = |ms: f64| ms / 3.6e6;
        println!(
            "{seed:>4}  {:>7.0}  {:>7.0}  {:>7.0}  {:>19.3}  {:.3}  {:.3}",
            hours(bound.x86),
            hours(bound.arm),
            hours(bound.way),
            ratios[0],
            ratios[1],
            ratios[2]
        );
        for (worst, ratio) in worst.iter_mut().zip(ratios) {
            *worst = worst.max(ratio);
        }
        least_naive = least_naive.min(ratios[0]);
    }
    println!("worst: first in, first out {:.3}, depth {:.3}, core {:.3}", worst[0], worst[1], worst[2]);
    Ok(vec![
        Figure { of: "of the bound, at worst, by the core", figure: worst[2], limit: Limit::Most(1.05) },
        Figure {
            of: "of the bound, at best, first in, first out",
            figure: least_naive,
            limit: Limit::Least(1.2),
        },
    ])
}
