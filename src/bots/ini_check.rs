//! Checks values of bots.ini on which a program of Bots would fail, or which it would silently misinterpret.

use std::path::Path;

use crate::model::BotsVersion;
use crate::pycompat::configparser::{BotsIni, IniValue, parse_boolean, parse_integer};

/// How Bots parses a value.
#[derive(Clone, Copy)]
enum Kind {
    Integer,
    Boolean,
    Port,
    /// The name of a level, in capitals.
    Level,
    /// A number, or `daily` in Bots 3.
    LogFiles,
    /// Whether a menu lists all routes.
    Menu,
    /// A directory or a file.
    Path,
}

use Kind::{Boolean, Integer, Level, LogFiles, Menu, Path as File, Port};

/// Bots's default of `[settings] port`, which engines use as a lock.
pub const ENGINE_PORT: u16 = 28081;

/// Bots's default of `[jobqueue] port`.
pub const QUEUE_PORT: u16 = 28082;

/// Sections whose programs log.
const LOGGING: &[&str] = &["settings", "webserver", "jobqueue", "dirmonitor"];

/// Every value that Bots 3.3.1 or 4 converts: the sections, the parser, the keys.
const VALUES: &[(&[&str], Kind, &[&str])] = &[
    (&["settings", "webserver", "jobqueue"], Port, &["port"]),
    (
        &["settings"],
        Integer,
        &[
            "maxdays",
            "maxdaysarchive",
            "maxdayspersist",
            "hoursrunwithoutresultiskept",
            "maxruntime",
            "limit",
            "maxfilesizeincoming",
            "maxsecondsperchannel",
            "maxconnectiontries",
            "max_number_errors",
            "globaltimeout",
            "get_checklevel",
            "ftptimeout",
            "ftpdebug",
            "httpdebug",
            "imap4debug",
            "pop3debug",
            "smtpdebug",
        ],
    ),
    (
        &["settings"],
        Boolean,
        &[
            "archiveexternalname",
            "archivezip",
            "codelists_in_plugin",
            "compatibility_mailbag",
            "debug",
            "interchangecontrolperpartner",
            "mappingdebug",
            "multiplevaluesasterisk",
            "readrecorddebug",
            "sendreportiferror",
            "sendreportifprocesserror",
        ],
    ),
    (LOGGING, Boolean, &["log_console"]),
    (LOGGING, Level, &["log_level", "log_file_level", "log_console_level"]),
    (LOGGING, LogFiles, &["log_file_number"]),
    (
        &["webserver"],
        Boolean,
        &[
            "bots_touchscreen",
            "log_cherrypy_access",
            "menu_automaticretrycommunication",
            "menu_changepassword",
            "menu_cleanup",
            "use_email_address_validation",
            "validate_email_address",
        ],
    ),
    (&["webserver"], Integer, &["max_src_size"]),
    (&["webserver"], Menu, &["menu_all_routes"]),
    (&["webserver"], File, &["ssl_certificate", "ssl_private_key"]),
    (&["jobqueue"], Boolean, &["enabled", "killjobsintimeout"]),
    (&["jobqueue"], Integer, &["lauchfrequency", "nr_threads"]),
    (&["acceptance"], Boolean, &["runacceptancetest"]),
    (&["directories"], File, &["botssys", "usersys", "data", "logging", "users"]),
];

/// The sections that Bots needs, and the key without a default, with an example of its value.
struct Needs {
    sections: &'static [&'static str],
    section: &'static str,
    key: &'static str,
    example: &'static str,
}

impl Needs {
    const fn of(version: BotsVersion) -> Self {
        match version {
            BotsVersion::V3 => Self {
                sections: &["settings", "directories", "charsets"],
                section: "settings",
                key: "log_file_number",
                example: "10",
            },
            BotsVersion::V4 => Self {
                sections: &["settings", "dirmonitor", "directories", "charsets"],
                section: "webserver",
                key: "menu_all_routes",
                example: "notindefaultrun",
            },
        }
    }
}

