//! The web UI from an empty machine to its orderly end.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::bots::is_bots_3;
use crate::support::browser::Browser;
use crate::support::mounted::status;
use crate::support::pods::System;
use crate::support::sandbox::{
    DEADLINE, Running, Sandbox, assert_same_tree, descendants, free_port, http, tree_state, wait_until,
};
use crate::support::servers::SqliteLock;

#[apply(test)]
fn admin_logs_in_and_opens_routes_page() {
    let sandbox = Sandbox::prepared();
    let web = sandbox.webserver();
    let base_url = format!("http://127.0.0.1:{}", sandbox.web_port);
    let mut browser = Browser::start();
    let refused = browser.log_in(&base_url, "bots", "botsbots");
    assert!(refused.is_err(), "the well-known account of the bundled database must not exist");
    browser.log_in(&base_url, "admin", &sandbox.admin_password()).unwrap_or_else(|e| panic!("{e}\n{}", web.report()));
    assert!(browser.url().trim_end_matches('/').ends_with("/home"), "{}", browser.url());
    assert!(browser.text().contains("Current user admin"), "{}", browser.text());
    let routes = browser.open_routes(&base_url);
    assert!(browser.title().contains("Bots"), "{}", browser.title());
    let picture = sandbox.home.path().join("routes.png");
    browser.screenshot(&picture);
    assert!(fs::metadata(&picture).is_ok_and(|meta| meta.len() > 1000));
    for words in ["› Routes", "ADD ROUTE"] {
        assert!(routes.contains(words), "no {words:?} in\n{routes}");
    }
}

