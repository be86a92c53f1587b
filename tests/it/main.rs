//! Black-box tests: the built binary, with real Bots, real SQLite and a real browser.
//!
//! One module per theme. `BOTS_BIN_DIR` points them at any installed Bots, `BOTS_CTL_BIN` at any build of bots-ctl.
#![allow(clippy::disallowed_methods, reason = "tests wait for the processes they start themselves")]
#![allow(clippy::unwrap_used, missing_docs)]

mod bad_input;
mod bots_ini;
mod browser;
mod cluster;
mod config_map;
mod configuration;
mod demo;
mod dirmonitor;
mod endurance;
mod engine;
mod environment;
mod fnmatch;
mod health;
mod image;
mod init;
mod init_db;
mod init_db_adoption;
mod init_db_crowd;
mod init_db_repair;
mod init_db_servers;
mod install;
mod interruption;
mod job_backends;
mod job_clients;
mod job_wire;
mod jobqueue;
mod jobs;
mod kustomize;
mod layout;
mod lease;
mod lease_network;
mod manifests;
mod output;
mod overlap;
mod podman;
mod pods;
mod process;
mod proxy;
mod reaping;
mod relay;
mod results;
mod sandbox;
mod schema;
mod servers;
mod status_page;
mod stop;
mod supervision;
mod terminal;
mod up;
mod watch;
mod webserver;
mod workloads;