/// All errors of a bots.ini, with their lines.
pub fn faults(path: &Path, ini: &BotsIni, version: BotsVersion) -> Vec<String> {
    let file = path.display();
    let Needs { sections, section, key, example } = Needs::of(version);
    let missing = sections.iter().filter(|name| !ini.has_section(name));
    let mut faults: Vec<String> =
        missing.map(|name| format!("{file}: section [{name}] is missing; Bots needs it")).collect();
    if ini.get(section, key).is_none() {
        faults.push(format!("{file}: [{section}] {key} is missing; Bots needs it: {key} = {example}"));
    }
    let fault = |section: &str, key: &str, entry: IniValue<'_>, problem: &str| {
        format!("{file}:{}: [{section}] {key} = {}: {problem}", entry.line, entry.value)
    };
    let usersys = ini.get("directories", "usersys").filter(|entry| entry.value.starts_with('/'));
    if let Some(entry) = usersys.filter(|_| version == BotsVersion::V3) {
        let problem = "this version of Bots cannot import an absolute path; write usersys = usersys";
        faults.push(fault("directories", "usersys", entry, problem));
    }
    for (sections, kind, keys) in VALUES {
        for (section, key) in sections.iter().flat_map(|section| keys.iter().map(move |key| (section, key))) {
            let entry = ini.get(section, key);
            let problem = entry.and_then(|entry| Some((entry, kind.problem(entry.value, version)?)));
            faults.extend(problem.map(|(entry, problem)| fault(section, key, entry, &problem)));
        }
    }
    faults.extend(shared_port(ini).map(|(section, entry)| {
        let problem = "engines use [settings] port as a lock and the job queue listens on [jobqueue] port, so no engine \
                       could run beside the job queue; set two different ports";
        fault(section, "port", entry, problem)
    }));
    faults
}

/// The port of the engines if an enabled job queue has the same one.
fn shared_port(ini: &BotsIni) -> Option<(&'static str, IniValue<'_>)> {
    ini.get("jobqueue", "enabled").filter(|entry| parse_boolean(entry.value) == Some(true))?;
    let [engine, queue] = ["settings", "jobqueue"].map(|section| ini.get(section, "port"));
    let number = |entry: Option<IniValue<'_>>, default: u16| match entry {
        Some(entry) => parse_integer(entry.value),
        None => Some(default.into()),
    };
    (number(engine, ENGINE_PORT)? == number(queue, QUEUE_PORT)?).then_some(())?;
    engine.map(|entry| ("settings", entry)).or(queue.map(|entry| ("jobqueue", entry)))
}

impl Kind {
    /// The error of a value, with the expected form.
    fn problem(self, value: &str, version: BotsVersion) -> Option<String> {
        let is_integer = parse_integer(value).is_some();
        let (is_valid, expected) = match self {
            Integer => (is_integer, "expected a whole number".to_owned()),
            Boolean => (parse_boolean(value).is_some(), "expected True or False".to_owned()),
            Port => {
                let is_port = parse_integer(value).is_some_and(|port| (1..=65535).contains(&port));
                (is_port, "expected a port number from 1 to 65535".to_owned())
            }
            Level => {
                let levels = levels(version);
                (levels.contains(&value), format!("expected one of {}", levels.join(", ")))
            }
            LogFiles if version == BotsVersion::V3 => {
                (is_integer || value == "daily", "expected a whole number or daily".to_owned())
            }
            LogFiles => (is_integer, "expected a whole number".to_owned()),
            Menu => (
                parse_boolean(value).is_some() || value == "notindefaultrun",
                "expected True, False or notindefaultrun".to_owned(),
            ),
            File => (!is_windows_path(value), "this is a Windows path; use a path of this machine".to_owned()),
        };
        (!is_valid).then_some(expected)
    }
}

