//! The job queue as a service of bots-ctl itself: its configuration, its listeners and its health.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::gethostname;
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing::{error, info};

use crate::bots::context::BotsContext;
use crate::bots::job_policy::JobPolicy;
use crate::bots::jobqueue_config::BotsJobQueueIni;
use crate::config::{Config, WarmStart};
use crate::database::DatabaseConfig;
use crate::exit::{Exit, Kind};
use crate::health::state::{Phase, ServiceHealth};
use crate::jobs::engine_host::EngineHost;
use crate::jobs::listener::{bind_loopback, serve};
use crate::jobs::queue::worker::Worker;
use crate::jobs::queue::{Queue, QueueCommand, QueueConfig, QueueStatus, Role};
use crate::jobs::runner::RunLimits;
use crate::model::{QueueCounts, ServiceName};
use crate::process::child::ProcessSpec;
use crate::process::reaper::Reaper;
use crate::random;
use crate::supervisor::state::Termination;
use crate::supervisor::task::{ServiceResult, StopRequest};
use crate::telemetry::child_output::ServiceOutput;
use crate::telemetry::counters::Counters;

use super::service_start::HealthSlot;

/// Timeout and interval of retries for a new active queue to bind the ports of the previous one.
const PORT_TIMEOUT: Duration = Duration::from_secs(10);
const PORT_RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// The queue before its start.
pub(crate) struct JobQueueService {
    database: DatabaseConfig,
    slots: usize,
    limits: RunLimits,
    drain: Duration,
    policy: JobPolicy,
    warm: WarmStart,
    host: ProcessSpec,
    addresses: ListenAddresses,
}

/// The addresses on which it listens.
#[derive(Clone)]
struct ListenAddresses {
    port: u16,
    /// The file that sets the port.
    file: PathBuf,
    network: Option<(SocketAddr, Option<SecretString>)>,
}

impl JobQueueService {
    pub fn new(
        config: &Config,
        bots: &BotsContext<'_>,
        queue: &BotsJobQueueIni,
        database: DatabaseConfig,
        addr: Option<SocketAddr>,
    ) -> Self {
        let times = config.stop.of(ServiceName::Jobqueue);
        let network = addr.map(|addr| (addr, config.jobqueue.token.clone()));
        Self {
            database,
            slots: queue.threads,
            limits: RunLimits {
                max_runtime: queue.max_runtime,
                kill_overdue: queue.has_kill_on_timeout,
                stop_timeout: times.timeout,
            },
            drain: times.drain,
            policy: JobPolicy::new(bots, queue.authorised.clone()),
            warm: config.engine.warm,
            host: bots.engine_host(),
            addresses: ListenAddresses { port: queue.port, file: queue.file.clone(), network },
        }
    }

    /// Runs the queue until it is stopped and no job is running.
    pub async fn run(
        self,
        reaper: Reaper,
        lines: ServiceOutput,
        stop: UnboundedReceiver<StopRequest>,
        slot: HealthSlot,
        counters: Arc<Counters>,
    ) -> ServiceResult {
        let (addresses, drain) = (self.addresses.clone(), self.drain);
        let (commands, mut received) = mpsc::channel(8);
        let (queue, mut status, worker) = Worker::new(self.setup(reaper, lines));
        let mut listeners =
            Listeners { addresses, queue, counters, tasks: JoinSet::new(), was_standby: false, until: None };
        let work = worker.run(&mut received);
        let stop = forward_stop(stop, commands.clone(), drain, &slot);
        tokio::pin!(work, stop);
        let mut has_begun = false;
        // Nothing here may wait: the queue works, and renews its lease, only while this loop polls it.
        let ended = loop {
            tokio::select! {
                end = &mut work => break Ok(end),
                () = &mut stop => {}
                Ok(()) = status.changed() => {}
                () = sleep(PORT_RETRY_INTERVAL), if listeners.bind_pending() => {}
            }
            let now = *status.borrow_and_update();
            slot.update(|service| update_health(service, now));
            if let Err(reason) = listeners.update_listeners(now.role).await {
                error!("{reason}");
                break Ok(Termination::Exited(Exit::Code(Kind::Unavailable.code())));
            }
            if now.role == Role::Active && !listeners.bind_pending() {
                slot.update(|service| service.alive = true);
                has_begun = has_begun || commands.try_send(QueueCommand::Start).is_ok();
            }
        };
        listeners.tasks.shutdown().await;
        slot.update(|service| service.phase = Phase::Ended);
        ended
    }

