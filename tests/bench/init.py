#!/usr/bin/env python3
"""Measures `bots-ctl exec` as an init beside tini, dumb-init, s6 and supervisor, in one run; prints a Markdown table.

    cargo build --release && python3 -B tests/bench/init.py

Takes about two minutes and compares with whatever is installed. As root the inits that have to be PID 1 get a PID
namespace of their own; without, one that has to be is left out. BOTS_CTL_BIN names another binary.
"""

import argparse
import contextlib
import os
import pathlib
import select
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

import measure
from measure import BenchError, Times

SIGNALS = 3000
TRUES = 400
STOPS = 200
IDLE = 5
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

    def __init__(self, name, argv):
        self.name, self.argv = name, argv

    def command(self, argv, _directory):
        return [*self.argv, *argv]


class S6:
    """s6-svscan, which looks after one s6-supervise, which looks after the program."""

    name = "s6"

    def command(self, argv, directory):
        service = directory / "scan/program"
        service.mkdir(parents=True)
        (service / "run").write_text("#!/bin/sh\nexec " + quoted(argv) + "\n")
        (service / "run").chmod(0o755)
        # Once: a program that has ended is not started again.
        (service / "finish").write_text("#!/bin/sh\nexit 125\n")
        (service / "finish").chmod(0o755)
        return ["s6-svscan", str(directory / "scan")]


class Supervisor:
    """supervisord with one program."""

    name = "supervisor"

    def command(self, argv, directory):
        config = directory / "supervisord.conf"
        script = directory / "program"
        script.write_text("#!/bin/sh\nexec " + quoted(argv) + "\n")
        script.chmod(0o755)
        config.write_text(
            f"[supervisord]\nnodaemon=true\nlogfile=/dev/null\nlogfile_maxbytes=0\npidfile={directory}/pid\n"
            f"user=root\n[program:program]\ncommand={script}\nautorestart=false\nstartsecs=0\n"
        )
        return ["supervisord", "-c", str(config)]


def quoted(argv):
    return " ".join(shlex.quote(word) for word in argv)


