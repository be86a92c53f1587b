//! The output of a service: every line of it, in each format, with readers of every kind.
//!
//! The service is a script in place of bots-webserver, since only its output is under test.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};

use bots_ctl::config::{ChildOutput, LogLevel};
use bots_ctl::supervisor::output::{OutputPumps, pump};
use bots_ctl::telemetry::child_output::{OutputStream, ServiceOutput};
use bots_ctl::telemetry::line_writer::{FILE_SEND_TIMEOUT, LineWriter};
use bots_ctl::telemetry::tail::OutputTail;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::process::wrapped;
use crate::support::sandbox::{Finished, Running, Sandbox, bots_bin_dir, wait_until};

/// The longest line that is not split.
const LONGEST: usize = 64 * 1024;

/// Lines of each stream where many are needed.
const MANY: usize = 100_000;

/// The form of the time that begins a line of bots-ctl, and of a service in text.
const TIME: &str = "2026-11-23T05:17:34.123456Z";

/// A log with errors, and uncaught exceptions: the second one while the first was handled.
const FAILING: &str = r#"
import logging
logging.basicConfig(format="%(asctime)s %(levelname)s [bots.webserver] %(message)s", datefmt="%Y.%m.%d %H:%M:%S", level="INFO")
logging.warning("before")
try:
    {}["key"]
except KeyError:
    logging.exception("cannot find it")
logging.info("after")
try:
    1 / 0
except ZeroDivisionError:
    int("caf\u00e9\nsecond line")
"#;

/// A sandbox in which the web server is this script, with the programs and packages of the real Bots.
fn service(format: &str, script: &str) -> Sandbox {
    let mut sandbox = Sandbox::new();
    let venv = sandbox.home.path().join("venv");
    let bin = venv.join("bin");
    fs::create_dir_all(&bin).expect("made");
    for entry in fs::read_dir(bots_bin_dir()).expect("Bots is there").flatten() {
        symlink(entry.path(), bin.join(entry.file_name())).expect("linked");
    }
    for name in ["lib", "pyvenv.cfg"] {
        symlink(bots_bin_dir().with_file_name(name), venv.join(name)).expect("linked");
    }
    let program = bin.join("bots-webserver");
    fs::remove_file(&program).expect("it was linked");
    fs::write(&program, format!("#!/bin/sh\ncd \"$HOME\"\n{script}\n")).expect("written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("changed");
    let bin = bin.display().to_string();
    // The end of the script is the end of the service.
    sandbox.set("BOTS_BIN_DIR", bin).set("DB_INIT_SKIP", "true").set("BOTS_CTL_RESTART", "never");
    sandbox.set("BOTS_CTL_CHILD_OUTPUT", format);
    sandbox
}

/// Runs a service that prints these bytes and ends.
fn printed(format: &str, bytes: &[u8]) -> Finished {
    let sandbox = service(format, "cat payload");
    fs::write(sandbox.home.path().join("payload"), bytes).expect("written");
    let done = sandbox.run(&["webserver"]);
    done.expect_code(0);
    done
}

/// The lines of the service, each without its time and the name of the service.
fn text_lines(output: &str) -> impl Iterator<Item = &str> {
    let message = |line| {
        let (time, message) = split_text(line);
        assert!(time.len() == TIME.len() && time.ends_with('Z'), "{line}");
        message
    };
    output.split_terminator('\n').map(message)
}

fn split_text(line: &str) -> (&str, &str) {
    line.split_once(" webserver | ").unwrap_or_else(|| panic!("no line of the service: {line}"))
}

fn parse(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

/// The messages of JSON lines, and whether each goes on in the next one.
fn messages(output: &str) -> Vec<(String, bool)> {
    let record = |line: &str| {
        let record = parse(line);
        (record["message"].as_str().expect("a text").to_owned(), record["continues"] == true)
    };
    output.lines().map(record).collect()
}

fn exists(path: &Path) -> Option<()> {
    path.exists().then_some(())
}

/// Starts the service with its output redirected, with a pipe as descriptor 3.
fn into_a_pipe(sandbox: &Sandbox, redirect: &str) -> (Running, File) {
    let fifo = sandbox.home.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a pipe is made");
    let reader = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&fifo).expect("it opens");
    fcntl(&reader, FcntlArg::F_SETFL(OFlag::empty())).expect("it blocks from now on");
    let script = format!("exec 3>fifo; touch opened; exec \"$@\" {redirect} 3>&-");
    let command = wrapped(&sandbox.command(&["webserver"]), "sh", &["-c", &script, "sh"]);
    let running = Running::start(command, sandbox.home.path(), sandbox.health_port);
    let opened = sandbox.home.path().join("opened");
    wait_until("the pipe has a writer", || exists(&opened), || running.report());
    (running, reader)
}

fn read_all(mut reader: File) -> String {
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("text");
    text
}

/// Bytes without any order, and a stretch without a line end.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    let mut bytes: Vec<u8> = (0..length).map(|_| next()).collect();
    bytes[length / 2..length / 2 + 5 * LONGEST].iter_mut().for_each(|byte| *byte |= 0x80);
    bytes
}

