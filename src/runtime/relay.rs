//! The local port of a job queue in another container.

use std::io;
use std::sync::Arc;

use tracing::{debug, info, warn};

use crate::bots::environment::Environment;
use crate::bots::jobqueue_config::BotsJobQueueIni;
use crate::config::Config;
use crate::jobs::listener::bind_loopback;
use crate::jobs::relay::{Relay, serve};
use crate::model::Endpoint;
use crate::telemetry::counters::Counters;

/// Forwards jobs from this port of loopback to `BOTS_CTL_JOBQUEUE_URL`, if that is set, for as long as this process lives.
pub(crate) async fn listen(config: &Config, port: u16, counters: &Arc<Counters>) {
    let Some(target) = config.jobqueue.url.clone() else { return };
    match bind_loopback(port).await {
        Ok(listeners) => {
            info!("relaying jobs from port {port} to {}", target.authority);
            let relay = Arc::new(Relay::new(target, Arc::clone(counters)));
            for listener in listeners {
                tokio::spawn(serve(listener, Arc::clone(&relay)));
            }
        }
        // Most likely, another bots-ctl of this pod already relays.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            debug!("job relay disabled: another program uses port {port}");
        }
        Err(error) => warn!("job relay disabled: cannot listen on port {port}: {error}"),
    }
}

/// The same on the port that bots.ini names.
pub(crate) async fn listen_as_configured(config: &Config, environment: &Environment, counters: &Arc<Counters>) {
    let port = BotsJobQueueIni::read(config, environment).map_or(BotsJobQueueIni::PORT, |queue| queue.port);
    listen(config, port, counters).await;
}

/// The target of jobs: the job queue of another container, else the one on this machine.
pub(crate) fn queue(config: &Config, port: u16) -> Endpoint {
    config.jobqueue.url.clone().unwrap_or_else(|| Endpoint {
        authority: format!("127.0.0.1:{port}"),
        path: "/RPC2".to_owned(),
        token: None,
    })
}
