//! A different time of day for some processes.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::support::network::run;

/// A preloaded library that shifts the time of day by the number of seconds in a file.
const CLOCK: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *offset;

__attribute__((constructor)) static void load(void) {
    const char *name = getenv("CLOCK_OFFSET");
    int fd = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *place = mmap(0, sizeof *offset, PROT_READ, MAP_SHARED, fd, 0);
    if (place != MAP_FAILED) offset = place;
    close(fd);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (!failed && clock == CLOCK_REALTIME && offset) now->tv_sec += *offset;
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec precise;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (now) *now = precise.tv_sec;
    return precise.tv_sec;
}
"#;

/// How far off it is, in a file.
pub struct Clock(PathBuf);

impl Clock {
    /// Initially unshifted.
    pub fn new(file: PathBuf) -> Self {
        fs::write(&file, 0_i64.to_ne_bytes()).expect("written");
        Self(file)
    }

    /// The environment of processes with the shifted clock.
    pub fn variables(&self) -> [(&'static str, PathBuf); 2] {
        [("LD_PRELOAD", library().to_owned()), ("CLOCK_OFFSET", self.0.clone())]
    }

    /// Shifts the clock, also for running processes.
    pub fn set(&self, seconds: i64) {
        // In place: it is mapped.
        let file = fs::OpenOptions::new().write(true).open(&self.0).expect("it is there");
        file.write_all_at(&seconds.to_ne_bytes(), 0).expect("written");
    }
}

/// Where [`CLOCK`] is, compiled once.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("made").keep();
        let (source, library) = (directory.join("clock.c"), Path::new(env!("CARGO_TARGET_TMPDIR")).join("clock.so"));
        fs::write(&source, CLOCK).expect("written");
        let made = directory.join("clock.so").display().to_string();
        run(&format!("cc -shared -fPIC -O2 -o '{made}' '{}'", source.display()));
        fs::rename(made, &library).expect("renamed");
        fs::remove_dir_all(directory).expect("removed");
        library
    })
}
