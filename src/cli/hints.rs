//! Errors of the command line: the reason on one line, with the intended flag or command.

use std::ffi::{OsStr, OsString};

use clap::Command;
use clap::error::{ContextKind, ContextValue};

/// Words that are not commands, with a hint for each.
pub(super) const OTHER_WORDS: [(&[&str], &str); 16] = [
    (&["ps", "top", "ls", "list", "services", "info"], "bots-ctl status shows the services"),
    (&["route", "routes"], "bots-ctl status shows the routes, and bots-ctl engine ROUTE runs one"),
    (&["run", "translate"], "bots-ctl engine runs the engine once, and bots-ctl up all services"),
    (
        &["start", "serve", "server", "daemon", "all"],
        "bots-ctl up runs all services, and bots-ctl webserver the web UI alone",
    ),
    (&["web", "webui", "ui", "gui", "bots-webserver"], "bots-ctl webserver runs the web UI"),
    (&["stop", "down", "kill", "quit", "exit"], "Ctrl-C or SIGTERM stops bots-ctl and its services"),
    (
        &["log", "logs", "tail"],
        "bots-ctl and its services log to standard error; journalctl, docker logs or kubectl logs show it",
    ),
    (
        &["migrate", "db", "database", "syncdb", "updatedb", "setup", "init"],
        "bots-ctl init-db creates or completes the database",
    ),
    (&["createsuperuser", "user", "password"], "bots-ctl init-db --superuser creates the web user"),
    (
        &["queue", "jobs", "job2queue", "bots-job2queue"],
        "bots-ctl job adds and lists jobs, and bots-ctl jobqueue runs the queue",
    ),
    (&["monitor", "watch", "bots-dirmonitor"], "bots-ctl dirmonitor runs the directory monitor"),
    (
        &["health", "check", "probe", "ping", "ready", "live"],
        "bots-ctl healthcheck queries the health listener, and bots-ctl config check checks the configuration",
    ),
    (
        &["settings", "env", "get", "show", "validate"],
        "bots-ctl config show shows the settings, and bots-ctl config check checks them",
    ),
    (&["file", "errors", "failures"], "bots-ctl files --errors lists files with errors"),
    (
        &["manage", "manage.py", "django", "django-admin", "python"],
        "bots-ctl shell -c 'python -m django …' runs a command of Django",
    ),
    (&["man", "manual", "docs", "usage", "-?"], "bots-ctl help COMMAND shows the help of a command"),
];

/// Flags of other programs: the commands after which they are typed (empty: any command), the flags, and the hint.
pub(super) const OTHER_FLAGS: [(&[&str], &[&str], &str); 29] = [
    (&["status"], &["-w", "-f", "--follow", "-F", "--live"], "use --watch"),
    (&["status"], &["-n", "--every", "--refresh"], "use --watch --interval"),
    (&["status"], &["-q", "--exit-code"], "use --check"),
    (&["webserver", "up"], &["-p", "-P", "--http-port", "--web-port"], "use --port"),
    (
        &["webserver", "up"],
        &["--host", "--bind", "--address", "--listen"],
        "the web UI listens on all addresses; --health-addr is for the health listener",
    ),
    (
        &["webserver", "up", "jobqueue", "dirmonitor"],
        &["--health", "--health-port", "--health-address", "--admin-port"],
        "use --health-addr",
    ),
    (
        &["webserver", "up", "jobqueue", "dirmonitor"],
        &["-d", "--daemon", "--detach", "-D", "--background"],
        "leave it out: bots-ctl stays in the foreground, for a service manager such as systemd",
    ),
    (&["up"], &["-s", "--service", "--only"], "use --services"),
    (&["init-db"], &["-n", "--dry-run", "--plan", "--diff"], "use --check"),
    (&["plugin apply", "plugin undo"], &["-n", "--dry-run", "--plan", "--diff"], "use --check"),
    (&["init-db"], &["--timeout", "-w", "-t"], "use --wait"),
    (
        &["init-db"],
        &["-y", "--yes", "--noinput", "--no-input", "-f", "--force"],
        "leave it out: init-db asks no question",
    ),
    (&["init-db"], &["--user", "--admin", "--createsuperuser", "--create-superuser"], "use --superuser"),
    (
        &["dirmonitor", "webserver", "jobqueue", "up"],
        &["--reload", "--restart"],
        "use bots-ctl reload, or bots-ctl restart SERVICE",
    ),
    (&["dirmonitor"], &["-n", "--check", "--plan"], "use --dry-run"),
    (&["install"], &["--driver", "--drivers", "--db", "--database", "--extra", "--extras"], "use --with"),
    (&["install"], &["--path", "--source", "--wheel", "-f", "-e"], "use --from"),
    (&["install"], &["--dir", "--target", "--prefix", "--venv", "-t"], "set BOTS_CTL_INSTALL_DIR"),
    (&["healthcheck"], &["-q", "-s", "--silent"], "use --quiet"),
    (
        &["healthcheck"],
        &["--live", "--ready", "--startup", "--type", "--probe", "-c"],
        "use --check live, --check ready or --check startup",
    ),
    (&["engine"], &["-r", "--route", "--routes"], "give only the name of the route, as in bots-ctl engine ROUTE"),
    (&["engine"], &["-a", "--all"], "leave it out: without a route, all active ones run"),
    (&["engine"], &["-w", "--wait", "--timeout"], "use --lease-wait"),
    (&["job add"], &["-w", "--follow", "-f"], "use --wait"),
    (&["job list"], &["-a", "--history"], "use --all"),
    (&["files"], &["-e", "--failed", "--error"], "use --errors"),
    (&["files"], &["-n", "--count", "--last", "--max"], "use --limit"),
    (&[], &["-j", "-o", "--output", "--format"], "use --json, or LOG_FORMAT=json for the log"),
    (&[], &["-v", "-vv", "--verbose", "--debug", "-d"], "use --log-level debug"),
];

