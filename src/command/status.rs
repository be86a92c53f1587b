//! `status`: the status of this container, from the running bots-ctl, once or repeatedly.

use std::io::{self, IsTerminal, Write};
use std::thread::sleep;

use crate::cli::{self, Global};
use crate::config::parse;
use crate::exit::{Error, Kind, Outcome};
use crate::health::client;
use crate::status::model::Status;
use crate::status::text::text;
use crate::telemetry::escape::escape_control;

use super::{HealthListener, record_output, write_stdout};

/// Moves the cursor to the top, ends a line, and clears the rest of the screen.
const HOME: &str = "\x1b[H";
const REST_OF_LINE: &str = "\x1b[K\n";
const REST_OF_SCREEN: &str = "\x1b[J";

/// Runs the command. The exit code is 0 if all services are ready, else 1; with `--check` 0 if there are no problems, else 1.
///
/// # Errors
/// When no bots-ctl answers.
pub fn run(global: &Global, flags: &cli::Status) -> Result<Outcome, Error> {
    let listener = HealthListener::find(global)?;
    if flags.watch {
        return watch(&listener, flags);
    }
    let (json, status) = fetch(&listener)?;
    write_stdout(&if flags.json { format!("{json}\n") } else { text(&status) });
    let is_well = if flags.check { status.problems.is_empty() } else { status.ready };
    Ok(if is_well { Outcome::Success } else { Outcome::ProblemsFound })
}

fn fetch(listener: &HealthListener) -> Result<(String, Status), Error> {
    let addr = listener.addr();
    let unavailable = |error: &dyn std::fmt::Display| {
        let text = format!("cannot query bots-ctl on {addr}: {error}; is it running in this container?");
        listener.explain(Error::new(Kind::Unavailable, format!("{text} BOTS_CTL_HEALTH_ADDR sets that address")))
    };
    let json = listener.query(client::status).map_err(|error| unavailable(&error))?;
    let status = serde_json::from_str(&json).map_err(|error| unavailable(&error))?;
    Ok((json, status))
}

/// Repeats until Ctrl-C, or until the reader closes its end. bots-ctl may be restarted in between.
fn watch(listener: &HealthListener, flags: &cli::Status) -> Result<Outcome, Error> {
    let wrong = |text| Error::new(Kind::Usage, format!("--interval {}: {text}", flags.interval));
    let interval = parse::interval(&flags.interval).map_err(wrong)?;
    let redraws = io::stdout().is_terminal() && !flags.json;
    let mut before = None;
    loop {
        let fetched = fetch(listener);
        let output = match &fetched {
            Ok((json, _)) if flags.json => format!("{json}\n"),
            Ok((_, status)) => text(status),
            Err(error) if flags.json => format!("{}\n", serde_json::json!({ "error": error.to_string() })),
            Err(error) => format!("{}\n", escape_control(&error.to_string())),
        };
        let now = fetched.map(|(_, status)| without_volatile_fields(status)).map_err(|error| error.to_string());
        let is_read = if redraws {
            write(&render_screen(&output))
        } else if before.as_ref() != Some(&now) {
            let separator = if before.is_none() || flags.json { "" } else { "\n" };
            write(&format!("{separator}{output}"))
        } else {
            true
        };
        before = Some(now);
        if !is_read {
            return Ok(Outcome::Success);
        }
        sleep(interval);
    }
}

/// Whether the text was written: the reader may have closed its end.
fn write(text: &str) -> bool {
    let mut stdout = io::stdout();
    record_output(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()))
}

/// The status without its continuously changing values.
fn without_volatile_fields(mut status: Status) -> Status {
    status.now = 0;
    for service in &mut status.services {
        (service.uptime, service.next) = (service.uptime.map(|_| 0), service.next.map(|_| 0));
    }
    if let Some(engine) = &mut status.engine {
        engine.seconds = 0;
    }
    if let Some(results) = &mut status.results {
        (results.age, results.since) = (0, 0);
    }
    status
}

/// Draws over the last screen, without a flicker, and cuts at the edges of the terminal.
fn render_screen(text: &str) -> String {
    let size = terminal_size::terminal_size();
    let (width, height) = size.map_or((usize::MAX, usize::MAX), |(width, height)| (width.0.into(), height.0.into()));
    let lines = text.lines().take(height.saturating_sub(1));
    let lines = lines.map(|line| line.chars().take(width).chain(REST_OF_LINE.chars()).collect::<String>());
    format!("{HOME}{}{REST_OF_SCREEN}", lines.collect::<String>())
}
