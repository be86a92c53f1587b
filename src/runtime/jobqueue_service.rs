//! The job queue that bots-ctl runs itself: what it is made from, its listeners, and what the facts say of it.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use nix::unistd::gethostname;
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing::{error, info};

use crate::bots::job_policy::Tasks;
use crate::bots::services::{Ground, JobQueue};
use crate::config::Config;
use crate::database::Settings;
use crate::exit::{Exit, Kind};
use crate::health::state::{Facts, Jobs, Phase, Service};
use crate::jobs::listener::{bind, bind_loopback, serve};
use crate::jobs::queue::{Activity, Launch, Launcher, Order, Queue, Setup, Status, queue};
use crate::jobs::runner::Limits;
use crate::process::reaper::Reaper;
use crate::random;
use crate::supervisor::group::{Ended, Task};
use crate::supervisor::state::End;
use crate::supervisor::task::Control;
use crate::telemetry::child_output::LineSink;

use super::in_process::{Place, Successor, asked_to_stop};

/// How long a queue that takes over waits for its predecessor's ports, and how often it tries.
const PORT_PATIENCE: Duration = Duration::from_secs(10);
const PORT_RETRY: Duration = Duration::from_millis(100);

/// What is known before anything is started.
pub(crate) struct NativeQueue {
    database: Settings,
    slots: usize,
    limits: Limits,
    drain: Duration,
    tasks: Tasks,
    places: Places,
}

/// Where it listens.
#[derive(Clone)]
struct Places {
    port: u16,
    /// The file that says so.
    file: PathBuf,
    network: Option<(SocketAddr, Option<SecretString>)>,
}

/// A place where it cannot listen, and what to do.
struct Taken(String);

impl NativeQueue {
    pub fn new(
        config: &Config,
        ground: &Ground<'_>,
        queue: &JobQueue,
        database: Settings,
        addr: Option<SocketAddr>,
    ) -> Self {
        let times = config.stop.jobqueue;
        let longest = Duration::from_secs(queue.longest_minutes.saturating_mul(60));
        let network = addr.map(|addr| (addr, config.jobqueue.token.clone()));
        Self {
            database,
            slots: queue.threads,
            limits: Limits { longest, kill: queue.kills_overdue, grace: times.timeout },
            drain: times.drain,
            tasks: Tasks::new(ground, queue.authorised.clone()),
            places: Places { port: queue.port, file: queue.file.clone(), network },
        }
    }

    /// As a member of a fleet, whose facts are at `index`, until there is a successor.
    pub fn task(
        self,
        index: usize,
        reaper: &Reaper,
        lines: &LineSink,
        facts: &watch::Sender<Facts>,
        successor: Successor<Self>,
    ) -> Task {
        let (reaper, lines) = (reaper.clone(), lines.clone());
        let place = Place { facts: facts.clone(), index };
        Box::new(move |mut control| {
            Box::pin(async move {
                let (mut queue, mut is_stopping) = (self, false);
                let ended = loop {
                    let parts = (reaper.clone(), lines.clone());
                    let ended = queue.live(parts, &mut control, &place, &successor, &mut is_stopping).await;
                    match successor.take() {
                        Some(next) if !is_stopping && matches!(ended, Ok(End::Stopped)) => queue = next,
                        _ => break ended,
                    }
                };
                place.change(|service| service.phase = Phase::Ended);
                ended
            })
        })
    }

    async fn live(
        self,
        (reaper, lines): (Reaper, LineSink),
        control: &mut mpsc::Receiver<Control>,
        place: &Place,
        successor: &Successor<Self>,
        is_stopping: &mut bool,
    ) -> Ended {
        let (places, drain) = (self.places.clone(), self.drain);
        let (orders, mut told) = mpsc::channel(8);
        let (queue, mut status, worker) = queue(self.setup(reaper, lines));
        let mut listeners = Listeners { places, queue, tasks: JoinSet::new(), was_standby: false, until: None };
        let work = worker.run(&mut told);
        let stop = pass_on(control, orders.clone(), drain, place, is_stopping);
        tokio::pin!(work, stop);
        let (mut has_begun, mut is_finishing) = (false, false);
        // Nothing here may wait: the queue works, and gives its signs of life, only while this loop asks it to.
        let ended = loop {
            tokio::select! {
                end = &mut work => break Ok(end),
                () = &mut stop => {}
                () = successor.is_named(), if !is_finishing => is_finishing = orders.try_send(Order::Finish).is_ok(),
                Ok(()) = status.changed() => {}
                () = sleep(PORT_RETRY), if listeners.are_awaited() => {}
            }
            let now = *status.borrow_and_update();
            place.change(|service| note(service, now));
            if let Err(Taken(why)) = listeners.follow(now.activity).await {
                error!("{why}");
                break Ok(End::Exited(Exit::Code(Kind::Unavailable.code())));
            }
            if now.activity == Activity::Active && !listeners.are_awaited() {
                place.change(|service| service.answered = true);
                has_begun = has_begun || orders.try_send(Order::Begin).is_ok();
            }
        };
        // Whoever takes this one's place may need the ports.
        listeners.tasks.shutdown().await;
        ended
    }

