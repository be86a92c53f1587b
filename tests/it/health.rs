//! The health listener and its client, as a kubelet, curl and a person use them.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::socket::{setsockopt, sockopt};

use crate::support::process::{text, web_process};
use crate::support::queue::with_queue;
use crate::support::sandbox::{Running, Sandbox, http, raw_http};
use crate::support::servers::{Database, Engine, SqliteLock, sqlite};
use crate::support::users::in_mounts;

#[apply(test)]
fn endpoints_answer_as_documented() {
    let sandbox = Sandbox::prepared();
    let web = sandbox.webserver();
    let ping = web.health("/health/ping").expect("it listens");
    assert_eq!((ping.status, ping.body.as_str()), (200, "ok"));
    assert!(ping.head.contains("text/plain"), "{}", ping.head);
    let ready = web.health("/health/ready").expect("it listens");
    let expected = "{\"status\":\"ready\",\"check\":\"readiness\",\"checks\":{\"database\":true,\"botssys\":true,\
                    \"usersys\":true,\"space\":true,\"webserver\":true},\"errors\":[]}";
    assert_eq!(ready.body, expected);
    assert!(ready.head.contains("application/json"), "{}", ready.head);
    let live = web.health("/health/live").expect("it listens");
    let expected = "{\"status\":\"ok\",\"check\":\"liveness\",\"checks\":{\"webserver\":true},\"errors\":[]}";
    assert_eq!((live.status, live.body.as_str()), (200, expected));
    let startup = web.wait_health("/health/startup", 200);
    let expected = "{\"status\":\"started\",\"check\":\"startup\",\"checks\":{\"database\":true,\"tables\":true,\
                    \"botssys\":true,\"usersys\":true,\"config\":true},\"errors\":[]}";
    assert_eq!(startup.body, expected);

    let head = http(sandbox.health_port, "HEAD", "/health/ready").expect("it listens");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    for path in ["/health/ping", "/health/live", "/health/ready", "/health/startup", "/status", "/metrics", "/"] {
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
            let refused = http(sandbox.health_port, method, path).expect("it listens");
            assert_eq!(refused.status, 405, "{method} {path}");
            assert!(refused.head.to_lowercase().contains("allow: get,head"), "{method} {path}: {}", refused.head);
        }
    }
    for path in ["/health", "/health/", "/health/anything", "/health/ready/x", "/metrics/x"] {
        assert_eq!(web.health(path).expect("it listens").status, 404, "{path}");
    }
}

#[apply(test)]
fn healthcheck_reports_result_of_listener() {
    let sandbox = Sandbox::prepared();
    let no_listener = sandbox.run(&["healthcheck"]);
    no_listener.expect_code(2);
    assert!(no_listener.stderr.contains("cannot query the health listener on 127.0.0.1:"), "{}", no_listener.stderr);

    let web = sandbox.webserver();
    let startup = sandbox.run(&["healthcheck", "--check", "startup", "--json"]);
    startup.expect_code(0);
    assert_eq!(startup.stdout.trim(), web.health("/health/startup").expect("it listens").body);
    let live = sandbox.run(&["healthcheck"]);
    live.expect_code(0);
    assert_eq!(live.stdout, "Health Check: liveness\nStatus: ok\n  ok     webserver\n");
    let quiet = sandbox.run(&["healthcheck", "--check", "ready", "--quiet", "--config-dir", "/somewhere/else"]);
    quiet.expect_code(0);
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));

    let database = sandbox.root().join("botssys/sqlitedb/botsdb");
    fs::rename(&database, database.with_extension("away")).expect("the file is there");
    web.wait_health("/health/ready", 503);
    let unready = sandbox.run(&["healthcheck", "--check", "ready"]);
    unready.expect_code(1);
    assert!(unready.stdout.contains("Status: not_ready\n  FAILED database\n"), "{}", unready.stdout);
}

#[apply(test)]
fn lost_database_fails_readiness_but_not_liveness() {
    let sandbox = Sandbox::prepared();
    let web = sandbox.webserver();
    let database = sandbox.root().join("botssys/sqlitedb/botsdb");
    let away = database.with_extension("away");
    fs::rename(&database, &away).expect("the file is there");
    let unready = web.wait_health("/health/ready", 503);
    assert!(unready.body.contains("\"database\":false") && unready.body.contains("does not exist"), "{}", unready.body);
    assert_eq!(web.health("/health/live").expect("it listens").status, 200);
    assert_eq!(web.health("/health/startup").expect("it listens").status, 503);
    fs::rename(&away, &database).expect("the file is there");
    web.wait_health("/health/ready", 200);
}

