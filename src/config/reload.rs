//! What a change of the mounted configuration does while services run.

use std::time::Duration;

use super::keys;
use super::layers::LayeredConfig;

/// The longest pause before a change is taken over, in Kubernetes, where there may be replicas.
const JITTER_IN_KUBERNETES: Duration = Duration::from_secs(10);

/// How long probes and endpoints may take to notice that a pod is not ready: two periods of 5 s, and a reserve. A pod that
/// is deleted is forgotten sooner, so its drain is a shorter one.
const DRAIN_IN_KUBERNETES: Duration = Duration::from_secs(15);

/// What a change of the mounted configuration does.
#[derive(Debug, Clone, Copy)]
pub struct ReloadConfig {
    /// Whether services are restarted with it.
    pub enabled: bool,
    /// Time between two looks.
    pub interval: Duration,
    /// The longest pause before a change is taken over.
    pub jitter: Duration,
    /// How long the web UI stays up, no longer ready, before it is restarted.
    pub drain: Duration,
}

/// `drain` is the web UI's own.
pub(super) fn read(reader: &mut LayeredConfig<'_>, in_kubernetes: bool, drain: Duration) -> ReloadConfig {
    let (jitter, drain) =
        if in_kubernetes { (JITTER_IN_KUBERNETES, DRAIN_IN_KUBERNETES) } else { (Duration::ZERO, drain) };
    let text = |span: Duration| format!("{}s", span.as_secs_f64());
    ReloadConfig {
        enabled: reader.get(&keys::RELOAD_ENABLED),
        interval: reader.get(&keys::RELOAD_INTERVAL),
        jitter: reader.get_or(&keys::RELOAD_JITTER, jitter, &text(jitter)),
        drain: reader.get_or(&keys::RELOAD_DRAIN, drain, &text(drain)),
    }
}