/// A Windows drive or share, which would become a directory of that name.
pub fn is_windows_path(value: &str) -> bool {
    let bytes = value.as_bytes();
    let has_drive = bytes.first().is_some_and(u8::is_ascii_alphabetic) && bytes.get(1) == Some(&b':');
    has_drive || value.contains('\\')
}

fn levels(version: BotsVersion) -> &'static [&'static str] {
    match version {
        BotsVersion::V3 => &["DEBUG", "INFO", "STARTINFO", "WARNING", "ERROR", "CRITICAL"],
        BotsVersion::V4 => &[
            "NOTSET",
            "DEBUG",
            "STDOUT",
            "STDERR",
            "INFO",
            "START",
            "DONE",
            "STARTINFO",
            "WARN",
            "WARNING",
            "ERROR",
            "FATAL",
            "CRITICAL",
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: &str = "[settings]\nlog_file_number = 10\n[webserver]\nmenu_all_routes = notindefaultrun\n\
                         [dirmonitor]\n[directories]\n[charsets]\n";

    fn check(text: &str, version: BotsVersion) -> Vec<String> {
        faults(Path::new("bots.ini"), &BotsIni::parse(text).expect("it can be read"), version)
    }

    #[test]
    fn valid_file_has_no_errors() {
        for version in [BotsVersion::V3, BotsVersion::V4] {
            assert_eq!(check(SOUND, version), [""; 0]);
        }
    }

    #[test]
    fn every_value_that_bots_converts_is_checked() {
        for (sections, kind, keys) in VALUES {
            for (section, key) in sections.iter().flat_map(|section| keys.iter().map(move |key| (section, key))) {
                let value = if matches!(kind, File) { r"C:\Users\me" } else { "thirty" };
                let text = format!("{SOUND}[DEFAULT]\n[custom]\n");
                let ini = BotsIni::parse(&text).expect("it can be read");
                let text = match ini.get(section, key) {
                    Some(entry) => text.replace(&format!("{key} = {}", entry.value), &format!("{key} = {value}")),
                    None if ini.has_section(section) => {
                        text.replace(&format!("[{section}]\n"), &format!("[{section}]\n{key} = {value}\n"))
                    }
                    None => format!("{text}[{section}]\n{key} = {value}\n"),
                };
                let expected = format!("[{section}] {key} = {value}: ");
                let found = check(&text, BotsVersion::V3);
                assert!(found.len() == 1 && found[0].contains(&expected), "{text}: {found:?}");
            }
        }
    }

    #[test]
    fn engines_and_enabled_queue_need_two_ports() {
        let with = |settings: &str, queue: &str| {
            check(
                &format!("{SOUND}[jobqueue]\n{queue}\n").replace("[settings]\n", &format!("[settings]\n{settings}\n")),
                BotsVersion::V4,
            )
        };
        for (settings, queue, words) in [
            ("port = 28082", "enabled = True", "[settings] port = 28082: engines use"),
            ("port = 1", "enabled = True\nport = 1", "[settings] port = 1: engines use"),
            ("", "enabled = True\nport = 28081", "[jobqueue] port = 28081: engines use"),
        ] {
            let found = with(settings, queue);
            assert!(found.len() == 1 && found[0].contains(words), "{found:?}");
        }
        for (settings, queue) in [
            ("port = 28082", "enabled = False"),
            ("port = 28082", ""),
            ("", "enabled = True"),
            ("port = x", "enabled = True\nport = y"),
        ] {
            assert!(!with(settings, queue).iter().any(|fault| fault.contains("engines use")), "{settings} {queue}");
        }
    }

    #[test]
    fn log_levels_and_counts_are_checked_per_version() {
        let text = SOUND.replace("number = 10", "number = daily\nlog_level = STDERR");
        assert_eq!(check(&text, BotsVersion::V3).len(), 1);
        assert_eq!(check(&text, BotsVersion::V4).len(), 1);
        assert!(check(&text, BotsVersion::V3)[0].contains("log_level"));
        assert!(check(&text, BotsVersion::V4)[0].contains("log_file_number"));
    }
}
