//! Liveness probes of each service: the first success makes it ready, failures in a row make it unresponsive.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::checks::publish;
use super::liveness;
use super::rules::DATABASE;
use super::state::{CheckResult, HealthState, Phase, ServiceHealth};
use crate::model::LivenessProbe;
use crate::process::periodic;

/// How long a service may take to respond to a probe, and to load its page.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Interval of probes until the first success: users wait for it.
const STARTING_INTERVAL: Duration = Duration::from_millis(20);

/// After this time a service that has never responded is probed at the usual rate, and failures count. Bots itself
/// needs a second or two.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A service is probed only in every n-th round of the checks, since a probe costs it a request.
const INTERVALS_PER_PROBE: u32 = 3;

/// The result of loading the page that a service must serve.
enum PageTest {
    /// The service does not respond or has no page, or the page may wait for the database.
    NotTested,
    Loads,
    /// And why.
    Fails(String),
}

/// Watches the service at `index` until the task is dropped. `interval` is that of the other checks.
pub async fn run(index: usize, probe: LivenessProbe, interval: Duration, health: watch::Sender<HealthState>) {
    let mut changes = health.subscribe();
    loop {
        // There is nothing to probe without a process.
        let Ok(pid) =
            changes.wait_for(|state| state.services[index].pid.is_some()).await.map(|f| f.services[index].pid)
        else {
            return;
        };
        let Some(pid) = pid else { continue };
        if !health.borrow().services[index].alive {
            wait_until_alive(index, pid, &probe, interval, &health).await;
        } else {
            tokio::select! {
                () = periodic::due(interval * INTERVALS_PER_PROBE) => {}
                () = changed_process(index, pid, &mut changes) => {}
            }
            probe_once(index, pid, &probe, &health).await;
        }
    }
}

/// Probes frequently while a service starts. If the start takes too long, each further failure counts.
async fn wait_until_alive(
    index: usize,
    pid: i32,
    probe: &LivenessProbe,
    interval: Duration,
    health: &watch::Sender<HealthState>,
) {
    let started = Instant::now();
    let is_waited_for = |service: &ServiceHealth| service.pid == Some(pid) && !service.alive;
    while is_waited_for(&health.borrow().services[index]) {
        if started.elapsed() < START_TIMEOUT {
            // Whether its page works can only be tested with the database.
            let is_pending = *health.borrow().checks.get(DATABASE) == CheckResult::Pending;
            if !is_pending && probe_error(probe, pid, true).await.is_none() {
                let page = test_page(probe, health).await;
                publish(health, |state| record_probe(state, index, pid, None, page));
            }
            sleep(STARTING_INTERVAL).await;
        } else {
            probe_once(index, pid, probe, health).await;
            sleep(interval).await;
        }
    }
}

/// Waits until the service has another process than this one, or none.
async fn changed_process(index: usize, pid: i32, changes: &mut watch::Receiver<HealthState>) {
    let _ = changes.wait_for(|health| health.services[index].pid != Some(pid)).await;
}

async fn probe_once(index: usize, pid: i32, probe: &LivenessProbe, health: &watch::Sender<HealthState>) {
    let is_new = health.borrow().services.get(index).is_none_or(|service| !service.alive || service.failures > 0);
    // A page that loads shows that its service responds: one request instead of two.
    let first = if is_new { PageTest::NotTested } else { test_page(probe, health).await };
    let error = match first {
        PageTest::Loads => None,
        PageTest::NotTested | PageTest::Fails(_) => probe_error(probe, pid, is_new).await,
    };
    let page = match first {
        // The page may have failed because the service does not respond.
        _ if error.is_some() => PageTest::NotTested,
        PageTest::NotTested if is_new => test_page(probe, health).await,
        tested => tested,
    };
    publish(health, |state| record_probe(state, index, pid, error, page));
}

/// The error of a probe, if it fails.
async fn probe_error(probe: &LivenessProbe, pid: i32, is_new: bool) -> Option<String> {
    match timeout(PROBE_TIMEOUT, liveness::probe_once(probe, pid, is_new)).await {
        Ok(probed) => probed.err().map(|error| error.to_string()),
        Err(_) => Some(format!("no response within {} s", PROBE_TIMEOUT.as_secs())),
    }
}

/// Loads the page of a service. A page may need the database: during an outage, no worker should be blocked by it.
async fn test_page(probe: &LivenessProbe, health: &watch::Sender<HealthState>) -> PageTest {
    if !liveness::has_page(probe) || !database_responds(&health.borrow()) {
        return PageTest::NotTested;
    }
    match timeout(PROBE_TIMEOUT, liveness::page_error(probe)).await {
        Ok(None) => PageTest::Loads,
        Ok(Some(reason)) => PageTest::Fails(reason),
        Err(_) => PageTest::Fails(format!("the login page did not load within {} s", PROBE_TIMEOUT.as_secs())),
    }
}

/// Whether a request that needs the database is answered: the database is reachable and not locked.
fn database_responds(health: &HealthState) -> bool {
    *health.checks.get(DATABASE) == CheckResult::Ok && !health.database_busy
}