#[apply(test)]
fn lines_longer_than_limit_are_split_and_marked() {
    let line = "x".repeat(LONGEST);
    let bytes = format!("{line}\n{line}\r\n{line}y\nlast, without an end");
    let text = printed("text", bytes.as_bytes()).stdout;
    let parts = [line.clone(), line.clone(), format!("{line} [continues]"), "y".into(), "last, without an end".into()];
    assert!(text_lines(&text).eq(parts.iter()), "{} bytes", text.len());
    let found = messages(&printed("json", bytes.as_bytes()).stdout);
    let parts = [(&*line, false), (&*line, false), (&*line, true), ("y", false), ("last, without an end", false)];
    assert!(found.iter().map(|(text, goes_on)| (text.as_str(), *goes_on)).eq(parts), "{} records", found.len());
}

#[apply(test)]
fn arbitrary_bytes_become_valid_log_lines() {
    let bytes =
        b"caf\xc3\xa9 \xe2\x82\xac\r\n\ninvalid \xff\xc3(\nnul \0, escape \x1b[2J, bell \x07, tab \t.\nin\rside\n\
        csi \xc2\x9b2J, del \x7f, backwards \xe2\x80\xae\n\xe2\x82";
    let shown = [
        "caf\u{e9} \u{20ac}",
        "",
        "invalid \u{fffd}\u{fffd}(",
        "nul \\u{0}, escape \\u{1b}[2J, bell \\u{7}, tab \t.",
        "in\\rside",
        "csi \\u{9b}2J, del \\u{7f}, backwards \\u{202e}",
        "\u{fffd}",
    ];
    let text = printed("text", bytes).stdout;
    assert_eq!(text_lines(&text).collect::<Vec<_>>(), shown);
    let json = printed("json", bytes).stdout;
    let found: Vec<String> = messages(&json).into_iter().map(|(text, _)| text).collect();
    let [first, empty, invalid, _, _, _, last] = shown;
    let (controls, more) =
        ("nul \0, escape \u{1b}[2J, bell \u{7}, tab \t.", "csi \u{9b}2J, del \u{7f}, backwards \u{202e}");
    assert_eq!(found, [first, empty, invalid, controls, "in\rside", more, last]);
    let raw: Vec<char> = json.chars().filter(|c| *c != '\n' && (c.is_control() || *c == '\u{202e}')).collect();
    assert!(raw.is_empty(), "{raw:?} in {json}");
}

/// A service, or its forwarded input, may print text that looks like a record of bots-ctl or of another service.
#[apply(test)]
fn forged_log_records_are_logged_as_messages() {
    const FORGED: &str =
        "{\"timestamp\":\"2026-01-01T00:00:00Z\",\"level\":\"ERROR\",\"service\":\"bots-ctl\",\"message\":\"forged\"}";
    let lines = [FORGED, "jobqueue | forged", "\",\"level\":\"ERROR\",\"x\":\""];
    let json = printed("json", lines.join("\n").as_bytes()).stdout;
    for (record, line) in json.lines().map(parse).zip(lines) {
        let found = [&record["service"], &record["stream"], &record["level"], &record["message"]];
        assert_eq!(found.map(|value| value.as_str().unwrap_or_default()), ["webserver", "stdout", "INFO", line]);
    }
    let text = printed("text", lines.join("\n").as_bytes()).stdout;
    assert!(text_lines(&text).eq(lines), "{text}");
}

