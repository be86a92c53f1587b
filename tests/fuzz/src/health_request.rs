//! Requests to the health listener, as bytes on a connection: each gets a documented response or a rejection, and the
//! connection ends in time.
//!
//! The first byte selects the health state, how the client disconnects, and the sizes of its writes.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bots_ctl::admin::server::{AdminPages, service};
use bots_ctl::config::{ChildOutput, LogLevel};
use bots_ctl::health::rules::DATABASE;
use bots_ctl::health::state::{CheckResult, HealthState};
use bots_ctl::http::server::serve_connection;
use bots_ctl::metrics::Exporter;
use bots_ctl::telemetry::child_output::ServiceOutput;
use bots_ctl::telemetry::counters::Counters;
use bots_ctl::telemetry::line_writer::LineWriter;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split};
use tokio::join;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::timeout;

/// As the listener's own limit for a connection; time does not pass but jumps when nothing is left to do.
const LIFE: Duration = Duration::from_secs(60);

/// Bytes: as many as the answers to any input take. While answers wait to be sent, hyper puts its refusal of what is no request
/// before the rest of them, which a debugging assertion of its own forbids and only who sends such things sees.
const ROOM: usize = 1024 * 1024;

/// Bodies of bots-ctl, and hyper's for malformed requests.
const STATUSES: [&str; 7] = ["200", "400", "404", "405", "414", "431", "503"];

/// One side of a connection with the listener; the owner is the other side.
type Serve = Box<dyn Fn(DuplexStream) -> Pin<Box<dyn Future<Output = ()>>>>;

thread_local! {
    static RUNTIME: Runtime =
        Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    /// A health state selected by two bits.
    static LISTENERS: [Serve; 4] = [0, 1, 2, 3].map(listener);
}

/// Sends the request, and checks the responses.
pub fn check(data: &[u8]) {
    let Some((&kind, requests)) = data.split_first() else { return };
    let size = if kind & 4 == 0 { requests.len().max(1) } else { 1 + usize::from(kind >> 4) };
    let (ours, theirs) = duplex(ROOM);
    let served = LISTENERS.with(|listeners| listeners[usize::from(kind & 3)](ours));
    let talk = converse(theirs, requests, size, kind & 8 == 0);
    let all = async { timeout(LIFE, async { join!(served, talk).1 }).await.expect("the connection ends") };
    check_answers(&RUNTIME.with(|runtime| runtime.block_on(all)), requests);
}

fn listener(kind: u8) -> Serve {
    let database = if kind & 1 == 0 { CheckResult::Ok } else { CheckResult::Failed("it is away".to_owned()) };
    let mut facts = HealthState { stopping: kind & 2 != 0, ..HealthState::default() };
    facts.checks.set(DATABASE, database);
    let (writer, _flush) = LineWriter::new(std::io::sink(), Duration::ZERO, |_| String::new());
    let lines = ServiceOutput::new(writer.clone(), writer, ChildOutput::Json, LogLevel::Info);
    let counters = Arc::<Counters>::default();
    let metrics = Arc::new(Exporter::new(Arc::clone(&counters), lines, 0));
    let service = service(watch::channel(facts).1, counters, AdminPages { metrics, has_status: true });
    Box::new(move |stream| Box::pin(serve_connection(stream, service.clone())))
}

/// Sends the bytes, and reads until the other side closes.
async fn converse(stream: DuplexStream, requests: &[u8], size: usize, leaves: bool) -> Vec<u8> {
    let (mut reader, mut writer) = split(stream);
    let ask = async {
        for chunk in requests.chunks(size) {
            if writer.write_all(chunk).await.is_err() {
                break;
            }
            yield_now().await;
        }
        if leaves {
            let _ = writer.shutdown().await;
        }
    };
    let listen = async {
        let mut answers = Vec::new();
        let _ = reader.read_to_end(&mut answers).await;
        answers
    };
    join!(ask, listen).1
}

/// Heads and bodies one after the other, as many as were asked for and no more.
fn check_answers(mut left: &[u8], requests: &[u8]) {
    while !left.is_empty() {
        let head = left.windows(4).position(|end| end == b"\r\n\r\n").expect("the head ends");
        let (head, rest) = left.split_at(head + 4);
        let head = std::str::from_utf8(head).expect("heads are text");
        let status = head.strip_prefix("HTTP/1.").and_then(|line| line.get(2..5)).expect("a status");
        if status == "100" {
            left = rest;
            continue;
        }
        assert!(STATUSES.contains(&status), "{head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
        let length: usize = length.parse().expect("a number");
        // Only an answer to HEAD has no body.
        let is_bare = rest.len() < length || rest.starts_with(b"HTTP/1.");
        assert!(!is_bare || length == 0 || requests.windows(4).any(|word| word == b"HEAD"), "{head}");
        let (body, rest) = rest.split_at(if is_bare { 0 } else { length });
        check_body(status, head, body);
        left = rest;
    }
}

fn check_body(status: &str, head: &str, body: &[u8]) {
    let is_json = head.contains("content-type: application/json\r\n");
    if is_json && !body.is_empty() {
        serde_json::from_slice::<serde_json::Value>(body).expect("it is JSON");
    }
    assert!(status != "503" || is_json, "{head}");
}
