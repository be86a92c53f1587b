//! A TCP port that leads somewhere else, until it is cut, slowed down or silent.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

/// Listens on all addresses for as long as the test process lives.
pub struct Link {
    pub port: u16,
    ends: Arc<Mutex<Vec<TcpStream>>>,
    rules: Arc<Rules>,
}

/// What holds for all connections.
#[derive(Default)]
struct Rules {
    /// Of every piece of data, in milliseconds.
    delay: AtomicU64,
    /// A connection that has this in it is silent from there on.
    last_word: OnceLock<&'static str>,
    /// For each connection so far, whether it is silent: all data is dropped without an error.
    silent: Mutex<Vec<Arc<AtomicBool>>>,
}

impl Link {
    /// Connects clients to the address that `to` returns at that moment, and rejects them if there is none.
    pub fn listen(port: u16, to: impl Fn() -> Option<SocketAddr> + Send + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("the port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let link = Self { port, ends: Arc::default(), rules: Arc::default() };
        let (ends, rules) = (Arc::clone(&link.ends), Arc::clone(&link.rules));
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Some(server) = to().and_then(|to| TcpStream::connect(to).ok()) else { continue };
                let copy = |stream: &TcpStream| stream.try_clone().expect("cloned");
                ends.lock().expect("not poisoned").extend([copy(&client), copy(&server)]);
                let is_silent = Arc::<AtomicBool>::default();
                rules.silent.lock().expect("not poisoned").push(Arc::clone(&is_silent));
                for (from, to) in [(copy(&client), copy(&server)), (server, client)] {
                    let (rules, is_silent) = (Arc::clone(&rules), Arc::clone(&is_silent));
                    std::thread::spawn(move || pass(from, to, &rules, &is_silent));
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

    /// From now on each piece of data is delayed by this time.
    pub fn slow(&self, delay: Duration) {
        self.rules.delay.store(u64::try_from(delay.as_millis()).expect("small"), Ordering::Relaxed);
    }

    /// From now on the current connections drop all data without an error. New ones are not affected.
    pub fn forget(&self) {
        for is_silent in self.rules.silent.lock().expect("not poisoned").iter() {
            is_silent.store(true, Ordering::Relaxed);
        }
    }

    /// From now on this happens to each connection that sends this word.
    pub fn forget_at(&self, word: &'static str) {
        self.rules.last_word.set(word).expect("there is none yet");
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, rules: &Rules, is_silent: &AtomicBool) {
    let _ = to.set_nodelay(true);
    let mut bytes = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        std::thread::sleep(Duration::from_millis(rules.delay.load(Ordering::Relaxed)));
        let is_last = |word: &&str| bytes[..count].windows(word.len()).any(|said| said == word.as_bytes());
        if rules.last_word.get().is_some_and(is_last) {
            is_silent.store(true, Ordering::Relaxed);
        }
        if is_silent.load(Ordering::Relaxed) {
            continue;
        }
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