#[apply(test)]
fn multibyte_characters_survive_chunk_boundaries() {
    let lines: Vec<String> =
        (0..5000).map(|number| format!("{number} {}", "\u{e4}\u{20ac}\u{1f600}".repeat(number % 60))).collect();
    let output = printed("text", lines.join("\n").as_bytes()).stdout;
    assert!(text_lines(&output).eq(lines.iter()), "{} bytes", output.len());
}

#[apply(test)]
fn stdout_and_stderr_lines_do_not_interleave() {
    let script = format!("seq -f 'o %.0f of the one' {MANY} & seq -f 'e %.0f of the other' {MANY} >&2; wait");
    let done = service("json", &script).run(&["webserver"]);
    done.expect_code(0);
    let records: Vec<Value> = done.stdout.lines().map(parse).collect();
    for (stream, name, end) in [("stdout", 'o', "one"), ("stderr", 'e', "other")] {
        let lines = records.iter().filter(|record| record["stream"] == stream);
        let expected = (1..=MANY).map(|number| format!("{name} {number} of the {end}"));
        assert!(lines.map(|record| record["message"].as_str().expect("a text")).eq(expected), "{stream}");
    }
    assert_eq!(records.len(), 2 * MANY);
}

#[apply(test)]
fn streams_sharing_one_pipe_do_not_interleave_lines() {
    let script = format!("seq -f 'o %.0f of the one' {MANY} & seq -f 'e %.0f of the other' {MANY} >&2; wait");
    let mut sandbox = service("raw", &script);
    sandbox.set("LOG_LEVEL", "error");
    let (mut running, reader) = into_a_pipe(&sandbox, ">&3 2>&3");
    let output = read_all(reader);
    assert_eq!(running.wait_code(), 0);
    assert!(!output.contains("dropped"), "a reader that reads loses nothing");
    let whole = |line: &&str| {
        let words: Vec<&str> = line.split(' ').collect();
        matches!(words[..], ["o", number, "of", "the", "one"] | ["e", number, "of", "the", "other"] if number.parse::<usize>().is_ok())
    };
    let broken: Vec<&str> = output.lines().filter(|line| !whole(line) && !line.contains(" ERROR ")).collect();
    assert!(broken.is_empty(), "{broken:?}");
    assert_eq!(output.lines().filter(whole).count(), 2 * MANY);
}

#[apply(test)]
fn blocked_reader_loses_lines_and_gets_their_count() {
    // Lines of this length grow little as JSON, so that the remaining content of the pipes does not overflow again.
    let rest = "x".repeat(200);
    let script =
        format!("seq -f '%.0f {rest}' {MANY}; touch finished; while [ ! -e go ]; do sleep 0.05; done; echo last");
    let sandbox = service("json", &script);
    let (mut running, reader) = into_a_pipe(&sandbox, ">&3");
    let [finished, go] = ["finished", "go"].map(|name| sandbox.home.path().join(name));
    wait_until("the service has printed everything", || exists(&finished), || running.report());
    let output = std::thread::spawn(move || read_all(reader));
    fs::write(&go, "").expect("written");
    assert_eq!(running.wait_code(), 0, "{}", running.report());
    let output = output.join().expect("read");
    let records: Vec<Value> = output.lines().map(parse).collect();
    assert_eq!(records.iter().filter(|record| record["dropped"].is_u64()).count(), 1);
    let mut next = 1;
    for record in &records {
        let message = record["message"].as_str().expect("a text");
        match record["dropped"].as_u64() {
            Some(dropped) => next += dropped,
            None if message == "last" => {}
            None => {
                assert_eq!(message, format!("{next} {rest}"), "lines are missing only where a notice says so");
                next += 1;
            }
        }
    }
    assert_eq!(next, MANY as u64 + 1);
    assert_eq!(records.last().map(|record| &record["message"]), Some(&"last".into()));
}

