//! The versions of Bots, Python and Django, as the installed packages give them; no environment is needed.

use serde::Deserialize;

use super::{Error, Installation};
use crate::process::capture::capture;
use crate::process::child::ProcessSpec;
use crate::process::reaper::Reaper;

const QUESTION: &str = "import json, platform, django
from bots import botsglobal
versions = {'bots': str(botsglobal.version), 'python': platform.python_version(), 'django': django.get_version()}
print(json.dumps(versions))";

/// The versions of an installation.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct InstalledVersions {
    pub bots: String,
    pub python: String,
    pub django: String,
}

impl Installation {
    /// Asks the installation for its versions.
    ///
    /// # Errors
    /// When Bots or Django cannot be imported, or no process can be started.
    pub async fn versions(&self, reaper: &Reaper) -> Result<InstalledVersions, Error> {
        let spec = ProcessSpec::new(&self.python).arg("-c").arg(QUESTION);
        let spec = ProcessSpec { directory: Some(self.bin_dir.clone()), ..spec };
        let reply = capture(reaper, &spec).await?;
        serde_json::from_slice(&reply.stdout).map_err(|_| {
            let reason = reply.stderr.trim().lines().last().unwrap_or("it printed no versions").to_owned();
            Error::fault(format!("cannot import Bots with {}: {reason}", self.python.display()))
        })
    }
}
