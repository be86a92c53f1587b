//! One parser per kind of value. Errors state the expected form.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use secrecy::SecretString;
use serde_json::{Map, Value};

use crate::model::{Endpoint, ServiceName};

/// The result of a parser; the error completes the sentence "NAME is invalid: …".
pub type ParseResult<T> = Result<T, String>;

/// Any text.
pub fn text(value: &str) -> ParseResult<String> {
    Ok(value.to_owned())
}

/// Web origins as sent by browsers, comma-separated.
pub fn origins(value: &str) -> ParseResult<String> {
    let is_origin =
        |part: &str| part.split_once("://").is_some_and(|(scheme, host)| scheme.len() > 3 && !host.is_empty());
    match value.split(',').map(str::trim).find(|part| !part.is_empty() && !is_origin(part)) {
        Some(part) => Err(format!("{part} has no scheme, so Django would reject every login: use https://{part}")),
        None => text(value),
    }
}

/// A text that is never printed.
pub fn secret(value: &str) -> ParseResult<SecretString> {
    Ok(SecretString::from(value))
}

/// A secret that is sent in a header of HTTP.
pub fn token(value: &str) -> ParseResult<SecretString> {
    match value.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => secret(value),
        false => {
            Err("expected ASCII characters without spaces; `echo` appends a newline, `echo -n` does not".to_owned())
        }
    }
}

/// An absolute path, without trailing slashes (Bots 3.3.1 loses its `usersys` over one).
pub fn absolute_path(value: &str) -> ParseResult<PathBuf> {
    let trimmed = value.trim_end_matches('/');
    match value.starts_with('/') {
        true if trimmed.is_empty() => Ok(PathBuf::from("/")),
        true => Ok(PathBuf::from(trimmed)),
        false => Err("expected an absolute path".to_owned()),
    }
}

/// As [`absolute_path`], with links, `.` and `..` resolved, since Bots compares it with paths found by Python. Missing
/// components are kept.
pub fn resolved_path(value: &str) -> ParseResult<PathBuf> {
    let mut resolved = PathBuf::from("/");
    for part in absolute_path(value)?.components() {
        match part {
            Component::Normal(name) => resolved.push(name),
            Component::ParentDir => drop(resolved.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
        resolved = resolved.canonicalize().unwrap_or(resolved);
    }
    Ok(resolved)
}

/// A name of the time zone database, if the machine has one, or a POSIX rule such as `CET-1`.
pub fn time_zone(value: &str) -> ParseResult<String> {
    let zones = Path::new("/usr/share/zoneinfo");
    let zone = zones.join(value.strip_prefix(':').unwrap_or(value));
    let after_name = value.trim_start_matches(|c: char| c.is_ascii_alphabetic());
    let is_rule = after_name.len() < value.len() && after_name.starts_with(|c: char| "+-0123456789".contains(c));
    let is_text = |c: char| !c.is_whitespace() && !c.is_control();
    if value.chars().all(is_text) && (!zones.is_dir() || zone.is_file() || is_rule || value.starts_with('<')) {
        return Ok(value.to_owned());
    }
    Err("expected a time zone such as Europe/Berlin or UTC".to_owned())
}

/// A program: a name to look up on PATH, or a path.
pub fn program(value: &str) -> ParseResult<PathBuf> {
    match value.is_empty() {
        true => Err("expected a program name or path".to_owned()),
        false => Ok(PathBuf::from(value)),
    }
}

/// A name that is used as a single directory name.
pub fn directory_name(value: &str) -> ParseResult<String> {
    let safe = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-');
    if !value.is_empty() && value.chars().all(safe) && !value.starts_with('.') {
        return Ok(value.to_owned());
    }
    Err("expected a directory name of letters, digits, '.', '_' or '-' that does not begin with '.'".to_owned())
}

/// A boolean, in the spellings of configuration files and manifests.
pub fn boolean(value: &str) -> ParseResult<bool> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err("expected true or false".to_owned()),
    }
}

/// One of several words, case-insensitive.
pub fn choice<T: ValueEnum>(value: &str) -> ParseResult<T> {
    T::from_str(value, true).map_err(|_| {
        let words = T::value_variants().iter().filter_map(T::to_possible_value);
        let words: Vec<String> = words.map(|word| word.get_name().to_owned()).collect();
        let (last, others) = words.split_last().expect("there is more than one");
        format!("expected {} or {last}", others.join(", "))
    })
}

