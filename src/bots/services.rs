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
    /// The signal that makes it stop in order; none for the engine, which is let finish.
    pub stop_signal: Option<i32>,
    /// Its liveness probe; none for a process that ends by itself.
    pub probe: Option<LivenessProbe>,
}

impl BotsContext<'_> {
    /// The web UI. SIGINT makes it finish the requests it has; SIGTERM would cut them. The path of its probe needs no database: a
    /// static file, served beside Django.
    pub fn webserver(&self, django: &DjangoSettings, args: &[OsString]) -> BotsServiceSpec {
        let path = format!("/{}/", django.static_url.trim_matches('/'));
        let probe =
            LivenessProbe::Http { port: django.web_port, path, page: django.login.clone(), tls: django.web_https };
        self.service(ServiceName::Webserver, "bots-webserver", args, libc::SIGINT, probe)
    }

    /// Bots's own job queue. SIGTERM ends it at once; SIGINT would close its port and leave it running (3.3.1). An
    /// engine that it has started goes on in its group, and is waited for.
    pub fn jobqueue(&self, queue: &BotsJobQueueIni, args: &[OsString]) -> BotsServiceSpec {
        let probe = LivenessProbe::JobQueue { port: queue.port };
        self.service(ServiceName::Jobqueue, "bots-jobqueueserver", args, libc::SIGTERM, probe)
    }

    /// Bots's own directory monitor, which has nothing to finish.
    pub fn dirmonitor(&self, args: &[OsString]) -> BotsServiceSpec {
        self.service(ServiceName::Dirmonitor, "bots-dirmonitor", args, libc::SIGTERM, LivenessProbe::Inotify)
    }

    /// One run of Bots's engine. No signal stops it in order: SIGINT makes it drop the files it has taken, SIGTERM leaves
    /// a crash for the next run to recover.
    pub fn engine(&self, args: &[OsString]) -> BotsServiceSpec {
        let mut spec = self.spec(&self.bots.program(engine_shim::NAME), args);
        spec.environment.push((engine_shim::HOLDS_LEASE.to_owned(), "1".into()));
        BotsServiceSpec { name: ServiceName::Engine, spec, stop_signal: None, probe: None }
    }

    /// One run of the engine as programs other than bots-ctl start it: through its link.
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
