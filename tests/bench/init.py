#!/usr/bin/env python3
"""Measures `bots-ctl exec` as an init beside tini, dumb-init, s6, runit and supervisor.

    cargo build --release && python3 -B tests/bench/init.py

Takes about three minutes and compares with whatever is installed. As root the inits that have to be PID 1 get a PID namespace of
their own; without, what needs one is left out. Options of all scripts: a binary, --bots DIRECTORY, --quick.
"""

import contextlib
import os
import pathlib
import select
import shutil
import signal
import struct
import subprocess
import sys
import time

import measure
import place
import supervisors
from measure import BenchError, Times, below
from table import Figure, Table, count, duration, spread

NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]

# Tells through a named pipe when SIGUSR1 arrives; a report is one number of nanoseconds on the clock that all processes
# of a machine share.
ARRIVAL = """
import os, signal, struct, sys, time
fd = os.open(sys.argv[1], os.O_WRONLY)
wanted = {signal.SIGUSR1}
signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
os.write(fd, bytes(8))
while signal.sigwait(wanted):
    os.write(fd, struct.pack("q", time.monotonic_ns()))
"""

# Tells when it ends after SIGTERM; with a `delay`, a process with a session of its own tells, and ends that much later.
STOPPING = """
import os, signal, struct, sys, time
fd, delay = os.open(sys.argv[1], os.O_WRONLY), float(sys.argv[2])
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
last = True
if delay:
    last = os.fork() == 0
    if last:
        os.setsid()
if last:
    os.write(fd, struct.pack("q", os.getpid()))
signal.sigwait({signal.SIGTERM})
if last:
    time.sleep(delay)
    os.write(fd, struct.pack("q", time.monotonic_ns()))
os._exit(0)
"""

# Leaves processes to PID 1 that end together, and tells how many of them are zombies a second later.
ORPHANS = """
import os, struct, sys, time
fd, count = os.open(sys.argv[1], os.O_WRONLY), int(sys.argv[2])
reader, writer = os.pipe()
if os.fork() == 0:
    os.close(writer)
    for _ in range(count):
        if os.fork() == 0:
            os.read(reader, 1)
            os._exit(0)
    os._exit(0)
os.wait()
os.close(reader)

def left():
    found = 0
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = open(f"/proc/{name}/stat").read().rpartition(")")[2].split()
        except OSError:
            continue
        found += fields[1] == "1" and fields[0] == "Z"
    return found

os.close(writer)
time.sleep(1)
os.write(fd, struct.pack("q", left()))
"""


class Init:
    """An init that runs one program, given as the arguments before that program."""

    stop_signal = signal.SIGTERM

    def __init__(self, name, argv):
        self.name, self.argv = name, argv

    def command(self, argv, _directory):
        return [*self.argv, *argv]


