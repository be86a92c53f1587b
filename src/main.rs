//! bots-ctl: parse, run, print one line per fault, exit.

use std::io::{self, Write};
use std::process::ExitCode;

use bots_ctl::telemetry::escape::escape_control;

fn main() -> ExitCode {
    match bots_ctl::run(std::env::args_os()) {
        Ok(outcome) => ExitCode::from(outcome.code()),
        Err(error) => {
            for fault in error.faults() {
                // Where standard error is closed, the exit code remains.
                let _ = writeln!(io::stderr(), "bots-ctl: {}", escape_control(fault));
            }
            ExitCode::from(error.kind().code())
        }
    }
}