/// A TCP port.
pub fn port(value: &str) -> ParseResult<u16> {
    if value.starts_with("tcp://") {
        return Err("expected a port number; Kubernetes sets this variable for a Service of that name: \
                    set enableServiceLinks: false in the pod, or rename the Service"
            .to_owned());
    }
    match value.parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err("expected a port number from 1 to 65535".to_owned()),
    }
}

/// A listen address, `HOST:PORT`; port 0 selects a free port.
pub fn address(value: &str) -> ParseResult<SocketAddr> {
    const EXPECTED: &str = "expected ADDRESS:PORT, such as 0.0.0.0:9180 or [::]:9180";
    if let Ok(address) = value.parse() {
        return Ok(address);
    }
    // Other names are not resolved: that could be slow, and return another address later.
    let port = value.strip_prefix("localhost:").and_then(|port| port.parse::<u16>().ok());
    let resolved = port.and_then(|port| ("localhost", port).to_socket_addrs().ok()?.find(SocketAddr::is_ipv4));
    resolved.ok_or_else(|| EXPECTED.to_owned())
}

/// A duration: a number with `ms`, `s`, `m`, `h` or `d`; a bare number means seconds, as in Kubernetes.
pub fn duration(value: &str) -> ParseResult<Duration> {
    let week = Duration::from_secs(7 * 24 * 3600);
    span(value, week).ok_or_else(|| "expected a duration such as 500ms, 30s or 5m, of at most a week".to_owned())
}

/// An age: as [`duration`], but without the limit of a week.
pub fn age(value: &str) -> ParseResult<Duration> {
    let century = Duration::from_secs(100 * 366 * 24 * 3600);
    span(value, century).ok_or_else(|| "expected an age such as 30m, 12h or 7d".to_owned())
}

fn span(value: &str, longest: Duration) -> Option<Duration> {
    let digits = value.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(value.len());
    let (number, unit) = value.split_at(digits);
    let scale = match unit.trim() {
        "" | "s" => 1.0,
        "ms" => 0.001,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 24.0 * 3600.0,
        _ => return None,
    };
    let seconds = number.parse::<f64>().ok()? * scale;
    (seconds <= longest.as_secs_f64()).then(|| Duration::from_secs_f64(seconds))
}

/// A duration greater than zero.
pub fn interval(value: &str) -> ParseResult<Duration> {
    match duration(value)? {
        Duration::ZERO => Err("expected a duration longer than zero".to_owned()),
        interval => Ok(interval),
    }
}

/// A number of bytes, with the binary suffixes of Kubernetes.
pub fn size(value: &str) -> ParseResult<u64> {
    let digits = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
    let (number, suffix) = value.split_at(digits);
    let power = ["", "Ki", "Mi", "Gi", "Ti"].iter().position(|known| *known == suffix.trim());
    let scale = power.and_then(|power| 1024_u64.checked_pow(u32::try_from(power).ok()?));
    let size = scale.and_then(|scale| number.parse::<u64>().ok()?.checked_mul(scale));
    size.ok_or_else(|| "expected a size such as 64Mi or 2Gi, or a number of bytes".to_owned())
}

/// A non-negative number.
pub fn count(value: &str) -> ParseResult<u32> {
    value.parse().map_err(|_| "expected a whole number, such as 5".to_owned())
}

/// A positive number.
pub fn positive(value: &str) -> ParseResult<u32> {
    match count(value)? {
        0 => Err("expected a number of at least 1".to_owned()),
        number => Ok(number),
    }
}

/// Names of services, comma-separated; their order has no effect.
pub fn services(value: &str) -> ParseResult<Vec<ServiceName>> {
    const EXPECTED: &str = "expected some of webserver, jobqueue, dirmonitor and engine, separated by commas";
    let words = value.split(',').map(str::trim).filter(|word| !word.is_empty());
    match words.map(str::parse).collect::<Result<Vec<ServiceName>, _>>() {
        Ok(named) if !named.is_empty() => {
            Ok(ServiceName::ALL.into_iter().filter(|service| named.contains(service)).collect())
        }
        _ => Err(EXPECTED.to_owned()),
    }
}

/// A JSON object.
pub fn json_object(value: &str) -> ParseResult<Map<String, Value>> {
    serde_json::from_str(value).map_err(|_| "expected a JSON object, such as {\"sslmode\": \"require\"}".to_owned())
}

