//! Requests of a user to the running bots-ctl, on an abstract Unix socket, and their results.
//!
//! The name of the socket has the port of the health listener, and belongs to the network namespace, so a request reaches the
//! bots-ctl that `status` shows. Both sides ask the kernel for the user of the other one: a request is obeyed for the same user and for
//! root. A request is a line of one or two words; the responses are lines of JSON, the last of which has an exit code.

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::Duration;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::unistd::Uid;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::exit::{Error, Kind};
use crate::model::ServiceName;

use super::bots_environment::blocking;

/// Clients send their request at once: a client without one delays the next client no longer than this.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);

/// Pause after an error of a connection, for example when all file descriptors are in use.
const ACCEPT_RETRY: Duration = Duration::from_secs(1);

/// No request is longer, in bytes.
const MAX_REQUEST: u64 = 64;

/// A user's request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ControlRequest {
    /// Check the configuration, and start again with it.
    Reload,
    /// Another process for this service.
    Restart(ServiceName),
}

impl ControlRequest {
    fn to_line(self) -> String {
        match self {
            Self::Reload => "reload\n".to_owned(),
            Self::Restart(service) => format!("restart {}\n", service.as_str()),
        }
    }

    fn parse(line: &str) -> Option<Self> {
        match line.trim().split_once(' ') {
            None if line.trim() == "reload" => Some(Self::Reload),
            // Engine runs are scheduled: there is no process to replace.
            Some(("restart", name)) => {
                name.parse().ok().filter(|service| *service != ServiceName::Engine).map(Self::Restart)
            }
            _ => None,
        }
    }
}

/// One line of an answer.
#[derive(Serialize, Deserialize)]
struct Answer {
    /// The exit code of the command; `None` until the work is finished.
    code: Option<u8>,
    text: String,
}

/// The client of a request, which waits for its result. A disconnected client is not an error.
pub(crate) struct Requester(UnixStream);

impl Requester {
    /// The client of a request to bots-ctl before it executed itself.
    pub fn adopt(descriptor: OwnedFd) -> Self {
        Self(UnixStream::from(descriptor))
    }

    /// The connection, for the next execution of bots-ctl.
    pub fn into_descriptor(self) -> OwnedFd {
        self.0.into()
    }

    /// Tells the client how far the work is.
    pub fn report(&self, text: &str) {
        self.write(None, text);
    }

    /// Answers that the work is done.
    pub fn done(self, text: &str) {
        self.write(Some(0), text);
    }

    /// Answers that the work failed, or was refused.
    pub fn failed(self, kind: Kind, text: &str) {
        self.write(Some(kind.code()), text);
    }

    fn write(&self, code: Option<u8>, text: &str) {
        if let Ok(line) = serde_json::to_string(&Answer { code, text: text.to_owned() }) {
            let _ = (&self.0).write_all(format!("{line}\n").as_bytes());
        }
    }
}

fn address(health_port: u16) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("bots-ctl/control/{health_port}"))
}

/// Listens for requests of the user that this process runs as. Without the socket, bots-ctl continues.
pub(crate) fn listen(health_port: u16) -> UnboundedReceiver<(ControlRequest, Requester)> {
    let (sender, received) = unbounded_channel();
    let listener = address(health_port).and_then(|address| {
        let listener = UnixListener::bind_addr(&address)?;
        listener.set_nonblocking(true)?;
        tokio::net::UnixListener::from_std(listener)
    });
    match listener {
        Ok(listener) => {
            tokio::spawn(accept(listener, sender));
        }
        Err(error) => {
            warn!("cannot receive the commands restart and reload: {error}")
        }
    }
    received
}

async fn accept(listener: tokio::net::UnixListener, requests: UnboundedSender<(ControlRequest, Requester)>) {
    loop {
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!("cannot accept a request: {error}; trying again");
                sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let Ok(stream) = stream.into_std() else { continue };
        if let Ok(Some(request)) = blocking(move || receive(stream)).await {
            info!("requested: {}", request.0.to_line().trim());
            let _ = requests.send(request);
        }
    }
}