class Bench:
    """The inits that are installed, and the table."""

    def __init__(self, given, directory):
        self.directory = directory
        self.signals_sent, self.trues, self.stopped = (200, 20, 10) if given.quick else (3000, 400, 200)
        self.watched, self.orphans = (2, 500) if given.quick else (5, 10_000)
        self.inits = [Init("bots-ctl", [str(given.binary), "exec", "--"])]
        for name, args in (("tini", ["-s", "-g", "--"]), ("dumb-init", ["--"])):
            if program := shutil.which(name):
                self.inits.append(Init(name, [program, *args]))
        self.supervisors = supervisors.installed()
        self.bare = Init("nothing", [])
        self.env = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(directory)}
        self.table = Table("`exec` as an init")
        self.number = 0

    def row(self, what, results, target=""):
        self.table.row(what, results.pop("bots-ctl"), results, target)

    @contextlib.contextmanager
    def running(self, init, argv, namespace=False):
        """Runs Python below an init; gives the process of the init, and the pipe on which the script reports."""
        self.number += 1
        directory = self.directory / str(self.number)
        directory.mkdir()
        # By its name: some inits close what they have inherited. Open for writing too, it never ends.
        fifo = directory / "report"
        os.mkfifo(fifo)
        reader = os.open(fifo, os.O_RDWR)
        words = [sys.executable, "-S", "-c", argv[0], str(fifo), *argv[1:]]
        command = [*(NAMESPACE if namespace else []), *init.command(words, directory)]
        process = subprocess.Popen(
            command, env=self.env, cwd=directory, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            yield process, reader
        finally:
            os.close(reader)
            for pid in [*below(process.pid), process.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
            # runit's runsvdir does not wait for its runsv, which may start the program once more.
            while left := measure.inside(directory):
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

    def signals(self):
        """From kill until the program has it, in turns."""
        inits = [*self.inits, self.bare]
        taken = [[] for _ in inits]
        with contextlib.ExitStack() as stack:
            running = [stack.enter_context(self.running(init, [ARRIVAL])) for init in inits]
            for _, reader in running:
                report(reader)
            for _ in range(self.signals_sent):
                for (process, reader), times in zip(running, taken):
                    begin = time.monotonic_ns()
                    process.send_signal(signal.SIGUSR1)
                    times.append((report(reader) - begin) / 1e9)
        results = {init.name: spread(Times(times), 0.99) for init, times in zip(inits, taken)}
        self.row(f"signal until the program has it, median of {self.signals_sent:,}", results, "≤ 150 µs, p99 ≤ 1 ms")

    def true(self):
        inits = [*self.inits, self.bare]
        times = measure.alternating(self.trues, *(([*init.argv, "/bin/true"], self.env) for init in inits))
        results = {init.name: duration(taken.median) for init, taken in zip(inits, times)}
        self.row(f"`/bin/true`, median of {self.trues}", results, "≤ tini + 2 ms")

    def stops(self, what, delay, inits, target):
        """From the end of the last process until the init has ended, in turns."""
        taken = [[] for _ in inits]
        for _ in range(self.stopped if not delay else self.stopped // 10):
            for init, times in zip(inits, taken):
                with self.running(init, [STOPPING, str(delay)]) as (process, reader):
                    last = report(reader)
                    process.send_signal(init.stop_signal)
                    process.wait()
                    ended = time.monotonic_ns()
                    if select.select([reader], [], [], 0)[0]:
                        times.append((ended - report(reader)) / 1e9)
                    else:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(last, signal.SIGKILL)
        results = {}
        for init, times in zip(inits, taken):
            results[init.name] = spread(Times(times), 0.99) if times else "does not wait"
        self.row(what, results, target)

    def idle(self):
        """Wake-ups and memory of the init and of what it needs, while the program sleeps."""
        wakeups, memory = {}, {}
        for init in [*self.inits, *self.supervisors]:
            with self.running(init, [ARRIVAL]) as (process, reader):
                report(reader)
                program = [pid for pid in below(process.pid) if name(pid).startswith("python3") and not below(pid)]
                pids = [pid for pid in [process.pid, *below(process.pid)] if pid not in program[-1:]]
                time.sleep(1)
                before = sum(map(measure.wakeups, pids))
                time.sleep(self.watched)
                wakeups[init.name] = count(sum(map(measure.wakeups, pids)) - before)
                held = sum(measure.kilobytes(f"/proc/{pid}/status")["VmRSS"] for pid in pids)
                memory[init.name] = Figure(held, f"{held / 1e6:.1f} MB")
        self.row(f"wake-ups in {self.watched} s idle", wakeups, "0")
        self.row("idle RSS", memory)

    def together(self):
        if os.geteuid() != 0:
            return self.table.note("Left out: reaping as PID 1, which takes root.")
        results = {}
        for init in [*self.inits, *self.supervisors]:
            with self.running(init, [ORPHANS, str(self.orphans)], namespace=True) as (_, reader):
                results[init.name] = count(report(reader))
        self.row(f"{self.orphans:,} orphans of PID 1 end together: zombies 1 s later", results, "0")

    def run(self):
        self.signals()
        self.true()
        inits = [*self.inits, *self.supervisors, self.bare]
        self.stops(f"stop request: from the program's exit to the init's, median of {self.stopped}", 0, inits, "≤ 10 ms")
        late = "… when a process with a session of its own ends 0.1 s later"
        self.stops(late, 0.1, self.inits, "≤ 10 ms")
        self.idle()
        self.together()
        self.table.note("A supervisor passes no signals on and starts its program by itself: it has no figures for those.")


def report(reader):
    if not select.select([reader], [], [], measure.DEADLINE)[0]:
        raise BenchError("a program did not report")
    (number,) = struct.unpack("q", os.read(reader, 8))
    return number


def name(pid):
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{pid}/comm").read_text()
    return ""


def measured(given, home):
    bench = Bench(given, home)
    bench.run()
    yield bench.table


if __name__ == "__main__":
    place.bench(place.options(__doc__), measured)
