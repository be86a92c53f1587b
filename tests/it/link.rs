//! A TCP port that leads somewhere else, until it is cut or slowed down.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Listens on all addresses for as long as the test process lives.
pub struct Link {
    pub port: u16,
    ends: Arc<Mutex<Vec<TcpStream>>>,
    /// Of every piece of data, in milliseconds.
    delay: Arc<AtomicU64>,
}

impl Link {
    /// Who connects is led to the address that `to` gives at that moment, and turned away when there is none.
    pub fn listen(port: u16, to: impl Fn() -> Option<SocketAddr> + Send + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("the port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let link = Self { port, ends: Arc::default(), delay: Arc::default() };
        let (ends, delay) = (Arc::clone(&link.ends), Arc::clone(&link.delay));
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Some(server) = to().and_then(|to| TcpStream::connect(to).ok()) else { continue };
                let copy = |stream: &TcpStream| stream.try_clone().expect("cloned");
                ends.lock().expect("not poisoned").extend([copy(&client), copy(&server)]);
                for (from, to) in [(copy(&client), copy(&server)), (server, client)] {
                    let delay = Arc::clone(&delay);
                    std::thread::spawn(move || pass(from, to, &delay));
                }
            }
        });
        link
    }

    /// Ends all connections of this moment, for both sides.
    pub fn cut(&self) {
        for end in self.ends.lock().expect("not poisoned").drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    /// From now on every piece of data takes so long.
    pub fn slow(&self, delay: Duration) {
        self.delay.store(u64::try_from(delay.as_millis()).expect("small"), Ordering::Relaxed);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, delay: &AtomicU64) {
    let _ = to.set_nodelay(true);
    let mut bytes = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        std::thread::sleep(Duration::from_millis(delay.load(Ordering::Relaxed)));
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