/// Reads the request of a connection. May wait for a second.
fn receive(stream: UnixStream) -> Option<(ControlRequest, Requester)> {
    let user = getsockopt(&stream, PeerCredentials).ok()?.uid();
    stream.set_nonblocking(false).ok()?;
    stream.set_read_timeout(Some(REQUEST_TIMEOUT)).ok()?;
    stream.set_write_timeout(Some(REQUEST_TIMEOUT)).ok()?;
    let own = Uid::effective().as_raw();
    if user != own && user != 0 {
        warn!("rejected a request of user {user}: bots-ctl runs as user {own}");
        let text = format!("this bots-ctl runs as user {own}, and accepts requests of that user and root only");
        Requester(stream).failed(Kind::Usage, &text);
        return None;
    }
    let mut line = String::new();
    io::Read::take(BufReader::new(&stream), MAX_REQUEST).read_line(&mut line).ok()?;
    let requester = Requester(stream);
    match ControlRequest::parse(&line) {
        Some(request) => Some((request, requester)),
        None => {
            requester.failed(Kind::Usage, "unknown request: the running bots-ctl has another version");
            None
        }
    }
}

/// Connects to the bots-ctl that runs here.
///
/// # Errors
/// 69 if there is none; 64 if it is that of another user.
pub(crate) fn connect(health_port: u16) -> Result<UnixStream, Error> {
    let unavailable = |error: io::Error| {
        let text = format!(
            "no bots-ctl with a health listener on port {health_port} runs here: {error}; bots-ctl status shows the one \
             that runs, and BOTS_CTL_HEALTH_ADDR names its listener"
        );
        Error::new(Kind::Unavailable, text)
    };
    let stream = address(health_port).and_then(|at| UnixStream::connect_addr(&at)).map_err(unavailable)?;
    let (peer, own) =
        (getsockopt(&stream, PeerCredentials).map_err(|error| unavailable(error.into()))?, Uid::effective());
    if ![0, own.as_raw()].contains(&peer.uid()) && !own.is_root() {
        let text = format!("the bots-ctl that runs here is that of user {}: run this command as that user", peer.uid());
        return Err(Error::new(Kind::Usage, text));
    }
    Ok(stream)
}

/// Sends a request on a connection and waits for its result. `report` is called with each intermediate message; the result is the
/// last one. A rejected client can read its response, but may be unable to send its request.
///
/// # Errors
/// As in the response.
pub(crate) fn request(
    mut stream: UnixStream,
    request: ControlRequest,
    mut report: impl FnMut(&str),
) -> Result<String, Error> {
    let lost = |error: io::Error| Error::new(Kind::Unavailable, format!("lost the connection to bots-ctl: {error}"));
    let sent = stream.write_all(request.to_line().as_bytes());
    for line in BufReader::new(stream).lines() {
        let Ok(Answer { code, text }) = serde_json::from_str(&line.map_err(lost)?) else { break };
        match code {
            None => report(&text),
            Some(0) => return Ok(text),
            Some(code) => return Err(Error::new(Kind::of_code(code).unwrap_or(Kind::Failed), text)),
        }
    }
    sent.map_err(lost)?;
    Err(Error::new(Kind::Failed, "bots-ctl ended before it answered; its log gives the reason"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_round_trips_through_its_line() {
        let services = ServiceName::ALL.into_iter().filter(|service| *service != ServiceName::Engine);
        for request in services.map(ControlRequest::Restart).chain([ControlRequest::Reload]) {
            assert_eq!(ControlRequest::parse(&request.to_line()), Some(request));
        }
        for other in ["", "reload now", "restart", "restart x", "restart engine", "stop"] {
            assert_eq!(ControlRequest::parse(other), None, "{other}");
        }
    }

    #[test]
    fn client_that_is_rejected_before_it_sends_gets_the_reason() {
        let (client, server) = UnixStream::pair().expect("a pair");
        Requester(server).failed(Kind::Usage, "the reason");
        let error = request(client, ControlRequest::Reload, |_| {}).expect_err("the response is a rejection");
        assert_eq!((error.kind(), error.to_string().as_str()), (Kind::Usage, "the reason"));
    }
}