#[apply(test)]
fn a_locked_database_counts_as_reachable() {
    let mut sandbox = Sandbox::prepared();
    sandbox.set("BOTS_CTL_HEALTH_INTERVAL", "50ms");
    let web = sandbox.webserver();
    let database = sandbox.root().join("botssys/sqlitedb/botsdb");
    let _lock = SqliteLock::hold(&database);
    // Many rounds of checks fall into this second; every one of them meets the lock.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(1);
    while std::time::Instant::now() < deadline {
        assert!(web.health("/health/ready").expect("it listens").body.contains("\"database\":true"));
    }
}

#[apply(test)]
fn missing_table_fails_startup_and_is_logged() {
    let (mut sandbox, _) = with_queue();
    sandbox.set("BOTS_CTL_HEALTH_INTERVAL", "50ms");
    let database = sandbox.root().join("botssys/sqlitedb/botsdb");
    sqlite(&text(&database), "DROP TABLE mutex");
    let monitor = sandbox.start(&["dirmonitor"]);
    monitor.wait_ready();
    monitor.wait_stderr("lacks mutex: run init-db");
    // During an outage its error is that of the database alone.
    let away = database.with_extension("away");
    fs::rename(&database, &away).expect("the file is there");
    monitor.wait_health("/health/ready", 503);
    let startup = monitor.health("/health/startup").expect("it listens");
    assert!(startup.body.contains("not checked yet: the tables"), "{}", startup.body);
}

#[apply(test)]
fn hung_web_server_fails_readiness_and_then_liveness() {
    let mut sandbox = Sandbox::prepared();
    sandbox.set("BOTS_CTL_HEALTH_INTERVAL", "100ms").set("BOTS_CTL_STOP_TIMEOUT", "1s");
    let mut web = sandbox.webserver();
    let (python, _) = web.descendants().first().cloned().expect("bots-webserver runs");
    nix::sys::signal::kill(python, Signal::SIGSTOP).expect("it can be stopped");
    web.wait_health("/health/ready", 503);
    let live = web.wait_health("/health/live", 503);
    assert!(live.body.contains("probes in a row"), "{}", live.body);
    nix::sys::signal::kill(python, Signal::SIGCONT).expect("it can be continued");
    web.wait_health("/health/live", 200);
    web.wait_ready();
    nix::sys::signal::kill(python, Signal::SIGSTOP).expect("it can be stopped");
    // The stop continues it.
    web.signal(Signal::SIGTERM);
    assert_eq!(web.wait_code(), 0, "{}", web.report());
}

#[apply(test)]
fn missing_directory_fails_readiness() {
    let sandbox = Sandbox::prepared();
    let web = sandbox.webserver();
    let usersys = sandbox.root().join("usersys");
    fs::rename(&usersys, usersys.with_extension("away")).expect("the directory is there");
    let unready = web.wait_health("/health/ready", 503);
    assert!(unready.body.contains("\"usersys\":false"), "{}", unready.body);
}

