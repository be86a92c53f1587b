//! A proxy before a database server's socket that cuts the connections of bots-ctl, and leaves those of Bots alone.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use tempfile::TempDir;

use crate::support::sandbox::binary;
use crate::support::servers::{Engine, Server};

/// Listens for as long as the test process lives.
pub struct Proxy {
    dir: TempDir,
    socket: PathBuf,
    engine: Engine,
    links: Arc<Mutex<Vec<Link>>>,
    /// Connections whose clients are gone, which the server does not know.
    ghosts: Mutex<Vec<UnixStream>>,
}

/// A connection of bots-ctl and the one to the server that belongs to it.
struct Link {
    client: UnixStream,
    server: UnixStream,
    /// Messages of the client.
    sent: Arc<AtomicUsize>,
}

/// What a server detects of a cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The end of its session.
    Both,
    /// Nothing: to the server the session is as good as any.
    ClientAlone,
}

impl Proxy {
    pub fn before(server: &Server) -> Self {
        // The path of a socket has to be short.
        let dir = tempfile::Builder::new().prefix("proxy").rand_bytes(4).tempdir_in("/tmp").expect("made");
        let name = match server.engine {
            Engine::Mariadb => "socket".to_owned(),
            _ => format!(".s.PGSQL.{}", server.port),
        };
        let (socket, behind) = (dir.path().join(&name), Path::new(&server.dir_of_socket()).join(&name));
        let listener = UnixListener::bind(&socket).expect("bound");
        let links = Arc::new(Mutex::new(Vec::new()));
        let known = Arc::clone(&links);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = UnixStream::connect(&behind) else { continue };
                let copy = |stream: &UnixStream| stream.try_clone().expect("cloned");
                let sent = Arc::<AtomicUsize>::default();
                if is_bots_ctl(&client) {
                    let link = Link { client: copy(&client), server: copy(&server), sent: Arc::clone(&sent) };
                    known.lock().expect("not poisoned").push(link);
                }
                let (from, to) = (copy(&client), copy(&server));
                std::thread::spawn(move || pass(from, to, &sent));
                std::thread::spawn(move || pass(server, client, &AtomicUsize::new(0)));
            }
        });
        Self { dir, socket, engine: server.engine, links, ghosts: Mutex::default() }
    }

    /// The socket as Django's `HOST` takes it.
    pub fn socket(&self) -> String {
        match self.engine {
            Engine::Mariadb => self.socket.display().to_string(),
            _ => self.dir.path().display().to_string(),
        }
    }

    /// Cuts all connections of bots-ctl; returns their number, including ones closed before.
    pub fn cut(&self, cut: Cut) -> usize {
        self.cut_after(cut, 0)
    }

    /// Cuts the connections whose client has sent this number of messages.
    pub fn cut_after(&self, cut: Cut, messages: usize) -> usize {
        let is_due = |link: &mut Link| link.sent.load(Ordering::Relaxed) >= messages;
        let links: Vec<Link> = self.links.lock().expect("not poisoned").extract_if(.., is_due).collect();
        let count = links.len();
        for Link { client, server, .. } in links {
            if cut == Cut::ClientAlone {
                // Two descriptors of one connection: while this one is open, closing the other does not close the
                // connection.
                self.ghosts.lock().expect("not poisoned").push(server);
            } else {
                let _ = server.shutdown(Shutdown::Both);
            }
            let _ = client.shutdown(Shutdown::Both);
        }
        count
    }
}

/// Forwards bytes until one side closes; the other side is closed with the last descriptor.
fn pass(mut from: UnixStream, mut to: UnixStream, messages: &AtomicUsize) {
    let mut bytes = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
        messages.fetch_add(1, Ordering::Relaxed);
    }
}

fn is_bots_ctl(client: &UnixStream) -> bool {
    let Ok(peer) = getsockopt(client, PeerCredentials) else { return false };
    fs::read_link(format!("/proc/{}/exe", peer.pid()))
        .is_ok_and(|program| fs::canonicalize(binary()).is_ok_and(|ours| program == ours))
}
