//! bots-ctl: parse, run, print one line per error, exit.

use std::io::{self, Write};
use std::process::ExitCode;

use bots_ctl::telemetry::logging::last_line;

fn main() -> ExitCode {
    match bots_ctl::run(std::env::args_os()) {
        Ok(outcome) => ExitCode::from(outcome.code()),
        Err(error) => {
            for fault in error.faults() {
                // If standard error is closed, only the exit code is left.
                let _ = writeln!(io::stderr(), "{}", last_line(fault));
            }
            ExitCode::from(error.kind().code())
        }
    }
}