    fn setup(self, reaper: Reaper, lines: LineSink) -> Setup {
        let host = gethostname().unwrap_or_default();
        let tasks = self.tasks;
        let launcher: Launcher =
            Arc::new(move |words| tasks.spec(words).map(|(spec, is_engine)| Launch { spec, is_engine }));
        Setup {
            database: self.database,
            owner: format!("{:.60}-{}-{}", host.to_string_lossy(), std::process::id(), random::alphanumeric(8)),
            slots: self.slots,
            limits: self.limits,
            stop_timeout: self.limits.grace,
            launcher,
            reaper,
            lines,
        }
    }
}

/// The listeners are there while the queue is the active one, so that one that stands by leaves it the ports.
struct Listeners {
    places: Places,
    queue: Queue,
    tasks: JoinSet<()>,
    was_standby: bool,
    /// Until when the ports may be somebody else's. Set while they are.
    until: Option<Instant>,
}

impl Listeners {
    /// Whether the ports were taken, and are to be tried again.
    fn are_awaited(&self) -> bool {
        self.until.is_some()
    }

    async fn follow(&mut self, activity: Activity) -> Result<(), Taken> {
        match activity {
            Activity::Active if self.tasks.is_empty() => self.listen().await,
            Activity::Standby => {
                (self.was_standby, self.until) = (true, None);
                self.tasks.shutdown().await;
                Ok(())
            }
            Activity::Active => Ok(()),
            Activity::Starting | Activity::Unavailable => {
                self.until = None;
                Ok(())
            }
        }
    }

    async fn listen(&mut self) -> Result<(), Taken> {
        let until = *self.until.get_or_insert_with(|| Instant::now() + PORT_PATIENCE);
        let bound = match self.places.bind().await {
            Err(_) if self.was_standby && Instant::now() < until => return Ok(()),
            bound => bound?,
        };
        self.until = None;
        for (listener, token) in bound {
            self.tasks.spawn(serve(listener, self.queue.clone(), token));
        }
        info!("the job queue answers on port {}", self.places.port);
        if let Some((addr, _)) = &self.places.network {
            info!("the job queue answers other containers on {addr}");
        }
        Ok(())
    }
}

impl Places {
    async fn bind(&self) -> Result<Vec<(TcpListener, Option<SecretString>)>, Taken> {
        let taken = |on: String, error: &io::Error, place: &str| {
            let reason = match error.kind() {
                io::ErrorKind::AddrInUse => "another program listens there".to_owned(),
                _ => error.to_string(),
            };
            Taken(format!("cannot serve the job queue on {on}: {reason}; set {place}"))
        };
        let place = format!("[jobqueue] port in {}", self.file.display());
        let port = self.port;
        let local = bind_loopback(port).await.map_err(|error| taken(format!("port {port}"), &error, &place))?;
        let mut bound: Vec<_> = local.into_iter().map(|listener| (listener, None)).collect();
        if let Some((addr, token)) = &self.network {
            let listener =
                bind(*addr).await.map_err(|error| taken(addr.to_string(), &error, "BOTS_CTL_JOBQUEUE_ADDR"))?;
            bound.push((listener, token.clone()));
        }
        Ok(bound)
    }
}

/// Passes on that the queue is to stop: after the drain, and at once when asked again.
async fn pass_on(
    control: &mut mpsc::Receiver<Control>,
    orders: mpsc::Sender<Order>,
    drain: Duration,
    place: &Place,
    is_stopping: &mut bool,
) {
    asked_to_stop(control).await;
    *is_stopping = true;
    place.change(|service| service.phase = Phase::Draining);
    tokio::select! {
        () = sleep(drain) => {}
        () = asked_to_stop(control) => {}
    }
    loop {
        let _ = orders.send(Order::Stop).await;
        asked_to_stop(control).await;
    }
}

/// Takes down how the queue fares. One that stands by has done all that others have to wait for.
fn note(service: &mut Service, status: Status) {
    let oldest = status.oldest.filter(|_| status.waiting > 0).and_then(|oldest| u64::try_from(oldest).ok());
    service.jobs = Some(Jobs {
        waiting: status.waiting,
        running: status.running,
        oldest: oldest.map(|oldest| UNIX_EPOCH + Duration::from_millis(oldest)),
        done: status.done,
        failed: status.failed,
        repeated: status.repeated,
    });
    service.answered |= status.activity == Activity::Standby;
    service.misses = u32::from(status.activity == Activity::Unavailable);
    if service.phase == Phase::Draining {
        return;
    }
    service.phase = match status.activity {
        Activity::Starting => Phase::Starting,
        Activity::Standby => Phase::Standby,
        Activity::Active | Activity::Unavailable => Phase::Running,
    };
    if status.activity == Activity::Standby {
        service.jobs = None;
    }
}
