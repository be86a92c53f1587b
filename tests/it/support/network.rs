//! Network namespaces with a cable to the one of the test, which can be pulled.

use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::needs::{Need, needs};
use crate::support::process::wrapped;

/// A network namespace with a cable to this one.
pub struct Node {
    name: String,
    gateway: String,
    address: String,
}

impl Node {
    pub fn new() -> Self {
        needs(Need::Root);
        needs(Need::Iproute);
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        // Test processes that run at the same time must not take each other's.
        let own = std::process::id();
        let address = |host| format!("10.{}.{}.{}", own / 256 % 256, own % 256, number % 64 * 4 + host);
        let node = Self { name: format!("bc{own}n{number}"), gateway: address(1), address: address(2) };
        let (Self { name, gateway, address }, cable) = (&node, node.cable());
        run(&format!(
            "ip netns add {name} && ip link add {cable} type veth peer name eth0 netns {name} && \
             ip addr add {gateway}/30 dev {cable} && ip link set {cable} up && \
             ip -n {name} addr add {address}/30 dev eth0 && ip -n {name} link set eth0 up && ip -n {name} link set lo up"
        ));
        node
    }

    fn cable(&self) -> String {
        self.name.clone() + "c"
    }

    /// This side's address, for a server.
    pub fn gateway(&self) -> &str {
        &self.gateway
    }

    /// This namespace's address, as it is seen from the other side.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The command line inside.
    pub fn command(&self, inner: &Command) -> Command {
        wrapped(inner, "nsenter", &[&format!("--net=/run/netns/{}", self.name), "--"])
    }

    /// Drops all packets silently.
    pub fn unplug(&self) {
        run(&format!("ip link set {} down", self.cable()));
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", &self.cable()]).status();
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// A line of shell that has to succeed.
pub fn run(line: &str) {
    let done = Command::new("sh").args(["-c", line]).output().expect("sh runs");
    assert!(done.status.success(), "{line}\n{}", String::from_utf8_lossy(&done.stderr));
}
