//! The program that holds a TCP port, as far as `/proc` shows it: a socket that is bound and does not listen, such as that of
//! Bots's own engines, is in no table, and the descriptors of another user's processes cannot be read.

use std::fs;
use std::path::Path;

use super::proc_table::{self, Process};

/// The process that holds a port of this network namespace.
#[must_use]
pub fn holder(port: u16) -> Option<Process> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| fs::read_to_string(table).unwrap_or_default());
    let sockets: Vec<String> = tables.iter().flat_map(|table| sockets(table, port)).collect();
    let holds = |process: &Process| {
        let descriptors = fs::read_dir(format!("/proc/{}/fd", process.pid)).into_iter().flatten().flatten();
        descriptors.filter_map(|entry| fs::read_link(entry.path()).ok()).any(|target| is_one_of(&target, &sockets))
    };
    proc_table::list()?.into_iter().find(|process| !sockets.is_empty() && holds(process))
}

fn is_one_of(target: &Path, sockets: &[String]) -> bool {
    target.to_str().is_some_and(|target| sockets.iter().any(|socket| socket == target))
}

/// The sockets on a port, as links of descriptors name them.
fn sockets(table: &str, port: u16) -> Vec<String> {
    let suffix = format!(":{port:04X}");
    let socket = |line: &str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let is_on_port = words.get(1).is_some_and(|local| local.ends_with(&suffix));
        words.get(9).filter(|inode| is_on_port && **inode != "0").map(|inode| format!("socket:[{inode}]"))
    };
    table.lines().skip(1).filter_map(socket).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};

    use super::*;

    #[test]
    fn holder_finds_listening_process() {
        for listener in [TcpListener::bind((Ipv4Addr::LOCALHOST, 0)), TcpListener::bind((Ipv6Addr::LOCALHOST, 0))] {
            let Ok(listener) = listener else { continue };
            let port = listener.local_addr().expect("it has one").port();
            let holder = holder(port).expect("it is this process");
            assert_eq!(holder.pid, nix::unistd::getpid());
        }
    }

    #[test]
    fn socket_table_line_without_inode_is_ignored() {
        let table =
            "  sl  local_address rem_address\n   0: 0100007F:6DB1 00000000:0000 06 0:0 0:0 0 0 0 0 3\n garbage\n";
        assert_eq!(sockets(table, 28_081), Vec::<String>::new());
        assert_eq!(sockets(&table.replace("0 0 0 0 3", "0 0 0 41 3"), 28_081), ["socket:[41]"]);
    }
}