/// The reason, the suggestion and the command whose help has the rest; without the usage that clap repeats each time.
#[must_use]
pub fn usage_message(error: &clap::Error, args: &[OsString], root: &Command) -> String {
    let command = subcommand(args, root);
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let said = text.split("\n\nUsage:").next().unwrap_or(text).split("\n\nFor more").next().unwrap_or(text);
    let lines = said.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("tip: to pass"));
    let mut parts: Vec<String> = lines.map(|line| line.strip_prefix("tip: ").unwrap_or(line).to_owned()).collect();
    if let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg)
        && let Some(advice) = advice(&command, flag)
    {
        parts.truncate(1);
        parts.push(advice.to_owned());
    }
    let help = if command.is_empty() { "bots-ctl --help".to_owned() } else { format!("bots-ctl {command} --help") };
    format!("{}; see {help}", parts.join("; ").replace(":; ", ": "))
}

fn advice(command: &str, flag: &str) -> Option<&'static str> {
    let is_meant = |(commands, flags, _): &&(&[&str], &[&str], &str)| {
        flags.contains(&flag) && (commands.is_empty() || commands.contains(&command))
    };
    OTHER_FLAGS.iter().find(is_meant).map(|(.., advice)| *advice)
}

/// The words of a command line that name its command, such as `job add`.
fn subcommand(args: &[OsString], root: &Command) -> String {
    let (mut command, mut names) = (root, Vec::new());
    let words = args.iter().skip(1).filter_map(|word| word.to_str()).filter(|word| !word.starts_with('-'));
    for word in words {
        match command.find_subcommand(word) {
            Some(below) => {
                names.push(below.get_name().to_owned());
                command = below;
            }
            None if names.is_empty() => {}
            None => break,
        }
    }
    names.join(" ")
}

/// The hint for a first word that is not a command: the intended command, and how `exec` runs a program of that name. `nearest`
/// finds a similar word.
#[must_use]
pub fn unknown_command(word: &OsStr, root: &Command, nearest: impl Fn(&str, &[String]) -> Option<String>) -> String {
    let word = word.to_string_lossy();
    let names: Vec<String> = root.get_subcommands().flat_map(names).collect();
    let known = OTHER_WORDS.iter().find(|(words, _)| words.contains(&word.as_ref()));
    match (known, nearest(&word, &names)) {
        (Some((_, advice)), _) => (*advice).to_owned(),
        (None, Some(near)) => format!("did you mean {near}?"),
        (None, None) => "bots-ctl --help lists the commands".to_owned(),
    }
}

fn names(command: &Command) -> Vec<String> {
    std::iter::once(command.get_name()).chain(command.get_all_aliases()).map(str::to_owned).collect()
}