class Bench:
    """The inits that are installed, and the rows of the table."""

    def __init__(self, binary, directory, orphans):
        self.directory, self.orphans = directory, orphans
        self.inits = [Init("bots-ctl", [str(binary), "exec", "--"])]
        for name, args in (("tini", ["-s", "-g", "--"]), ("dumb-init", ["--"])):
            if program := shutil.which(name):
                self.inits.append(Init(name, [program, *args]))
        self.supervisors = [S6()] if shutil.which("s6-svscan") else []
        self.supervisors += [Supervisor()] if shutil.which("supervisord") else []
        self.bare = Init("nothing", [])
        self.env = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(directory)}
        self.rows = []
        self.number = 0

    def row(self, what, results, target=""):
        self.rows.append((what, results, target))
        print(f"  {what}: {results}", file=sys.stderr)

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

    def signals(self):
        """From kill until the program has it, in turns."""
        inits = [*self.inits, self.bare]
        taken = [[] for _ in inits]
        with contextlib.ExitStack() as stack:
            running = [stack.enter_context(self.running(init, [ARRIVAL])) for init in inits]
            for _, reader in running:
                report(reader)
            for _ in range(SIGNALS):
                for (process, reader), times in zip(running, taken):
                    begin = time.monotonic_ns()
                    process.send_signal(signal.SIGUSR1)
                    times.append((report(reader) - begin) / 1e9)
        results = {}
        for init, times in zip(inits, taken):
            times = Times(times)
            results[init.name] = f"{micro(times.median)} / {micro(times.percentile(0.99))}"
        self.row(f"signal until the program has it, p50 / p99 of {SIGNALS:,}", results, "≤ 150 / 1000 µs")

    def true(self):
        inits = [*self.inits, self.bare]
        times = measure.alternating(TRUES, *(([*init.argv, "/bin/true"], self.env) for init in inits))
        results = {init.name: milli(taken.median) for init, taken in zip(inits, times)}
        self.row(f"`/bin/true`, median of {TRUES}", results, "≤ bare + 3 ms")

    def stops(self, what, delay, inits, target):
        """From the end of the last process until the init has ended, in turns."""
        taken = [[] for _ in inits]
        for _ in range(STOPS if not delay else STOPS // 10):
            for init, times in zip(inits, taken):
                with self.running(init, [STOPPING, str(delay)]) as (process, reader):
                    last = report(reader)
                    process.send_signal(signal.SIGTERM)
                    process.wait()
                    ended = time.monotonic_ns()
                    if select.select([reader], [], [], 0)[0]:
                        times.append((ended - report(reader)) / 1e9)
                    else:
                        os.kill(last, signal.SIGKILL)
        results = {}
        for init, times in zip(inits, taken):
            times = Times(times)
            results[init.name] = "does not wait"
            if times.all:
                results[init.name] = f"{milli(times.median)} / {milli(times.percentile(0.99))}"
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
                time.sleep(IDLE)
                wakeups[init.name] = str(sum(map(measure.wakeups, pids)) - before)
                memory[init.name] = f"{sum(rss(pid) for pid in pids) / 1e6:.1f} MB"
        self.row(f"wake-ups in {IDLE} s idle", wakeups, "0")
        self.row("idle RSS", memory)

    def together(self):
        results = {}
        for init in [*self.inits, *self.supervisors]:
            with self.running(init, [ORPHANS, str(self.orphans)], namespace=True) as (_, reader):
                results[init.name] = str(report(reader))
        self.row(f"{self.orphans:,} orphans of PID 1 end together: zombies 1 s later", results, "0")

    def run(self):
        self.signals()
        self.true()
        inits = [*self.inits, self.bare]
        self.stops(f"SIGTERM: program's end until the init's, p50 / p99 of {STOPS}", 0, inits, "≤ 10 ms")
        late = "… when a process with a session of its own ends 0.1 s later"
        self.stops(late, 0.1, self.inits, "≤ 10 ms")
        self.idle()
        if os.geteuid() == 0:
            self.together()

    def print(self):
        names = [init.name for init in [*self.inits, *self.supervisors, self.bare]]
        print("| measured | " + " | ".join(names) + " | to reach |\n|---" + "|---" * len(names) + "|---|")
        for what, results, target in self.rows:
            print(f"| {what} | " + " | ".join(results.get(name, "") for name in names) + f" | {target} |")


def report(reader):
    if not select.select([reader], [], [], measure.DEADLINE)[0]:
        raise BenchError("a program did not report")
    (number,) = struct.unpack("q", os.read(reader, 8))
    return number


def below(pid):
    """All processes below one."""
    try:
        text = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    children = [int(child) for child in text.split()]
    return children + [grandchild for child in children for grandchild in below(child)]


def name(pid):
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{pid}/comm").read_text()
    return ""


def rss(pid):
    return measure.kilobytes(f"/proc/{pid}/status")["VmRSS"]


def micro(value):
    return f"{value * 1e6:.0f} µs"


def milli(value):
    return f"{value * 1e3:.2f} ms"


def main():
    root = pathlib.Path(__file__).resolve().parents[2]
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", root / "target"))
    default = os.environ.get("BOTS_CTL_BIN", target / "release/bots-ctl")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=pathlib.Path, nargs="?", default=default, help="the bots-ctl to measure")
    parser.add_argument("--orphans", type=int, default=10_000, help="how many end together")
    options = parser.parse_args()
    if not pathlib.Path(options.binary).is_file():
        sys.exit(f"bench: there is no {options.binary}: run 'cargo build --release', or set BOTS_CTL_BIN")
    with tempfile.TemporaryDirectory(prefix="bots-ctl-bench-") as directory:
        bench = Bench(pathlib.Path(options.binary).absolute(), pathlib.Path(directory), options.orphans)
        try:
            bench.run()
        except (BenchError, struct.error) as error:
            sys.exit(f"bench: {error}")
        bench.print()


main()
