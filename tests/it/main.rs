//! Black-box tests: the built binary, with real Bots, real SQLite and a real browser.
//!
//! One module per theme. `BOTS_BIN_DIR` points them at any installed Bots, `BOTS_CTL_BIN` at any build of bots-ctl.
#![allow(clippy::disallowed_methods, reason = "tests wait for the processes they start themselves")]
#![allow(clippy::unwrap_used, missing_docs)]

#[macro_use]
extern crate macro_rules_attribute;

#[macro_use]
mod harness;

mod bad_input;
mod bots_ini;
mod complete_files;
mod components;
mod concurrent_init_db;
mod config_map;
mod configuration;
mod control;
mod dirmonitor;
mod documentation;
mod documentation_tools;
mod documented_commands;
mod durability;
mod endurance;
mod engine;
mod engine_starts;
mod environment;
mod faults;
mod file_habits;
mod files;
mod fnmatch;
mod foreign_engines;
mod fuzzing;
mod health;
mod image;
mod init;
mod init_db;
mod init_db_adoption;
mod init_db_repair;
mod init_db_servers;
mod init_db_warnings;
mod install;
mod instructions;
mod job_backends;
mod job_clients;
mod job_wire;
mod jobqueue;
mod jobs;
mod layout;
mod lease;
mod lease_network;
mod listings;
mod log_ids;
mod manifests;
mod measurements;
mod metrics;
mod monitoring;
mod output;
mod overlap;
mod plugins;
mod problems;
mod process;
mod reaping;
mod recovery;
mod relay;
mod reload;
mod results;
mod secrets;
mod status_page;
mod stop;
mod supervision;
mod support;
mod terminal;
mod up;
mod verdicts;
mod warm_engines;
mod watch;
mod webserver;
mod workloads;
mod xmlrpc;

fn main() -> std::process::ExitCode {
    harness::main()
}
