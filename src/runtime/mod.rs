//! Behind the commands that run services: which services run, how they start, are reconfigured, and stop.

pub(crate) mod bots_environment;
pub(crate) mod channel_check;
pub(crate) mod config_check;
pub(crate) mod config_inputs;
pub(crate) mod config_reload;
pub(crate) mod dirmonitor_dry_run;
pub(crate) mod dirmonitor_service;
pub(crate) mod dry_run;
pub(crate) mod effective_settings;
pub(crate) mod engine;
mod errors;
pub(crate) mod exec;
pub(crate) mod init_db;
pub(crate) mod jobqueue_service;
pub(crate) mod prepare;
pub(crate) mod relay;
pub(crate) mod reload_request;
pub(crate) mod reload_state;
pub(crate) mod reload_trial;
pub(crate) mod serve;
pub(crate) mod service_spec;
pub(crate) mod service_start;
pub(crate) mod session;
pub(crate) mod watch_targets;
mod web_instances;