/// Exit codes, comma-separated.
pub fn exit_codes(value: &str) -> ParseResult<Vec<u8>> {
    let words = value.split(',').map(str::trim).filter(|word| !word.is_empty());
    let codes: Result<Vec<u8>, _> = words.map(str::parse).collect();
    codes.map_err(|_| "expected exit codes from 0 to 255, such as 2, separated by commas".to_owned())
}

/// `http://HOST:PORT`, with or without a path. The token is a separate setting.
pub fn queue_url(value: &str) -> ParseResult<Endpoint> {
    const EXPECTED: &str = "expected a URL such as http://bots-jobqueue:28083";
    let rest = value.strip_prefix("http://").ok_or(EXPECTED)?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (host, port) = authority.rsplit_once(':').ok_or(EXPECTED)?;
    let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '[' | ']' | ':');
    let is_path = |c: char| c.is_ascii_graphic() && !matches!(c, '?' | '#');
    if host.is_empty() || !host.chars().all(is_host) || !path.chars().all(is_path) {
        return Err(EXPECTED.to_owned());
    }
    self::port(port)?;
    Ok(Endpoint { authority: authority.to_owned(), path: format!("/{path}"), token: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LogFormat, LogLevel};
    use crate::model::RestartPolicy;

    #[test]
    fn sizes_accept_kubernetes_suffixes() {
        assert_eq!(["0", "17", "16Mi", "2 Gi"].map(size), [Ok(0), Ok(17), Ok(16 << 20), Ok(2 << 30)]);
        for wrong in ["", "Mi", "16M", "-1", "1.5Gi", "99999999999999999999", "99999999999Ti"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_accept_units_and_plain_seconds() {
        assert_eq!(duration("30"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "s", "-1s", "1w", "abc", "1.2.3", "1e9h", "99999h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert!(interval("0s").is_err());
    }

    #[test]
    fn choices_accept_any_case_and_aliases() {
        assert_eq!(choice("Critical"), Ok(LogLevel::Error));
        assert_eq!(choice::<RestartPolicy>("on-failure"), Ok(RestartPolicy::OnFailure));
        assert_eq!(choice::<LogFormat>("xml"), Err("expected auto, text or json".to_owned()));
    }

    #[test]
    fn port_error_explains_kubernetes_service_links() {
        assert_eq!(port("8080"), Ok(8080));
        assert!(port("0").is_err());
        assert!(port("70000").is_err());
        assert!(port("tcp://10.0.0.1:3306").is_err_and(|e| e.contains("enableServiceLinks")));
    }

    #[test]
    fn queue_url_requires_host_and_port() {
        let url = |text| queue_url(text).map(|url| (url.authority, url.path));
        assert_eq!(url("http://bots-jobqueue:28083"), Ok(("bots-jobqueue:28083".to_owned(), "/".to_owned())));
        assert_eq!(url("http://[::1]:1/RPC2"), Ok(("[::1]:1".to_owned(), "/RPC2".to_owned())));
        for wrong in
            ["", "queue:1", "https://queue:1", "http://queue", "http://:1", "http://user@queue:1", "http://q:0"]
        {
            assert!(queue_url(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn services_are_validated_and_sorted_by_start_order() {
        assert_eq!(services("webserver, jobqueue"), Ok(vec![ServiceName::Jobqueue, ServiceName::Webserver]));
        for wrong in ["", ",", "web", "webserver,web"] {
            assert!(services(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn paths_are_absolute_and_lose_trailing_slashes() {
        assert_eq!(absolute_path("/a/b//"), Ok(PathBuf::from("/a/b")));
        assert_eq!(absolute_path("/"), Ok(PathBuf::from("/")));
        assert!(absolute_path("config").is_err());
        assert!(absolute_path("").is_err());
    }

    #[test]
    fn environment_names_cannot_leave_their_directory() {
        assert!(directory_name("default-2.x").is_ok());
        for wrong in ["", "..", ".hidden", "a/b", "a b", "a\nb"] {
            assert!(directory_name(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn addresses_are_numeric_or_localhost() {
        assert_eq!(address("127.0.0.1:9180").map(|a| a.port()), Ok(9180));
        assert!(address("[::1]:9180").is_ok());
        assert!(address("localhost:9180").is_ok());
        for wrong in ["9180", "localhost:", "localhost:x:1", "localhost:1:2", "localhost.example.com:1"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }
}