#[apply(test)]
fn first_run_generates_secrets_and_later_runs_keep_them() {
    let sandbox = Sandbox::new();
    let mut web = sandbox.webserver();
    let password = sandbox.admin_password();
    assert_eq!(password.len(), 20);
    assert_eq!(web.stderr().matches(&password).count(), 1, "shown once\n{}", web.stderr());
    for name in ["admin-password", "secret-key", ".bots-ctl-settings-cache.json"] {
        let mode = fs::metadata(sandbox.root().join(name)).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let key = fs::read_to_string(sandbox.root().join("secret-key")).expect("it is there");
    let settings = fs::read_to_string(sandbox.root().join("config/settings.py")).expect("it is there");
    assert!(!settings.contains(&key));
    web.signal(Signal::SIGTERM);
    assert_eq!(web.wait_code(), 0, "{}", web.report());

    let again = sandbox.webserver();
    assert!(!again.stderr().contains(&password) && !again.stderr().contains("migrate"), "{}", again.stderr());
    assert_eq!(fs::read_to_string(sandbox.root().join("secret-key")).expect("it is there"), key);
    assert_eq!(sandbox.admin_password(), password);
}

#[apply(test)]
fn sigterm_stops_web_ui_and_all_its_processes() {
    let sandbox = Sandbox::prepared();
    let mut web = sandbox.webserver();
    let below = web.descendants();
    assert!(!below.is_empty());
    web.signal(Signal::SIGTERM);
    assert_eq!(web.wait_code(), 0, "{}", web.report());
    for (pid, command) in below {
        let gone = !std::path::Path::new(&format!("/proc/{pid}")).exists();
        assert!(gone, "{command} is still there");
    }
    assert!(http(sandbox.web_port, "GET", "/login/").is_none());
}

#[apply(test)]
fn web_ui_is_unready_but_serves_requests_during_drain() {
    let mut sandbox = Sandbox::prepared();
    sandbox.set("BOTS_CTL_DRAIN", "2s");
    let mut web = sandbox.webserver();
    web.signal(Signal::SIGTERM);
    let unready = web.wait_health("/health/ready", 503);
    assert!(unready.body.contains("webserver is stopping"), "{}", unready.body);
    assert_eq!(web.health("/health/live").expect("it still listens").status, 200);
    let page = http(sandbox.web_port, "GET", "/login/").expect("it still serves while it drains");
    assert_eq!(page.status, 200);
    assert_eq!(web.wait_code(), 0, "{}", web.report());
}

#[apply(test)]
fn second_sigterm_skips_drain() {
    let mut sandbox = Sandbox::prepared();
    sandbox.set("BOTS_CTL_DRAIN", "1h").set("BOTS_CTL_STOP_TIMEOUT", "1h");
    let mut web = sandbox.webserver();
    let (python, _) = web.descendants().first().cloned().expect("bots-webserver runs");
    nix::sys::signal::kill(python, Signal::SIGSTOP).expect("it can be stopped");
    web.signal(Signal::SIGTERM);
    web.wait_stderr("draining");
    web.insist(Signal::SIGTERM, "stopping webserver with SIGINT");
    assert_eq!(web.wait_code(), 0, "{}", web.report());
}

#[apply(test)]
fn bots_ctl_exits_with_code_of_killed_web_server() {
    let mut sandbox = Sandbox::prepared();
    sandbox.set("BOTS_CTL_RESTART", "never");
    let mut web = sandbox.webserver();
    let (python, _) = web.descendants().first().cloned().expect("bots-webserver runs");
    nix::sys::signal::kill(python, Signal::SIGKILL).expect("it can be killed");
    assert_eq!(web.wait_code(), 137, "{}", web.report());
    assert!(web.stderr().contains("exited unexpectedly: signal SIGKILL"), "{}", web.stderr());
}

#[apply(test)]
fn web_server_ends_when_bots_ctl_is_killed() {
    let sandbox = Sandbox::prepared();
    let mut web = sandbox.webserver();
    let (python, _) = web.descendants().first().cloned().expect("bots-webserver runs");
    web.signal(Signal::SIGKILL);
    web.wait();
    let process = format!("/proc/{python}");
    wait_until("it is gone", || (!is_running(&process)).then_some(()), || web.report());
}

/// An unreaped zombie does not count as running.
fn is_running(process: &str) -> bool {
    let stat = fs::read_to_string(format!("{process}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

#[apply(test)]
fn json_log_lines_name_service_and_stream() {
    let mut sandbox = Sandbox::prepared();
    sandbox.set("LOG_FORMAT", "json");
    let mut web = sandbox.webserver();
    web.signal(Signal::SIGTERM);
    assert_eq!(web.wait_code(), 0);
    let serving = web.stdout().lines().map(parse).find(is_serving).expect("bots-webserver says so");
    assert_eq!(serving["service"], "webserver");
    assert_eq!(serving["stream"], "stderr");
    assert_eq!(serving["level"], "INFO");
    assert!(serving["timestamp"].is_string());
    for line in web.stderr().lines() {
        assert!(parse(line)["message"].is_string(), "{line}");
    }
}

fn parse(line: &str) -> serde_json::Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

fn is_serving(line: &serde_json::Value) -> bool {
    line["message"].as_str().is_some_and(|text| text.to_lowercase().contains("serving at port"))
}

#[apply(test)]
fn log_level_hides_less_severe_lines() {
    let mut sandbox = Sandbox::prepared();
    sandbox.set("LOG_LEVEL", "error");
    let mut web = sandbox.webserver();
    web.signal(Signal::SIGTERM);
    assert_eq!(web.wait_code(), 0);
    assert_eq!((web.stdout().as_str(), web.stderr().as_str()), ("", ""));
}

#[apply(test)]
fn start_reports_used_health_port_before_writing_files() {
    let sandbox = Sandbox::new();
    let _taken = TcpListener::bind(("127.0.0.1", sandbox.health_port)).expect("the port is free");
    let failed = sandbox.run(&["webserver"]);
    failed.expect_code(69);
    let expected = format!("cannot listen on 127.0.0.1:{} for health probes", sandbox.health_port);
    assert!(failed.stderr.contains(&expected) && failed.stderr.contains("BOTS_CTL_HEALTH_ADDR"), "{}", failed.stderr);
    assert!(!sandbox.home.path().join(".bots").exists());
}

#[apply(test)]
fn used_web_port_error_names_bots_ini() {
    let sandbox = Sandbox::new();
    let _taken = TcpListener::bind(("0.0.0.0", sandbox.web_port)).expect("the port is free");
    let failed = sandbox.run(&["webserver"]);
    failed.expect_code(69);
    let expected = format!("cannot serve the web UI on port {}: another program uses it", sandbox.web_port);
    assert!(failed.stderr.contains(&expected) && failed.stderr.contains("bots.ini"), "{}", failed.stderr);
    assert!(failed.stdout.is_empty(), "{}", failed.stdout);
}

#[apply(test)]
fn second_web_ui_names_running_one_and_writes_nothing() {
    let mut sandbox = Sandbox::prepared();
    let web = sandbox.webserver();
    sandbox.set("PORT", free_port().to_string());
    sandbox.set("BOTS_CTL_HEALTH_ADDR", format!("127.0.0.1:{}", free_port()));
    let config = sandbox.root().join("config");
    let before = tree_state(&config);
    for command in ["webserver", "up"] {
        let refused = sandbox.run(&[command]);
        refused.expect_code(69);
        let root = sandbox.root().display().to_string();
        let expected = format!("a web UI of {root} is already running on this machine: process {} (", web.pid());
        assert!(refused.stderr.contains(&expected) && refused.stderr.contains("webserver)"), "{}", refused.stderr);
        assert_same_tree(&config, &before);
    }
    // In a pod with a separate network it is another machine.
    let mut elsewhere = Running::start(System::command(&sandbox.command(&["webserver"])), sandbox.home.path(), 0);
    elsewhere.wait_stderr("the web UI is ready on");
    drop(web);
    elsewhere.signal(Signal::SIGTERM);
    assert_eq!(elsewhere.wait_code(), 0, "{}", elsewhere.report());
    let next = sandbox.start(&["webserver"]);
    next.wait_stderr("the web UI is ready on");
}

#[apply(test)]
fn readiness_ignores_other_program_on_web_port() {
    let mut sandbox = Sandbox::prepared();
    // A web UI that is slow to listen: until then another program responds on its port.
    sandbox.stand_in("bots-webserver", "#!/bin/sh\nexec sleep 1000\n");
    let web = sandbox.start(&["webserver"]);
    wait_until("it is started", || status(&web)["services"][0]["pid"].is_i64().then_some(()), || web.report());
    let script = "from http.server import *; import sys; HTTPServer(('0.0.0.0', int(sys.argv[1])), \
                  SimpleHTTPRequestHandler).serve_forever()";
    let mut other = std::process::Command::new(crate::support::sandbox::python())
        .args(["-c", script, &sandbox.web_port.to_string()])
        .spawn()
        .expect("Python starts");
    let answers = || http(sandbox.web_port, "GET", "/").map(|_| ());
    wait_until("the other program answers", answers, || web.report());
    let probed = Instant::now();
    wait_until("it was probed", || (probed.elapsed() > Duration::from_millis(500)).then_some(()), || web.report());
    let ready = web.health("/health/ready").expect("it listens");
    assert!(ready.status == 503 && !web.stderr().contains("the web UI is ready"), "{}\n{}", ready.body, web.report());
    other.kill().expect("it runs");
    other.wait().expect("it has ended");
}

#[apply(test)]
fn web_ui_with_failing_pages_is_live_but_not_ready() {
    let mut sandbox = Sandbox::prepared();
    sandbox.set("BOTS_CTL_HEALTH_INTERVAL", "50ms");
    let config = sandbox.root().join("config");
    let flag = sandbox.home.path().join("fail");
    let middleware = format!(
        "import os\n\ndef fail_when_asked(get_response):\n    def handle(request):\n        \
         assert not os.path.exists({flag:?})\n        return get_response(request)\n    return handle\n"
    );
    fs::write(config.join("hook.py"), middleware).expect("written");
    let settings = fs::read_to_string(config.join("settings.py")).expect("there is one");
    let added = "MIDDLEWARE = list(MIDDLEWARE) + ['config.hook.fail_when_asked']\n# >>> bots-ctl";
    fs::write(config.join("settings.py"), settings.replace("# >>> bots-ctl", added)).expect("written");
    let web = sandbox.webserver();
    let is = |check: &str, status: u16| web.health(check).filter(|answer| answer.status == status);
    fs::write(&flag, "").expect("written");
    let unready = wait_until("it is not ready", || is("/health/ready", 503), || web.report());
    assert!(unready.body.contains("webserver: GET /login/ returned HTTP 500"), "{}", unready.body);
    assert!(is("/health/live", 200).is_some(), "{}", web.report());
    fs::remove_file(&flag).expect("it is there");
    wait_until("it is ready again", || is("/health/ready", 200), || web.report());
    web.wait_stderr("webserver serves its pages again");
}

#[apply(test)]
fn stop_finishes_request_in_progress() {
    let sandbox = Sandbox::prepared();
    let mut web = sandbox.webserver();
    let database = sandbox.root().join("botssys/sqlitedb/botsdb");
    let lock = SqliteLock::hold(&database);

    // A session cookie makes Django query the database, where the request then waits.
    let home = if is_bots_3() { "/home" } else { "/bots/home" };
    let mut request = TcpStream::connect(("127.0.0.1", sandbox.web_port)).expect("it accepts");
    request.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let cookies = "sessionid=00000000000000000000000000000000; bots_sessionid_default=00000000000000000000000000000000";
    write!(request, "GET {home} HTTP/1.1\r\nHost: localhost\r\nCookie: {cookies}\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n")
        .expect("sent");
    // This answer shows that a worker has taken the request; one that is only queued would be reset.
    let mut taken = [0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
    request.read_exact(&mut taken).expect("a worker takes it");
    assert!(taken.starts_with(b"HTTP/1.1 100 "), "{}", String::from_utf8_lossy(&taken));
    request.set_nonblocking(true).expect("nonblocking");
    assert!(request.read(&mut [0; 1]).is_err(), "it waits for the lock");
    request.set_nonblocking(false).expect("blocking");
    web.signal(Signal::SIGTERM);
    web.wait_stderr("stopping webserver with SIGINT");
    drop(lock);
    let mut answer = String::new();
    request.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 302"), "{answer}");
    assert_eq!(web.wait_code(), 0, "{}", web.report());
    assert!(descendants(web.pid()).is_empty());
}

#[apply(test)]
fn probe_uses_tls_if_web_server_has_certificate() {
    let mut sandbox = Sandbox::prepared();
    sandbox.set("BOTS_CTL_HEALTH_INTERVAL", "50ms");
    sandbox.run(&["init-db"]).expect_code(0);
    let (key, certificate) = (sandbox.home.path().join("key.pem"), sandbox.home.path().join("certificate.pem"));
    let made = std::process::Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=edi.example.com",
            "-keyout",
        ])
        .args([key.as_os_str(), "-out".as_ref(), certificate.as_os_str()])
        .output()
        .expect("openssl is installed");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let ini = sandbox.root().join("config/bots.ini");
    let text = fs::read_to_string(&ini).expect("it is there");
    let keys = format!("ssl_certificate = {}\nssl_private_key = {}", certificate.display(), key.display());
    fs::write(&ini, text.replacen("[webserver]", &format!("[webserver]\n{keys}"), 1)).expect("written");
    let web = sandbox.webserver();
    assert!(!web.stdout().contains("handshake"), "{}", web.stdout());
    assert!(http(sandbox.web_port, "GET", "/login/").is_none_or(|answer| answer.status != 200), "it speaks TLS alone");
    let (python, _) = web.descendants().first().cloned().expect("bots-webserver runs");
    nix::sys::signal::kill(python, Signal::SIGSTOP).expect("it can be stopped");
    web.wait_health("/health/live", 503);
    nix::sys::signal::kill(python, Signal::SIGCONT).expect("it can be continued");
    web.wait_ready();
}

#[apply(test)]
fn ready_line_names_urls_and_password_file() {
    let sandbox = Sandbox::new();
    for _ in 0..2 {
        let mut web = sandbox.webserver();
        let words = format!("ready: web UI http://localhost:{}, user admin, password in ", sandbox.web_port);
        web.wait_stderr(&words);
        let stderr = web.stderr();
        let file = sandbox.root().join("admin-password").display().to_string();
        let rest = format!("{file}; status page http://localhost:{}/; SIGTERM stops everything", sandbox.health_port);
        let at = stderr.find(&format!("{words}{rest}\n")).unwrap_or_else(|| panic!("{stderr}"));
        assert!(stderr.find("the web UI is ready on").is_some_and(|before| before < at), "{stderr}");
        if is_bots_3() {
            assert!(stderr.contains("the web UI of Bots 3.3.1 listens on all addresses of this machine"), "{stderr}");
        }
        web.signal(Signal::SIGTERM);
        web.wait();
    }
}
