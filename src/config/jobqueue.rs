//! Which job queue runs, where it listens, and where it is when it is in another container.

use std::net::SocketAddr;

use secrecy::SecretString;

use super::keys;
use super::layers::LayeredConfig;
use crate::model::Endpoint;

/// The job queue.
#[derive(Debug, Clone)]
pub struct JobQueueConfig {
    /// Who does the work.
    pub backend: ServiceBackend,
    /// Where it listens beside loopback.
    pub addr: Option<SocketAddr>,
    /// What is to be shown there.
    pub token: Option<SecretString>,
    /// Where it is, with the token, when it is in another container.
    pub url: Option<Endpoint>,
}

/// Who does the work of the job queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceBackend {
    /// bots-ctl itself.
    Native,
    /// Bots's own server.
    Python,
}

impl JobQueueConfig {
    /// Where it listens beside loopback.
    ///
    /// # Errors
    /// For an address that anybody could use. Only who listens there asks: a program that is started below may see the
    /// address and not the token.
    pub fn guarded_addr(&self) -> Result<Option<SocketAddr>, String> {
        match self.addr {
            Some(addr) if !addr.ip().is_loopback() && self.token.is_none() => Err(format!(
                "BOTS_CTL_JOBQUEUE_ADDR={addr}: whoever reaches this address could run jobs; set \
                 BOTS_CTL_JOBQUEUE_TOKEN or BOTS_CTL_JOBQUEUE_TOKEN_FILE, or choose an address of loopback"
            )),
            addr => Ok(addr),
        }
    }
}

pub(super) fn read(reader: &mut LayeredConfig<'_>) -> JobQueueConfig {
    let backend = reader.get(&keys::JOBQUEUE_BACKEND);
    let addr = reader.optional(&keys::JOBQUEUE_ADDR);
    let token = reader.secret(&keys::JOBQUEUE_TOKEN);
    let url = reader.optional(&keys::JOBQUEUE_URL).map(|url| Endpoint { token: token.clone(), ..url });
    JobQueueConfig { backend, addr, token, url }
}