#[apply(test)]
fn service_survives_closed_reader_or_full_disk() {
    for redirect in [">&3", ">&3 2>&3", ">/dev/full", ">/dev/full 2>&1", ">&-", ">&- 2>&-"] {
        for format in ["raw", "text", "json"] {
            let sandbox = service(format, &format!("seq {MANY}; seq {MANY} >&2; touch finished; exit 7"));
            let (mut running, reader) = into_a_pipe(&sandbox, redirect);
            drop(reader);
            assert_eq!(running.wait_code(), 7, "{redirect} {format}\n{}", running.report());
            assert!(sandbox.home.path().join("finished").exists(), "{redirect} {format}");
        }
    }
}

#[apply(test)]
fn command_fails_if_its_result_cannot_be_written() {
    let sandbox = Sandbox::new();
    let commands: [&[&str]; 6] = [
        &["--help"],
        &["help", "up"],
        &["completions", "bash"],
        &["config", "show"],
        &["config", "show", "health.addr"],
        &["version", "--json"],
    ];
    for words in commands {
        let full = File::options().write(true).open("/dev/full").expect("there is one");
        let done = sandbox.command(words).stdout(full).output().expect("it runs");
        assert_eq!(done.status.code(), Some(1), "{words:?}: {done:?}");
        let stderr = String::from_utf8_lossy(&done.stderr);
        assert!(stderr.starts_with("bots-ctl: cannot write to standard output: No space left"), "{words:?}: {stderr}");
        let (reader, closed) = std::io::pipe().expect("a pipe");
        drop(reader);
        let done = sandbox.command(words).stdout(closed).output().expect("it runs");
        assert_eq!((done.status.code(), done.stderr.len()), (Some(0), 0), "{words:?}: {done:?}");
    }
}

#[apply(test)]
fn traceback_becomes_one_json_record() {
    let sandbox = service("json", "venv/bin/python failing.py 2>errors; cat errors >&2; echo done");
    fs::write(sandbox.home.path().join("failing.py"), FAILING).expect("written");
    let done = sandbox.run(&["webserver"]);
    done.expect_code(0);
    let records: Vec<Value> = done.stdout.lines().map(parse).filter(|record| record["stream"] == "stderr").collect();
    let found: Vec<(&str, &str)> = records
        .iter()
        .map(|record| (record["level"].as_str().expect("a level"), record["message"].as_str().expect("a text")))
        .collect();
    let [before, logged, after, uncaught] = found[..] else { panic!("four records, not {found:#?}") };
    assert!(before.0 == "WARN" && before.1.ends_with("[bots.webserver] before"), "{before:?}");
    assert!(after.0 == "INFO" && after.1.ends_with("[bots.webserver] after"), "{after:?}");
    assert_eq!((logged.0, uncaught.0), ("ERROR", "ERROR"));
    assert!(
        logged.1.contains("ERROR [bots.webserver] cannot find it\nTraceback (most recent call last):\n"),
        "{}",
        logged.1
    );
    assert!(logged.1.ends_with("\nKeyError: 'key'"), "{}", logged.1);
    assert!(uncaught.1.starts_with("Traceback (most recent call last):\n"), "{}", uncaught.1);
    assert!(
        uncaught.1.contains("\n\nDuring handling of the above exception, another exception occurred:\n\n"),
        "{}",
        uncaught.1
    );
    let text = fs::read_to_string(sandbox.home.path().join("errors")).expect("there");
    assert!(text.trim_end().ends_with(uncaught.1), "{}", uncaught.1);
}

#[apply(test)]
fn traceback_is_logged_without_waiting_for_next_line() {
    let script = "venv/bin/python -c 1/0; while [ ! -e go ]; do sleep 0.05; done; exit 0";
    let sandbox = service("json", script);
    let mut running = sandbox.start(&["webserver"]);
    let logged = || running.stdout().contains("ZeroDivisionError").then_some(());
    wait_until("the traceback is in the log", logged, || running.report());
    fs::write(sandbox.home.path().join("go"), "").expect("written");
    assert_eq!(running.wait_code(), 0);
}

