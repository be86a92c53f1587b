//! The services of Bots as data: program, arguments, environment, stop signal, liveness probe.

use std::ffi::{OsStr, OsString};

use nix::libc;

use super::context::BotsContext;
use super::django_settings::DjangoSettings;
use super::engine_shim;
use super::jobqueue_config::BotsJobQueueIni;
use crate::model::{LivenessProbe, ServiceName};
use crate::process::child::ProcessSpec;

/// A service as bots-ctl runs it.
#[derive(Clone)]
pub struct BotsServiceSpec {
    /// Its name.
    pub name: ServiceName,
    /// How to start it.
    pub spec: ProcessSpec,
    /// The stop signal; `None` for the engine, which finishes its run.
    pub stop_signal: Option<i32>,
    /// The liveness probe; `None` for a process that exits on its own.
    pub probe: Option<LivenessProbe>,
}

impl BotsContext<'_> {
    /// The web UI. SIGINT lets it finish its requests; SIGTERM would interrupt them. The probed path, a static file,
    /// does not need the database.
    pub fn webserver(&self, django: &DjangoSettings, args: &[OsString]) -> BotsServiceSpec {
        let path = format!("/{}/", django.static_url.trim_matches('/'));
        let probe =
            LivenessProbe::Http { port: django.web_port, path, page: django.login.clone(), tls: django.web_https };
        self.service(ServiceName::Webserver, "bots-webserver", args, libc::SIGINT, probe)
    }

    /// Bots's own job queue. SIGTERM stops it at once; SIGINT would close its port and leave it running (3.3.1). An
    /// engine that it has started keeps running in its group, and is waited for.
    pub fn jobqueue(&self, queue: &BotsJobQueueIni, args: &[OsString]) -> BotsServiceSpec {
        let probe = LivenessProbe::JobQueue { port: queue.port };
        self.service(ServiceName::Jobqueue, "bots-jobqueueserver", args, libc::SIGTERM, probe)
    }

    /// Bots's own directory monitor, which has no work to finish.
    pub fn dirmonitor(&self, args: &[OsString]) -> BotsServiceSpec {
        self.service(ServiceName::Dirmonitor, "bots-dirmonitor", args, libc::SIGTERM, LivenessProbe::Inotify)
    }

    /// One run of Bots's engine. No signal stops it gracefully: after SIGINT it drops the received files, after SIGTERM
    /// the next run has to recover it.
    pub fn engine(&self, args: &[OsString]) -> BotsServiceSpec {
        let mut spec = self.spec(&self.bots.program(engine_shim::NAME), args);
        spec.environment.push((engine_shim::HOLDS_LEASE.to_owned(), "1".into()));
        BotsServiceSpec { name: ServiceName::Engine, spec, stop_signal: None, probe: None }
    }

    /// A process that has imported the modules of the engine, and forks for each run.
    pub fn engine_host(&self) -> ProcessSpec {
        let script = engine_shim::directory(&self.environment.root).join(engine_shim::HOST);
        let mut spec = ProcessSpec::new(&self.bots.python).arg(script).arg(&self.bots.bin_dir);
        spec.directory = Some(self.environment.root.clone());
        spec = self.variables.apply(spec);
        spec.environment.push((engine_shim::HOLDS_LEASE.to_owned(), "1".into()));
        spec
    }

    /// One run of the engine through the link, as programs other than bots-ctl start it.
    pub fn engine_via_shim(&self, args: &[OsString]) -> BotsServiceSpec {
        let link = engine_shim::directory(&self.environment.root).join(engine_shim::NAME);
        BotsServiceSpec { spec: self.spec(link.as_os_str(), args), ..self.engine(args) }
    }

    fn service(
        &self,
        name: ServiceName,
        program: &str,
        args: &[OsString],
        stop_signal: i32,
        probe: LivenessProbe,
    ) -> BotsServiceSpec {
        let spec = self.spec(&self.bots.program(program), args);
        BotsServiceSpec { name, spec, stop_signal: Some(stop_signal), probe: Some(probe) }
    }

    fn spec(&self, program: &OsStr, args: &[OsString]) -> ProcessSpec {
        let mut config_dir = OsString::from("-c");
        config_dir.push(&self.environment.config);
        let mut spec = ProcessSpec::new(program).arg(config_dir);
        spec.args.extend_from_slice(args);
        spec.directory = Some(self.environment.root.clone());
        self.variables.apply(spec)
    }
}