#[apply(test)]
fn misbehaving_clients_do_not_block_health_listener() {
    let sandbox = Sandbox::prepared();
    let web = sandbox.webserver();
    // More than the listener serves at once; these stay open and silent.
    let silent: Vec<TcpStream> =
        (0..600).map(|_| TcpStream::connect(("127.0.0.1", sandbox.health_port)).expect("it accepts")).collect();
    // The last client is accepted last: by then all others are served or evicted.
    assert_eq!(web.health("/health/live").expect("it listens").status, 200);
    let served = sockets(&web);
    assert!((200..300).contains(&served), "{served} of {} are served at once", silent.len());
    let long = format!("GET /health/live HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(64 * 1024));
    let refused = raw_http(sandbox.health_port, long.as_bytes()).unwrap_or_default();
    assert!(!refused.contains(" 200 "), "{refused}");
    let rubbish = raw_http(sandbox.health_port, b"\x16\x03\x01\x02\x00\r\n\r\n").unwrap_or_default();
    assert!(!rubbish.contains(" 200 "), "{rubbish}");
    assert_eq!(web.health("/health/live").expect("it listens").status, 200);
    drop(silent);
}

/// The kernel's buffers are bounded for a client that sends requests and reads no response.
#[apply(test)]
fn unread_responses_use_bounded_memory() {
    let sandbox = Sandbox::prepared();
    let web = sandbox.webserver();
    let one = web.health("/status").expect("it listens").body.len();
    let mut greedy = TcpStream::connect(("127.0.0.1", sandbox.health_port)).expect("it accepts");
    setsockopt(&greedy, sockopt::RcvBuf, &4096).expect("set");
    greedy.set_write_timeout(Some(Duration::from_secs(1))).expect("set");
    let requests = "GET /status HTTP/1.1\r\nHost: x\r\n\r\n".repeat(100);
    while greedy.write_all(requests.as_bytes()).is_ok() {}
    let metrics = web.health("/metrics").expect("it listens").body;
    let answered =
        metrics.lines().find_map(|line| line.strip_prefix("botsctl_probes_total{path=\"/status\",code=\"200\"} "));
    let answered: usize = answered.expect("counted").parse().expect("a number");
    assert!(answered > 1 && answered * one < 1 << 20, "{answered} answers of {one} bytes were made for nobody");
}

/// How many sockets it has open.
fn sockets(running: &Running) -> usize {
    let open = fs::read_dir(format!("/proc/{}/fd", running.pid())).expect("it runs").flatten();
    let target = |entry: fs::DirEntry| fs::read_link(entry.path()).ok();
    open.filter_map(target).filter(|target| target.to_string_lossy().starts_with("socket:")).count()
}

#[apply(test)]
fn standalone_needs_no_listener() {
    let sandbox = Sandbox::prepared();
    let startup = sandbox.run(&["healthcheck", "--standalone", "--check", "startup", "--json"]);
    startup.expect_code(0);
    assert!(startup.stdout.contains("\"tables\":true"), "{}", startup.stdout);
    let ready = sandbox.run(&["healthcheck", "--standalone", "--check", "ready"]);
    ready.expect_code(0);
    fs::remove_file(sandbox.root().join("botssys/sqlitedb/botsdb")).expect("the file is there");
    sandbox.run(&["healthcheck", "--standalone", "--check", "ready"]).expect_code(1);
    sandbox.run(&["healthcheck", "--standalone", "--check", "live"]).expect_code(0);
    fs::write(sandbox.root().join("config/settings.py"), "import nothing_of_that_name\n").expect("written");
    let broken = sandbox.run(&["healthcheck", "--standalone"]);
    broken.expect_code(2);
    assert!(broken.stderr.contains("settings.py:1: ModuleNotFoundError"), "{}", broken.stderr);
}

/// A database that accepts connections and never answers.
#[apply(test)]
fn standalone_check_connects_to_database_only_if_needed() {
    let database = Database::fresh(Engine::Postgresql.needed());
    let mut sandbox = database.sandbox();
    sandbox.run(&["init-db"]).expect_code(0);
    let mute = TcpListener::bind(("127.0.0.1", 0)).expect("bound");
    mute.set_nonblocking(true).expect("set");
    let connections = || std::iter::from_fn(|| mute.accept().ok()).count();
    sandbox.set("DB_PORT", mute.local_addr().expect("bound").port().to_string());
    for (check, code, expected) in [("live", 0, 0), ("ready", 1, 1), ("startup", 1, 1)] {
        let checked = sandbox.run(&["healthcheck", "--standalone", "--quiet", "--check", check]);
        assert!(checked.expect_code(code).stderr.is_empty() && checked.stdout.is_empty(), "{check}: {checked:?}");
        assert_eq!(connections(), expected, "{check}");
    }
}

#[apply(test)]
fn database_only_readiness_still_requires_service() {
    let mut sandbox = Sandbox::prepared();
    sandbox.set("HEALTH_CHECK_DB_ONLY", "true");
    let web = sandbox.webserver();
    let ready = web.wait_health("/health/ready", 200);
    assert!(ready.body.contains("\"checks\":{\"database\":true,\"space\":true,\"webserver\":true}"), "{}", ready.body);
    let python = web_process(&web);
    nix::sys::signal::kill(python, Signal::SIGSTOP).expect("it can be stopped");
    let unready = web.wait_health("/health/ready", 503);
    nix::sys::signal::kill(python, Signal::SIGCONT).expect("it can go on");
    assert!(unready.body.contains("\"webserver\":false"), "{}", unready.body);
}

#[apply(test)]
fn full_volume_fails_readiness_until_space_is_free() {
    let mut sandbox = Sandbox::new();
    sandbox.set("BOTS_CTL_MIN_FREE", "8Mi");
    let dir = sandbox.root().join("botssys");
    fs::create_dir_all(&dir).expect("made");
    let script = format!("mount -t tmpfs -o size=64m tmpfs '{}' && exec \"$0\" \"$@\"", dir.display());
    let web = in_mounts(&script, &sandbox.command(&["webserver"]));
    let web = Running::start(web, sandbox.home.path(), sandbox.health_port);
    web.wait_health("/health/ready", 200);
    // As the service sees it.
    let file = format!("/proc/{}/root{}/fill", web.pid(), dir.display());
    let mut fill = fs::File::create(&file).expect("there is room");
    while fill.write_all(&[0; 1 << 20]).is_ok() {}
    let unready = web.wait_health("/health/ready", 503);
    assert!(unready.body.contains("\"space\":false"), "{}", unready.body);
    assert!(unready.body.contains("has 0 MiB free on its volume, but needs 8 MiB"), "{}", unready.body);
    assert!(web.health("/metrics").expect("it listens").body.contains("\nbotsctl_volume_free_bytes 0\n"));
    assert_eq!(web.health("/health/live").expect("it listens").status, 200);
    fs::remove_file(&file).expect("removed");
    drop(fill);
    web.wait_health("/health/ready", 200);
}
