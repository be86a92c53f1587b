//! The signs of life of each service: the first one, which makes it ready, and those that it then misses.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::checks::{PROBE_TIMEOUT, publish};
use super::liveness::SignOfLife;
use super::state::{Fact, Facts, Phase, Service};

/// How often to look for the first sign of life: its users wait for it.
const STARTING_INTERVAL: Duration = Duration::from_millis(20);

/// After this long a service that has never answered is looked at no more often than any other, and its silence
/// counts against it. Bots itself needs a second or two.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A sign of life is asked for once in so many rounds of the other checks: it costs the service a request.
const ROUNDS_PER_SIGN_OF_LIFE: u32 = 3;

/// Watches the service at `index` in the facts, until the task is dropped. `interval` is that of the other checks.
pub async fn watch(index: usize, sign: SignOfLife, interval: Duration, facts: watch::Sender<Facts>) {
    let mut changes = facts.subscribe();
    loop {
        // Nothing to ask while there is no process.
        let Ok(pid) =
            changes.wait_for(|facts| facts.services[index].pid.is_some()).await.map(|f| f.services[index].pid)
        else {
            return;
        };
        let Some(pid) = pid else { continue };
        if !facts.borrow().services[index].answered {
            wait_for_first_sign(index, pid, &sign, interval, &facts).await;
        } else {
            let _ = timeout(interval * ROUNDS_PER_SIGN_OF_LIFE, changed_process(index, pid, &mut changes)).await;
            ask(index, pid, &sign, &facts).await;
        }
    }
}

/// Asks often while a service starts. When it takes too long, each further silence is a miss.
async fn wait_for_first_sign(
    index: usize,
    pid: i32,
    sign: &SignOfLife,
    interval: Duration,
    facts: &watch::Sender<Facts>,
) {
    let started = Instant::now();
    let is_waited_for = |service: &Service| service.pid == Some(pid) && !service.answered;
    while is_waited_for(&facts.borrow().services[index]) {
        if started.elapsed() < START_LIMIT {
            if silence(sign, pid).await.is_none() {
                publish(facts, |facts| note(facts, index, pid, None));
            }
            sleep(STARTING_INTERVAL).await;
        } else {
            ask(index, pid, sign, facts).await;
            sleep(interval).await;
        }
    }
}

/// Waits until the service has another process than this one, or none.
async fn changed_process(index: usize, pid: i32, changes: &mut watch::Receiver<Facts>) {
    let _ = changes.wait_for(|facts| facts.services[index].pid != Some(pid)).await;
}

async fn ask(index: usize, pid: i32, sign: &SignOfLife, facts: &watch::Sender<Facts>) {
    let silence = silence(sign, pid).await;
    publish(facts, |facts| note(facts, index, pid, silence));
}

/// Why there is no sign of life, if there is none.
async fn silence(sign: &SignOfLife, pid: i32) -> Option<String> {
    match timeout(PROBE_TIMEOUT, sign.look(pid)).await {
        Ok(looked) => looked.err().map(|error| error.to_string()),
        Err(_) => Some(format!("nothing within {} s", PROBE_TIMEOUT.as_secs())),
    }
}

/// Takes an answer, or its absence, down for the process that was asked.
fn note(facts: &mut Facts, index: usize, pid: i32, silence: Option<String>) {
    let is_excused = facts.database != Fact::Good || facts.database_busy;
    let service = &mut facts.services[index];
    let is_asked = matches!(service.phase, Phase::Starting | Phase::Running) && service.pid == Some(pid);
    if !is_asked {
        return;
    }
    match (&silence, service.misses) {
        (Some(why), 0) => tracing::warn!(service = service.name, "{} does not answer: {why}", service.name),
        (None, 1..) => tracing::info!(service = service.name, "{} answers again", service.name),
        _ => {}
    }
    if silence.is_none() {
        service.answered = true;
        service.misses = 0;
        service.unexcused_misses = 0;
    } else {
        service.misses = service.misses.saturating_add(1);
        if !is_excused {
            service.unexcused_misses = service.unexcused_misses.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PID: i32 = 7;

    fn running() -> Facts {
        let service = Service { phase: Phase::Running, pid: Some(PID), ..Service::new("webserver", true) };
        Facts { services: vec![service], database: Fact::Good, ..Facts::default() }
    }

    fn silent() -> Option<String> {
        Some("nothing".to_owned())
    }

    fn misses(facts: &Facts) -> (u32, u32) {
        (facts.services[0].misses, facts.services[0].unexcused_misses)
    }

    #[test]
    fn silence_counts_against_a_service_only_while_the_database_is_no_excuse() {
        let mut facts = running();
        note(&mut facts, 0, PID, silent());
        assert_eq!(misses(&facts), (1, 1));
        for mut excused in
            [Facts { database: Fact::Bad(String::new()), ..running() }, Facts { database_busy: true, ..running() }]
        {
            note(&mut excused, 0, PID, silent());
            assert_eq!(misses(&excused), (1, 0));
        }
        note(&mut facts, 0, PID, None);
        assert_eq!(misses(&facts), (0, 0));
    }

    #[test]
    fn an_answer_counts_for_the_process_that_was_asked() {
        let mut facts = running();
        note(&mut facts, 0, PID + 1, None);
        note(&mut facts, 0, PID + 1, silent());
        assert!(!facts.services[0].answered);
        assert_eq!(misses(&facts), (0, 0));
        note(&mut facts, 0, PID, None);
        assert!(facts.services[0].answered);
    }
}