/// Records the result of a probe for the process that was probed.
fn record_probe(health: &mut HealthState, index: usize, pid: i32, error: Option<String>, page: PageTest) {
    let is_excused = !database_responds(health);
    let service = &mut health.services[index];
    let is_asked = matches!(service.phase, Phase::Starting | Phase::Running) && service.pid == Some(pid);
    if !is_asked {
        return;
    }
    match (&error, service.failures) {
        (Some(reason), 0) => tracing::warn!(service = service.name, "{} does not respond: {reason}", service.name),
        (None, 1..) => tracing::info!(service = service.name, "{} responds again", service.name),
        _ => {}
    }
    match (page, &service.page_error) {
        (PageTest::NotTested, _) | (PageTest::Loads, None) => {}
        (PageTest::Loads, Some(_)) => {
            tracing::info!(service = service.name, "{} serves its pages again", service.name);
            service.page_error = None;
        }
        (PageTest::Fails(reason), known) => {
            if known.is_none() {
                tracing::error!(service = service.name, "{}: {reason}", service.name);
            }
            service.page_error = Some(reason);
        }
    }
    if error.is_none() {
        service.alive = true;
        service.failures = 0;
        service.countable_failures = 0;
    } else {
        service.failures = service.failures.saturating_add(1);
        if !is_excused {
            service.countable_failures = service.countable_failures.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::health::state::CheckResults;
    use crate::model::Page;

    const PID: i32 = 7;

    fn running() -> HealthState {
        let service = ServiceHealth { phase: Phase::Running, pid: Some(PID), ..ServiceHealth::new("webserver", true) };
        HealthState { services: vec![service], checks: CheckResults::all_ok([DATABASE]), ..HealthState::default() }
    }

    fn unresponsive() -> Option<String> {
        Some("nothing".to_owned())
    }

    fn misses(health: &HealthState) -> (u32, u32) {
        (health.services[0].failures, health.services[0].countable_failures)
    }

    #[test]
    fn liveness_failures_count_only_while_database_is_up() {
        let mut health = running();
        record_probe(&mut health, 0, PID, unresponsive(), PageTest::NotTested);
        assert_eq!(misses(&health), (1, 1));
        for mut excused in [
            HealthState { checks: CheckResults::default(), ..running() },
            HealthState { database_busy: true, ..running() },
        ] {
            record_probe(&mut excused, 0, PID, unresponsive(), PageTest::NotTested);
            assert_eq!(misses(&excused), (1, 0));
        }
        record_probe(&mut health, 0, PID, None, PageTest::NotTested);
        assert_eq!(misses(&health), (0, 0));
    }

    /// Answers as many requests as there are statuses; returns their first words.
    async fn serve(listener: &TcpListener, statuses: &[&str]) -> Vec<String> {
        let mut requests = Vec::new();
        for status in statuses {
            let (mut stream, _) = listener.accept().await.expect("a request");
            let mut request = [0; 1024];
            let length = stream.read(&mut request).await.expect("read");
            let response = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            stream.write_all(response.as_bytes()).await.expect("sent");
            let text = String::from_utf8_lossy(&request[..length]).into_owned();
            requests.push(text.split(" HTTP").next().unwrap_or_default().to_owned());
        }
        requests
    }

    #[tokio::test]
    async fn service_that_works_is_probed_with_its_page_alone() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = listener.local_addr().expect("it has one").port();
        let page = Page { host: "localhost".to_owned(), path: "/login/".to_owned() };
        let probe = LivenessProbe::Http { port, path: "/static/".to_owned(), page, tls: false };
        let health = watch::Sender::new(running());
        health.send_modify(|state| state.services[0].alive = true);
        for (statuses, requests, error) in [
            (&["200 OK"][..], &["GET /login/"][..], None),
            (&["503 S", "404 N"], &["GET /login/", "HEAD /static/"], Some("HTTP 503")),
        ] {
            let (seen, ()) = tokio::join!(serve(&listener, statuses), probe_once(0, PID, &probe, &health));
            assert_eq!(seen, requests);
            let state = health.borrow();
            let page_error = state.services[0].page_error.as_deref();
            assert_eq!(page_error.is_some_and(|text| text.contains(error.unwrap_or("no error"))), error.is_some());
            assert_eq!(misses(&state), (0, 0));
        }
    }

    #[test]
    fn page_that_was_not_tested_keeps_its_last_result() {
        let mut health = running();
        let mut page_error_after = |error, page| {
            record_probe(&mut health, 0, PID, error, page);
            health.services[0].page_error.clone()
        };
        let failed = Some("HTTP 500".to_owned());
        assert_eq!(page_error_after(None, PageTest::Fails("HTTP 500".to_owned())), failed);
        assert_eq!(page_error_after(unresponsive(), PageTest::NotTested), failed);
        assert_eq!(page_error_after(None, PageTest::NotTested), failed);
        assert_eq!(page_error_after(None, PageTest::Loads), None);
    }

    /// The page would keep a worker waiting; its failure shows an error of the service only if the database responds.
    #[tokio::test]
    async fn page_is_not_loaded_while_database_is_away_or_locked() {
        let page = Page { host: "localhost".to_owned(), path: "/login/".to_owned() };
        let closed = LivenessProbe::Http { port: 1, path: "/static/".to_owned(), page, tls: false };
        for excused in [
            HealthState { checks: CheckResults::default(), ..running() },
            HealthState { database_busy: true, ..running() },
        ] {
            assert!(matches!(test_page(&closed, &watch::Sender::new(excused)).await, PageTest::NotTested));
        }
        assert!(matches!(test_page(&closed, &watch::Sender::new(running())).await, PageTest::Fails(_)));
    }

    #[test]
    fn probe_result_counts_only_for_probed_process() {
        let mut health = running();
        record_probe(&mut health, 0, PID + 1, None, PageTest::NotTested);
        record_probe(&mut health, 0, PID + 1, unresponsive(), PageTest::NotTested);
        assert!(!health.services[0].alive);
        assert_eq!(misses(&health), (0, 0));
        record_probe(&mut health, 0, PID, None, PageTest::NotTested);
        assert!(health.services[0].alive);
    }
}
