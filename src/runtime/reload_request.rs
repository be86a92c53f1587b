//! A request to the running directory monitor, and its answer. Both are files beside Bots's own: the monitor may run in another
//! container on the same volume, and Bots's programs send such requests as well.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tracing::{info, warn};

use crate::bots::dirmonitor_config::trigger_file;
use crate::bots::environment::Environment;
use crate::config::{Config, ServiceBackend};
use crate::exit::{Error, Kind};
use crate::fs::atomic::write_atomically;
use crate::fs::regular;

/// A monitor polls for requests each second.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The answer of a monitor that has read its configuration.
const DONE: &str = "done";

/// Asks the running monitor to read its configuration and all directories again, and waits for its answer.
///
/// # Errors
/// 69 when no monitor answers, 78 with its reason when it refuses.
pub(crate) fn request(config: &Config) -> Result<(), Error> {
    let trigger = trigger_file(&Environment::load(config)?);
    let (answer, begin) = (answer_file(&trigger), Instant::now());
    let before = regular::read_to_string(&answer).ok();
    fs::write(&trigger, "reload").map_err(|error| {
        let text = format!("cannot ask the directory monitor to reload: cannot write {}: {error}", trigger.display());
        Error::new(Kind::Failed, text)
    })?;
    loop {
        let text = regular::read_to_string(&answer).ok();
        match text.as_ref().filter(|_| text != before).and_then(|text| text.split_once('\n')) {
            Some((_, DONE)) => return Ok(()),
            Some((_, refusal)) => {
                let text = format!("the directory monitor goes on with what it has read before: {refusal}");
                return Err(Error::new(Kind::Configuration, text));
            }
            // Bots's own monitor answers nothing.
            None if config.dirmonitor.backend == ServiceBackend::Python && !trigger.exists() => return Ok(()),
            None if begin.elapsed() > ANSWER_TIMEOUT => break,
            None => sleep(POLL_INTERVAL),
        }
    }
    // A monitor that is started later reads everything by itself.
    let _ = fs::remove_file(&trigger);
    let (seconds, directory) = (ANSWER_TIMEOUT.as_secs(), trigger.parent().unwrap_or(&trigger).display());
    let text =
        format!("no directory monitor of {directory} has answered within {seconds} s; start it: bots-ctl dirmonitor");
    Err(Error::new(Kind::Unavailable, text))
}

/// Takes what was written to the trigger file, and removes it. May wait for a file system.
pub(super) fn consume(trigger: &Path) -> Option<String> {
    // Its writer creates it first: an empty file is not complete.
    let text = regular::read_to_string(trigger).ok().filter(|text| !text.trim().is_empty())?;
    match fs::remove_file(trigger) {
        Ok(()) => {
            info!("{} asks for: {}", trigger.display(), text.trim());
            Some(text)
        }
        Err(error) => {
            warn!("cannot remove {}: {error}; what it asks for is not done", trigger.display());
            None
        }
    }
}

/// Answers the request that was consumed. May wait for a file system.
pub(super) fn answer(trigger: &Path, refusal: Option<&str>) {
    // No answer is like the one before it.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let text = format!("{now}\n{}", refusal.unwrap_or(DONE));
    if let Err(error) = write_atomically(&answer_file(trigger), text.as_bytes(), 0o644) {
        warn!("cannot answer the request to reload: {error}");
    }
}

fn answer_file(trigger: &Path) -> PathBuf {
    trigger.with_extension("answer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trigger_is_taken_when_its_words_are_there() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("trigger");
        assert_eq!(consume(&file), None);
        fs::write(&file, "").expect("written");
        assert_eq!(consume(&file), None);
        fs::write(&file, "reload").expect("its writer still has it");
        assert_eq!(consume(&file).as_deref(), Some("reload"));
        assert!(!file.exists());
    }
}