#[apply(test)]
fn text_format_keeps_traceback_lines_separate() {
    let text = "Traceback (most recent call last):\n  File \"a.py\", line 1, in b\nValueError: c\n";
    let printed = printed("text", text.as_bytes()).stdout;
    assert!(text_lines(&printed).eq(text.lines()), "{printed}");
}

#[apply(test)]
fn raw_output_is_passed_on_byte_for_byte() {
    let mut sandbox = service("raw", "cat payload; cat payload >&2");
    sandbox.set("LOG_LEVEL", "error");
    let bytes = noise(10_000_000);
    fs::write(sandbox.home.path().join("payload"), &bytes).expect("written");
    let mut running = sandbox.start(&["webserver"]);
    assert_eq!(running.wait_code(), 0);
    let (stdout, stderr) = (running.stdout_bytes(), running.stderr_bytes());
    assert!(stdout == bytes, "{} of {} bytes", stdout.len(), bytes.len());
    assert!(stderr.windows(bytes.len()).any(|part| part == bytes), "{} bytes, of {}", stderr.len(), bytes.len());
}

#[apply(test)]
fn child_output_format_is_independent_of_log_format() {
    for (own, format, first) in [("json", "text", "20"), ("text", "json", "{\""), ("json", "raw", "hello")] {
        let mut sandbox = service(format, "echo hello");
        sandbox.set("LOG_FORMAT", own);
        let done = sandbox.run(&["webserver"]);
        done.expect_code(0);
        assert!(done.stdout.starts_with(first), "{own} {format}: {}", done.stdout);
        assert!(done.stderr.lines().all(|line| line.starts_with('{') == (own == "json")), "{}", done.stderr);
    }
    let done = service("xml", "echo hello").run(&["webserver"]);
    done.expect_code(78);
    let text = "environment variable BOTS_CTL_CHILD_OUTPUT: \"xml\" is invalid: expected raw, text or json";
    assert!(done.stderr.contains(text), "{}", done.stderr);
}

#[apply(test)]
fn lines_of_bots_and_of_bots_ctl_have_one_time_in_utc() {
    let is_time = |text: &[u8]| text.iter().enumerate().all(|(at, byte)| byte.is_ascii_digit() != (at % 3 == 2));
    for format in ["text", "json"] {
        let mut sandbox = Sandbox::new();
        sandbox.set("TZ", "Asia/Tokyo").set("LOG_FORMAT", format);
        let mut running = sandbox.webserver();
        running.signal(Signal::SIGTERM);
        assert_eq!(running.wait_code(), 0, "{}", running.report());
        let time_and_message = |line: &str| match format {
            "json" => {
                let record = parse(line);
                [&record["timestamp"], &record["message"]].map(|value| value.as_str().expect("a text").to_owned())
            }
            _ if line.contains(" | ") => <[_; 2]>::from(split_text(line)).map(str::to_owned),
            _ => [line[..TIME.len()].to_owned(), line[TIME.len()..].to_owned()],
        };
        let own: Vec<_> = running.stderr().lines().map(time_and_message).collect();
        let of_bots: Vec<_> = running.stdout().lines().map(time_and_message).collect();
        assert!(!of_bots.is_empty(), "{}", running.report());
        for [time, message] in &of_bots {
            assert!(own[0][0] <= *time && *time <= own[own.len() - 1][0], "{time}\n{}", running.report());
            assert!(!message.as_bytes().windows(8).any(is_time), "a second time: {message}");
        }
    }
}

#[apply(test)]
fn exec_without_log_lines_starts_no_thread() {
    let done = Sandbox::new().run(&["exec", "--", "sh", "-c", "ls /proc/$PPID/task | wc -l"]);
    assert_eq!(done.expect_code(0).stdout.trim(), "1");
}

