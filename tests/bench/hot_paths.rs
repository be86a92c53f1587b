//! Runs one of the paths that bots-ctl takes all the time, as often as is asked for: `hot-paths PATH ROUNDS ADDRESS`.
//!
//! `tests/it/instructions.rs` builds it and counts what a round costs. Each path is what the released program does, on input as
//! it comes in practice (`tests/fixtures/hot_paths`), without anything that waits for the clock.
//!
//! It takes in modules of bots-ctl instead of the library: of a program only what it uses is translated, and the whole
//! library takes minutes.
#![allow(dead_code, unused_imports, reason = "most of these modules is of no use here")]
#![allow(clippy::disallowed_methods, reason = "the modules have their own reasons")]

#[path = "../../src/admin/mod.rs"]
mod admin;
#[path = "../../src/bots/mod.rs"]
mod bots;
#[path = "../../src/config/mod.rs"]
mod config;
#[path = "../../src/database/mod.rs"]
mod database;
#[path = "../../src/edi/mod.rs"]
mod edi;
#[path = "../../src/exit.rs"]
mod exit;
#[path = "../../src/fs/mod.rs"]
mod fs;
#[path = "../../src/health/mod.rs"]
mod health;
#[path = "../../src/http/mod.rs"]
mod http;
#[path = "../../src/jobs/mod.rs"]
mod jobs;
#[path = "../../src/metrics/mod.rs"]
mod metrics;
#[path = "../../src/model.rs"]
mod model;
#[path = "../../src/process/mod.rs"]
mod process;
#[path = "../../src/pycompat/mod.rs"]
mod pycompat;
#[path = "../../src/random.rs"]
mod random;
#[path = "../../src/status/mod.rs"]
mod status;
#[path = "../../src/supervisor/mod.rs"]
mod supervisor;
#[path = "../../src/telemetry/mod.rs"]
mod telemetry;

use std::hint::black_box;
use std::io::{self, PipeWriter, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};

use admin::server::{AdminPages, service};
use config::{ChildOutput, LogLevel};
use health::client::query;
use health::state::{CheckResults, HealthState, InitRun, Phase, ServiceHealth};
use http::server;
use jobs::command_line::JobCommand;
use jobs::xmlrpc::{Value, read_call, write_answer};
use metrics::Exporter;
use model::Check;
use pycompat::configparser::BotsIni;
use supervisor::output::{OutputPumps, pump};
use telemetry::child_output::{OutputStream, ServiceOutput};
use telemetry::counters::Counters;
use telemetry::line_writer::{FILE_SEND_TIMEOUT, FlushGuard, LineWriter};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

const BOTS_INI: &str = include_str!("../fixtures/hot_paths/bots.ini");
const CALL: &[u8] = include_bytes!("../fixtures/hot_paths/addjob.xml");
const LINES: &[u8] = include_bytes!("../fixtures/hot_paths/engine.log");
const REQUEST: &[u8] = b"GET /health/ready HTTP/1.1\r\nHost: 10.42.0.17:9180\r\nUser-Agent: kube-probe/1.35\r\n\
    Accept: */*\r\nConnection: close\r\n\r\n";

/// The number of records in [`LINES`]: a traceback is one, and records below the level are none.
const RECORDS: usize = 147;

/// Longer than records take to arrive on the slowest machine.
const TIMEOUT: Duration = Duration::from_secs(60);

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, rounds, listener] = arguments.as_slice() else {
        return failed(&"tell path, rounds and a health listener");
    };
    let done = rounds.parse().map_err(Failure::from).and_then(|rounds| run(path, rounds, listener));
    done.map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS)
}

fn failed(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("hot-paths: {error}");
    ExitCode::FAILURE
}

fn run(path: &str, rounds: u32, listener: &str) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match path {
        "probe" => probe(rounds, listener.parse()?),
        "health" => runtime.block_on(health(rounds)),
        "log" => runtime.block_on(log(rounds)),
        "xmlrpc" => (0..rounds).try_for_each(|_| call()),
        "bots_ini" => (0..rounds).try_for_each(|_| bots_ini()),
        _ => Err("there is no such path".into()),
    }
}

