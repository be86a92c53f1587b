//! The last line of a start: where a user finds the web UI and the status, how to log in, and how to stop.

use std::io::{self, IsTerminal};
use std::path::Path;

use tokio::sync::watch;
use tokio::task::yield_now;
use tracing::info;

use crate::bots::django_settings::DjangoSettings;
use crate::bots::environment::Environment;
use crate::config::Config;
use crate::health::state::HealthState;
use crate::model::ServiceName;
use crate::process::memory;

use super::reload_trial::are_up;

/// Logs the summary when all services are up, and returns the memory of the start.
pub(crate) async fn log_when_up(summary: String, mut health: watch::Receiver<HealthState>) {
    let is_up = |health: &HealthState| !health.services.is_empty() && are_up(health);
    if health.wait_for(is_up).await.is_ok() {
        // The lines of the services, which the same change of health causes, come first.
        yield_now().await;
        info!("{summary}");
        memory::release_start();
    }
}

/// The summary of a start of these services.
pub(crate) fn summary(config: &Config, django: &DjangoSettings, services: &[&str]) -> String {
    let mut parts = Vec::new();
    if services.contains(&ServiceName::Webserver.as_str()) {
        let scheme = if django.web_https { "https" } else { "http" };
        let login = login(config, &Environment::paths(config).admin_password_file());
        parts.push(format!("web UI {scheme}://localhost:{}{login}", django.web_port));
    } else {
        parts.push(services.join(", "));
    }
    parts.push(match config.health.status_page {
        true => format!("status page http://localhost:{}/", config.health.addr.port()),
        false => "status by bots-ctl status".to_owned(),
    });
    parts.push(
        if io::stderr().is_terminal() { "Ctrl-C stops everything" } else { "SIGTERM stops everything" }.to_owned(),
    );
    format!("ready: {}", parts.join("; "))
}

/// The web user and the place of the password, where bots-ctl knows them.
fn login(config: &Config, password_file: &Path) -> String {
    let user = &config.superuser.username;
    match &config.superuser.password {
        Some(_) => format!(", user {user}, password as in SUPERUSER_PASSWORD"),
        None if password_file.is_file() => format!(", user {user}, password in {}", password_file.display()),
        None => String::new(),
    }
}
