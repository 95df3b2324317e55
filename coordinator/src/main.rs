//! The program's entry; everything else is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    drover::cli::main(std::env::args_os()).into()
}
