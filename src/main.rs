//! bots-ctl: parse, run, print one line per fault, exit.

use std::process::ExitCode;

fn main() -> ExitCode {
    match bots_ctl::run(std::env::args_os()) {
        Ok(outcome) => ExitCode::from(outcome.code()),
        Err(error) => {
            for fault in error.faults() {
                eprintln!("bots-ctl: {fault}");
            }
            ExitCode::from(error.kind().code())
        }
    }
}