/// The client of the listener.
fn probe(rounds: u32, listener: SocketAddr) -> Result<(), Failure> {
    for _ in 0..rounds {
        if !query(listener, Check::Ready)?.healthy {
            return Err("the listener says no".into());
        }
    }
    Ok(())
}

/// One connection with one request, as a kubelet makes them.
async fn health(rounds: u32) -> Result<(), Failure> {
    let (_state, state) = watch::channel(health_state());
    let (counters, (queue, _flush)) = (Arc::<Counters>::default(), writer(io::sink()));
    let lines = ServiceOutput::new(queue.clone(), queue, ChildOutput::Json, LogLevel::Info);
    let metrics = Arc::new(Exporter::new(Arc::clone(&counters), lines, 0));
    let service = service(state, counters, AdminPages { metrics, has_status: true });
    let mut answer = String::new();
    for _ in 0..rounds {
        let (mut client, theirs) = tokio::io::duplex(16 * 1024);
        client.write_all(REQUEST).await?;
        server::serve_connection(theirs, service.clone()).await;
        answer.clear();
        client.read_to_string(&mut answer).await?;
        if !answer.starts_with("HTTP/1.1 200") {
            return Err(format!("the listener answered {answer}").into());
        }
    }
    Ok(())
}

/// The state while the web UI is running.
fn health_state() -> HealthState {
    let mut webserver = ServiceHealth::new("webserver", true);
    (webserver.phase, webserver.pid, webserver.alive) = (Phase::Running, Some(17), true);
    webserver.started = Some(Instant::now());
    HealthState {
        services: vec![webserver],
        misses_allowed: 3,
        checks: CheckResults::all_ok(health::rules::CHECKS.iter().map(|check| check.name)),
        bots_version: Some("3.3.1".to_owned()),
        init_run: Some(InitRun { took: Duration::from_millis(12), is_success: true }),
        ..HealthState::default()
    }
}

/// Tells how many lines have arrived where lines go.
struct Arrival(Sender<usize>);

impl Write for Arrival {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        self.0.send(memchr::memchr_iter(b'\n', lines).count()).map_err(io::Error::other)?;
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn writer(target: impl Write + Send + 'static) -> (LineWriter, FlushGuard) {
    LineWriter::new(target, FILE_SEND_TIMEOUT, |lost| format!("{lost} lines were dropped\n"))
}

/// The output of an engine, from its pipe into records. The writer thread is synchronized: each round waits for it.
async fn log(rounds: u32) -> Result<(), Failure> {
    let (sender, arrived) = mpsc::channel();
    let (queue, _flush) = writer(Arrival(sender));
    let sink = ServiceOutput::new(queue.clone(), queue, ChildOutput::Json, LogLevel::Info).for_service("engine");
    for _ in 0..rounds {
        let (reader, mut writer): (_, PipeWriter) = io::pipe()?;
        writer.write_all(LINES)?;
        drop(writer);
        tokio::spawn(pump(OwnedFd::from(reader), OutputStream::Stderr, sink.clone(), &OutputPumps::default())).await?;
        let mut missing = RECORDS;
        while missing > 0 {
            missing = missing.checked_sub(arrived.recv_timeout(TIMEOUT)?).ok_or("there are too many records")?;
        }
    }
    Ok(())
}

/// A job that comes in, and the answer to it.
fn call() -> Result<(), Failure> {
    let call = read_call(black_box(CALL))?;
    let [task, Value::Integer(5)] = call.arguments.as_slice() else { return Err("no job".into()) };
    let task = JobCommand::from_value(task)?;
    black_box((task.to_json(), task.digest(), write_answer(Value::Integer(0))));
    Ok(())
}

fn bots_ini() -> Result<(), Failure> {
    let ini = BotsIni::parse(black_box(BOTS_INI)).map_err(|_| "bots.ini is faulty")?;
    match ini.get("jobqueue", "port").map(|entry| entry.value) {
        Some("28082") => Ok(()),
        _ => Err("the port of the job queue is another one".into()),
    }
}
