//! The inputs of every process of Bots.

use super::Installation;
use super::child_env::ChildEnv;
use super::environment::Environment;
use crate::process::reaper::Reaper;

/// The inputs of every process of Bots.
#[derive(Clone, Copy)]
pub struct BotsContext<'a> {
    /// Starts Python.
    pub reaper: &'a Reaper,
    /// Which Bots.
    pub bots: &'a Installation,
    /// Which environment.
    pub environment: &'a Environment,
    /// Variables that the services get.
    pub variables: &'a ChildEnv,
}
