//! Standard output and error without the standard library's buffer: whole batches in one write.

use std::io::{self, Write};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{SFlag, fstat};

/// Writes straight to a descriptor.
pub struct UnbufferedStream<T>(pub T);

impl<T: AsFd> Write for UnbufferedStream<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match nix::unistd::write(&self.0, bytes) {
                // A process that shares the descriptor has made it non-blocking.
                Err(Errno::EAGAIN) => {
                    poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE)?;
                }
                written => return Ok(written?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether both have the same target, as with `2>&1`: two writers would mix their lines.
#[must_use]
pub fn is_same(one: &impl AsFd, other: &impl AsFd) -> bool {
    let file_id = |fd: &dyn AsFd| fstat(fd).ok().map(|stat| (stat.st_dev, stat.st_ino));
    file_id(one).is_some_and(|known| Some(known) == file_id(other))
}

/// Whether it is a file on a disk.
#[must_use]
pub fn is_file(fd: &impl AsFd) -> bool {
    fstat(fd).is_ok_and(|stat| SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFREG)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    use nix::fcntl::{FcntlArg, OFlag, fcntl};

    #[test]
    fn write_waits_for_full_nonblocking_pipe() {
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("set");
        let written = std::thread::spawn(move || UnbufferedStream(writer).write_all(&[b'x'; 1 << 20]));
        let mut read = Vec::new();
        reader.read_to_end(&mut read).expect("read");
        written.join().expect("no panic").expect("everything is written");
        assert_eq!(read.len(), 1 << 20);
    }

    #[test]
    fn is_same_recognizes_ends_of_one_pipe() {
        let ((one, end), (other, _)) = (std::io::pipe().expect("a pipe"), std::io::pipe().expect("a pipe"));
        assert!(is_same(&one, &end));
        assert!(!is_same(&one, &other));
    }
}
