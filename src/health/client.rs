//! The probe client: one blocking request to the local listener, with no runtime behind it.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::model::Check;

/// A kubelet waits one second by default; a person may wait a little longer.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Longer responses are not from bots-ctl.
const MAX_RESPONSE: u64 = 64 * 1024;

/// Of status: runs, routes, directories.
const MAX_STATUS: u64 = 4 * 1024 * 1024;

/// The response of the listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeReply {
    /// Whether the status was 200.
    pub healthy: bool,
    /// The JSON body.
    pub body: String,
}

/// Sends a probe to the listener of this machine.
///
/// # Errors
/// If there is no listener, it does not respond in time, or is not bots-ctl's.
pub fn query(addr: SocketAddr, check: Check) -> io::Result<ProbeReply> {
    get(addr, &format!("/health/{}", check.path()), "{\"status\"", MAX_RESPONSE)
}

/// Requests `/status` of the listener of this machine, and returns its JSON.
///
/// # Errors
/// As [`query`].
pub fn status(addr: SocketAddr) -> io::Result<String> {
    Ok(get(addr, "/status", "{\"version\"", MAX_STATUS)?.body)
}

fn get(addr: SocketAddr, path: &str, begins: &str, longest: u64) -> io::Result<ProbeReply> {
    let mut stream = TcpStream::connect_timeout(&local(addr), TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").as_bytes())?;
    let mut response = String::new();
    stream.take(longest).read_to_string(&mut response)?;
    parse(&response, begins)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the server on that address is not bots-ctl"))
}

/// The local address of a listener on `addr`.
fn local(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, addr.port())
}

fn parse(response: &str, begins: &str) -> Option<ProbeReply> {
    let (head, body) = response.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?;
    let ours = body.starts_with(begins) && ["200", "503"].contains(&status);
    ours.then(|| ProbeReply { healthy: status == "200", body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_accepts_only_responses_of_bots_ctl() {
        let parse = |response| parse(response, "{\"status\"");
        let ours = "HTTP/1.1 503 Service Unavailable\r\nx: y\r\n\r\n{\"status\":\"not_ready\"}";
        assert_eq!(parse(ours).map(|a| a.healthy), Some(false));
        assert_eq!(parse("HTTP/1.1 200 OK\r\n\r\n<html>"), None);
        assert_eq!(parse("HTTP/1.1 404 Not Found\r\n\r\n{\"status\":1}"), None);
        assert_eq!(parse("SSH-2.0"), None);
    }

    #[test]
    fn wildcard_address_maps_to_loopback() {
        let at = |text: &str| local(text.parse().expect("an address")).to_string();
        assert_eq!(at("0.0.0.0:9180"), "127.0.0.1:9180");
        assert_eq!(at("[::]:9180"), "[::1]:9180");
        assert_eq!(at("10.1.2.3:9180"), "10.1.2.3:9180");
    }
}