    fn setup(self, reaper: Reaper, lines: ServiceOutput) -> QueueConfig {
        let host = gethostname().unwrap_or_default();
        QueueConfig {
            database: self.database,
            owner: format!("{:.40}-{}-{}", host.to_string_lossy(), std::process::id(), random::alphanumeric(8)),
            slots: self.slots,
            limits: self.limits,
            policy: Arc::new(self.policy),
            host: EngineHost::new(self.warm, self.host, reaper.clone(), &lines),
            reaper,
            lines,
        }
    }
}

/// The listeners exist while the queue is active; a standby leaves the ports to the active one.
struct Listeners {
    addresses: ListenAddresses,
    queue: Queue,
    counters: Arc<Counters>,
    tasks: JoinSet<()>,
    was_standby: bool,
    /// Until when another queue may hold the ports. Set while it does.
    until: Option<Instant>,
}

impl Listeners {
    /// Whether the ports were in use, and have to be retried.
    fn bind_pending(&self) -> bool {
        self.until.is_some()
    }

    async fn update_listeners(&mut self, role: Role) -> Result<(), String> {
        match role {
            Role::Active if self.tasks.is_empty() => self.listen().await,
            Role::Standby => {
                (self.was_standby, self.until) = (true, None);
                self.tasks.shutdown().await;
                Ok(())
            }
            Role::Active => Ok(()),
            Role::Starting | Role::Unavailable => {
                self.until = None;
                Ok(())
            }
        }
    }

    async fn listen(&mut self) -> Result<(), String> {
        let until = *self.until.get_or_insert_with(|| Instant::now() + PORT_TIMEOUT);
        let bound = match self.addresses.bind().await {
            Err(_) if self.was_standby && Instant::now() < until => return Ok(()),
            bound => bound?,
        };
        self.until = None;
        for (listener, token) in bound {
            self.tasks.spawn(serve(listener, self.queue.clone(), token, Arc::clone(&self.counters)));
        }
        info!("the job queue is ready on port {}", self.addresses.port);
        if let Some((addr, _)) = &self.addresses.network {
            info!("the job queue is ready for other containers on {addr}");
        }
        Ok(())
    }
}

impl ListenAddresses {
    async fn bind(&self) -> Result<Vec<(TcpListener, Option<SecretString>)>, String> {
        let describe = |on: String, error: &io::Error, setting: &str| {
            let reason = match error.kind() {
                io::ErrorKind::AddrInUse => "another program uses it".to_owned(),
                _ => error.to_string(),
            };
            format!("cannot serve the job queue on {on}: {reason}; set {setting}")
        };
        let setting = format!("[jobqueue] port in {}", self.file.display());
        let port = self.port;
        let local = bind_loopback(port).await.map_err(|error| describe(format!("port {port}"), &error, &setting))?;
        let mut bound: Vec<_> = local.into_iter().map(|listener| (listener, None)).collect();
        if let Some((addr, token)) = &self.network {
            let listener = TcpListener::bind(addr).await;
            let listener = listener.map_err(|error| describe(addr.to_string(), &error, "BOTS_CTL_JOBQUEUE_ADDR"))?;
            bound.push((listener, token.clone()));
        }
        Ok(bound)
    }
}

/// Stops the queue: after the drain, and at once at a second request. Before a reload, it continues until its jobs have ended.
async fn forward_stop(
    mut stop: UnboundedReceiver<StopRequest>,
    commands: mpsc::Sender<QueueCommand>,
    drain: Duration,
    slot: &HealthSlot,
) {
    while stop.recv().await.is_some_and(|request| request.for_reload) {
        let _ = commands.send(QueueCommand::Drain).await;
    }
    slot.update(|service| service.phase = Phase::Draining);
    tokio::select! {
        () = sleep(drain) => {}
        _ = stop.recv() => {}
    }
    let _ = commands.send(QueueCommand::Stop).await;
    while stop.recv().await.is_some() {
        let _ = commands.send(QueueCommand::Stop).await;
    }
    pending().await
}

/// Publishes the status of the queue. Services that depend on the queue do not wait for a standby.
fn update_health(service: &mut ServiceHealth, status: QueueStatus) {
    // All waiting jobs may have been started since their oldest one was read.
    let oldest = status.counts.oldest.filter(|_| status.counts.waiting > 0);
    service.jobs = Some(QueueCounts { oldest, ..status.counts });
    service.alive |= status.role == Role::Standby;
    service.failures = u32::from(status.role == Role::Unavailable);
    if service.phase == Phase::Draining {
        return;
    }
    service.phase = match status.role {
        Role::Starting => Phase::Starting,
        Role::Standby => Phase::Standby,
        Role::Active | Role::Unavailable => Phase::Running,
    };
    if status.role == Role::Standby {
        service.jobs = None;
    }
}