#[apply(test)]
fn held_output_pipe_does_not_delay_end_of_service() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("built");
    runtime.block_on(async {
        let (lines, _flush) = LineWriter::new(std::io::sink(), FILE_SEND_TIMEOUT, |_| String::new());
        let output = ServiceOutput::new(lines.clone(), lines, ChildOutput::Json, LogLevel::Info);
        let (reader, mut holder) = std::io::pipe().expect("a pipe");
        let pumps = OutputPumps::default();
        tokio::spawn(pump(reader.into(), OutputStream::Stderr, output, &pumps));
        tokio::task::yield_now().await;
        holder.write_all(b"the last line\n").expect("written");
        let begin = tokio::time::Instant::now();
        pumps.drain().await;
        assert_eq!(begin.elapsed(), std::time::Duration::ZERO);
    });
}

#[apply(test)]
fn unterminated_last_lines_are_logged_although_descendants_hold_pipes() {
    for shape in [ChildOutput::Json, ChildOutput::Text, ChildOutput::Raw] {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        runtime.expect("a runtime").block_on(async {
            let (lines, _flush) = LineWriter::new(std::io::sink(), FILE_SEND_TIMEOUT, |_| String::new());
            let output = ServiceOutput::new(lines.clone(), lines, shape, LogLevel::Info);
            let pumps = OutputPumps::default();
            let processes = ["of the first process", "of the second process"].map(|text| {
                let (reader, mut holder) = std::io::pipe().expect("a pipe");
                holder.write_all(text.as_bytes()).expect("written");
                let tail = OutputTail::default();
                let output = output.for_job(1, "run", tail.clone());
                tokio::spawn(pump(reader.into(), OutputStream::Stdout, output, &pumps));
                (text, tail, holder)
            });
            pumps.drain().await;
            for (text, tail, _holder) in processes {
                assert_eq!(tail.text(), text, "{shape:?}");
            }
        });
    }
}

/// A reader that reports the first write, and blocks until the sender of its channel is gone.
struct BlockedReader(Sender<()>, Receiver<()>);

impl Write for BlockedReader {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _ = (self.0.send(()), self.1.recv());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[apply(test)]
fn drain_outlasts_delay_by_full_queue() {
    let ((sender, begun), (release, released)) = (channel(), channel());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("built");
    runtime.block_on(async {
        let (lines, _flush) = LineWriter::new(BlockedReader(sender, released), FILE_SEND_TIMEOUT, |_| String::new());
        lines.push(b"first\n");
        begun.recv().expect("it writes");
        // Longer than the queue, which accepts a line of any length while it is empty.
        lines.push(&[vec![b'x'; 2 * 1024 * 1024], b"\n".to_vec()].concat());
        let output = ServiceOutput::new(lines.clone(), lines.clone(), ChildOutput::Json, LogLevel::Info);
        let (reader, mut holder) = std::io::pipe().expect("a pipe");
        holder.write_all(b"the last line\n").expect("written");
        let pumps = OutputPumps::default();
        tokio::spawn(pump(reader.into(), OutputStream::Stdout, output, &pumps));
        pumps.drain().await;
        assert_eq!(lines.dropped(), 1, "the last line was queued, or counted as dropped");
        drop(release);
    });
}

#[apply(test)]
fn one_shot_commands_log_json_only_if_configured() {
    let mut sandbox = Sandbox::new();
    sandbox.set("LOG_FORMAT", "json");
    for line in ["files", "statsu"] {
        let stderr = sandbox.run(&[line]).stderr;
        let last: Value = serde_json::from_str(stderr.lines().last().expect("a line")).expect("JSON");
        assert_eq!((&last["level"], &last["service"]), (&"ERROR".into(), &"bots-ctl".into()), "{stderr}");
    }
    sandbox.set("LOG_FORMAT", "auto");
    let failed = sandbox.run(&["files"]);
    assert!(failed.stderr.lines().all(|line| !line.starts_with('{')), "{}", failed.stderr);
    assert!(failed.stderr.contains("bots-ctl: "), "{}", failed.stderr);
    let initialised = Sandbox::new();
    let mut command = initialised.command(&["init-db"]);
    let output = command.env("LOG_FORMAT", "auto").output().expect("it runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.contains(" INFO ") && !stderr.contains('{'), "{stderr}");
}
