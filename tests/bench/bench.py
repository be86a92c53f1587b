"""Measures bots-ctl and its alternatives in one run, and prints a Markdown table. Started by run.sh."""

import argparse
import os
import pathlib
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import measure
from measure import BenchError, Service, Times

PROBES = 300
PYTHON_PROBES = 20
TRUES = 300
SEED_FILES = 20_000
SEED_FILES_PER_DIRECTORY = 100
SEED_ROUNDS = 5

# After a start, memory and timers take some seconds to settle.
SETTLE = 10
IDLE = 20

# What bots-ctl itself asks the web server for: a directory of static files, which needs no database.
STATIC_FILE = "HEAD /static/"

# What a probe in Python does at the least: Bots's settings, Django, one question to the database.
PYTHON_PROBE = """
import django
django.setup()
from django.db import connection
with connection.cursor() as cursor:
    cursor.execute("SELECT 1")
"""

VERSIONS = """
import importlib.metadata as m, platform
print(m.version("bots-ediint"), m.version("Django"), platform.python_version())
"""


class Bench:
    """One environment of Bots in a temporary directory, and the rows of the table."""

    def __init__(self, binary, bots, rounds, home):
        self.binary, self.bots, self.rounds, self.home = str(binary), bots, rounds, home
        self.root = home / ".bots/env/default"
        self.log = home / "services.log"
        self.web_port = measure.free_port(20000 + os.getpid() % 1000 * 10)
        self.health_port = measure.free_port(self.web_port + 1)
        # A clean environment: neither a shell's nor a cluster's variables may change what is measured.
        self.env = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": str(home),
            "BOTS_BIN_DIR": str(bots),
            "PORT": str(self.web_port),
            "BOTS_CTL_HEALTH_ADDR": f"127.0.0.1:{self.health_port}",
        }
        self.load = load()
        self.rows = []

    def row(self, what, ours, beside="", target=""):
        self.rows.append((what, ours, beside, target))
        print(f"  {what}: {ours}; {beside}", file=sys.stderr)

    def webserver(self):
        return Service([self.binary, "webserver"], self.env, self.root, self.log)

    def ready(self, service):
        return service.until(self.health_port, "GET /health/ready", b"HTTP/1.1 200")

    def service_env(self):
        """The variables that bots-ctl gives to a service."""
        printed = output([self.binary, "exec", "--", "env", "-0"], self.env)
        return dict(entry.split("=", 1) for entry in printed.split("\0") if entry)

    def run(self):
        self.root.mkdir(parents=True)
        first = self.webserver()
        took = self.ready(first)
        first.stop(signal.SIGTERM)
        self.row("first start: environment, database, first user, until ready", seconds(took))
        self.starts()
        service = self.webserver()
        self.ready(service)
        try:
            self.idle(service)
            self.healthcheck()
            self.requests()
        finally:
            service.stop(signal.SIGTERM)
        self.exec_true()
        self.seeding()
        self.row("release binary", megabytes(os.path.getsize(self.binary)), "", "≤ 10 MB")

    def starts(self):
        """bots-ctl until ready beside the bare program until it answers the same question that bots-ctl asks it."""
        env = self.service_env()
        bare = [str(self.bots / "bots-webserver"), f"-c{self.root / 'config'}"]
        ours, theirs, stops = [], [], []
        for _ in range(self.rounds):
            service = self.webserver()
            ours.append(self.ready(service))
            stops.append(service.stop(signal.SIGTERM))
            service = Service(bare, env, self.root, self.log)
            theirs.append(service.until(self.web_port, STATIC_FILE, b"HTTP/"))
            service.stop(signal.SIGINT)
        ours, theirs, stops = Times(ours), Times(theirs), Times(stops)
        self.row(
            f"second start of `webserver` until ready, median (least) of {self.rounds}",
            f"{seconds(ours.median)} ({seconds(ours.least)})",
            f"`bots-webserver` until it answers: {seconds(theirs.median)} ({seconds(theirs.least)})",
        )
        self.row(
            "the difference of the medians (of the least)",
            f"{milliseconds(ours.median - theirs.median)} ({milliseconds(ours.least - theirs.least)})",
            "",
            "≤ 100 ms",
        )
        self.row(f"stop of `webserver` after SIGTERM, median of {self.rounds}", seconds(stops.median))

    def idle(self, service):
        time.sleep(SETTLE)
        switches = measure.all_switches(service.pid, IDLE)
        own = measure.idle(service.pid, IDLE)
        self.row("idle under `webserver`: RSS (PSS)", f"{megabytes(own.rss)} ({megabytes(own.pss)})", "", "≤ 8 MB")
        self.row("… anonymous memory", megabytes(own.anonymous), "", "≤ 2 MB")
        per_second = switches()
        every = "" if per_second is None else f" ({per_second:.1f} with those that came and went)"
        wakeups = f"… wake-ups per second of its {own.threads} threads, over {IDLE} s"
        self.row(wakeups, f"{own.wakeups:.1f}{every}", "", "< 5")
        self.row("… CPU time per second", milliseconds(own.cpu))

    def healthcheck(self):
        ours = [self.binary, "healthcheck", "--check", "ready", "--quiet"]
        python = [str(self.bots / "python"), "-c", PYTHON_PROBE]
        env = self.service_env()
        (times,) = measure.alternating(PROBES, (ours, self.env))
        (theirs,) = measure.alternating(PYTHON_PROBES, (python, env))
        self.row(
            f"`healthcheck --check ready --quiet`: wall, median (p95) of {PROBES}",
            f"{milliseconds(times.median)} ({milliseconds(times.percentile(0.95))})",
            f"Python with Bots's settings, one query, median (p95) of {PYTHON_PROBES}: "
            f"{milliseconds(theirs.median)} ({milliseconds(theirs.percentile(0.95))})",
            "≤ 5 ms",
        )
        ours_peak = max(measure.peak_memory(ours, self.env) for _ in range(10))
        python_peak = max(measure.peak_memory(python, env) for _ in range(3))
        self.row("… peak RSS", megabytes(ours_peak), f"the same Python: {megabytes(python_peak)}", "≤ 6 MB")

    def requests(self):
        """With whichever load generator there is; it shares the machine with the listener."""
        url = f"http://127.0.0.1:{self.health_port}/health/ready"
        generators = [
            ("wrk", ["-t1", "-c8", "-d5s", url], r"Requests/sec:\s+([\d.]+)"),
            ("ab", ["-q", "-k", "-n", "50000", "-c", "8", url], r"Requests per second:\s+([\d.]+)"),
        ]
        for name, args, pattern in generators:
            if program := shutil.which(name):
                if found := re.search(pattern, output([program, *args])):
                    self.row(f"requests to `/health/ready`, {name} with 8 connections", f"{float(found[1]):,.0f}/s")
                    return

    def exec_true(self):
        commands = [("bots-ctl", [self.binary, "exec", "--", "/bin/true"]), ("bare", ["/bin/true"])]
        for name, args in (("tini", ["-s", "--"]), ("dumb-init", ["--"])):
            if program := shutil.which(name):
                commands.append((f"under {name}", [program, *args, "/bin/true"]))
        times = measure.alternating(TRUES, *((argv, self.env) for _, argv in commands))
        beside = [f"{name}: {milliseconds(taken.median)}" for (name, _), taken in zip(commands[1:], times[1:])]
        self.row(f"`exec -- /bin/true`, median of {TRUES}", milliseconds(times[0].median), ", ".join(beside))

    def seeding(self):
        """An init-db with nothing else to do fills an empty usersys."""
        source, copy = self.home / "seed", self.home / "copy"
        make_files(source)
        env = {**self.env, "BOTS_CTL_SEED_USERSYS": str(source)}
        command = [self.binary, "init-db"]
        ours, baseline, theirs, flushed = [], [], [], []
        for _ in range(SEED_ROUNDS):
            shutil.rmtree(self.root / "usersys")
            self.flush()
            ours.extend(measure.alternating(1, (command, env))[0].all)
            # The same without files to copy: a changed usersys is the reason for one Python run.
            (self.root / "usersys/__init__.py").touch()
            baseline.extend(measure.alternating(1, (command, env))[0].all)
            self.flush()
            begin = time.perf_counter()
            subprocess.run(["cp", "-R", source, copy], check=True)
            theirs.append(time.perf_counter() - begin)
            self.flush()
            flushed.append(time.perf_counter() - begin)
            shutil.rmtree(copy)
        ours = Times([with_files - without for with_files, without in zip(ours, baseline)])
        theirs, flushed = Times(theirs), Times(flushed)
        seeded = sum(len(files) for _, _, files in os.walk(self.root / "usersys"))
        if seeded < SEED_FILES:
            raise BenchError(f"only {seeded} files were seeded")
        self.row(
            f"seeding {SEED_FILES:,} files and flushing them, median (least) of {SEED_ROUNDS}",
            f"{seconds(ours.median)} ({seconds(ours.least)})",
            f"`cp -R`: {seconds(theirs.median)} ({seconds(theirs.least)}), "
            f"with `sync`: {seconds(flushed.median)} ({seconds(flushed.least)})",
        )

    def flush(self):
        subprocess.run(["sync", "-f", self.home], check=True)

    def print(self):
        print(f"\n{self.machine()}\n\n{self.versions()}\n")
        print("| measured | bots-ctl | beside it | to reach |\n|---|---|---|---|")
        for row in self.rows:
            print("| " + " | ".join(row) + " |")

    def machine(self):
        cpu = re.search(r"^model name\s*: (.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
        memory = measure.kilobytes("/proc/meminfo")["MemTotal"]
        return (
            f"{cpu[1] if cpu else platform.machine()}, {os.cpu_count()} CPUs, {memory / 2**30:.0f} GB of memory, "
            f"{distribution()}, Linux {platform.release()}; load average before and at the end: {self.load}, {load()}"
        )

    def versions(self):
        bots, django, python = output([self.bots / "python", "-c", VERSIONS]).split()
        return f"{output([self.binary, '--version']).strip()}, Bots {bots}, Django {django}, Python {python}, SQLite"


def output(argv, env=None):
    return subprocess.run(argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True).stdout.decode()


def load():
    return f"{os.getloadavg()[0]:.1f}"


def distribution():
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def make_files(directory):
    """Files of the size of a grammar."""
    content = b"# a line of a grammar, as long as most\n" * 50
    for number in range(SEED_FILES):
        folder = directory / f"folder_{number // SEED_FILES_PER_DIRECTORY:03}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"file_{number:05}.py").write_bytes(content)


def seconds(value):
    return f"{value:.2f} s"


def milliseconds(value):
    return f"{value * 1000:.{1 if abs(value) < 0.1 else 0}f} ms"


def megabytes(value):
    return f"{value / 1e6:.1f} MB"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("binary", type=pathlib.Path, help="the bots-ctl to measure")
    parser.add_argument("--bots", type=pathlib.Path, required=True, help="directory of bots-webserver")
    parser.add_argument("--rounds", type=int, default=10, help="number of starts")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bots-ctl-bench-") as home:
        bench = Bench(options.binary.absolute(), options.bots.absolute(), options.rounds, pathlib.Path(home))
        try:
            bench.run()
        except (BenchError, subprocess.CalledProcessError) as error:
            print(bench.log.read_text(errors="replace")[-4000:] if bench.log.exists() else "", file=sys.stderr)
            sys.exit(f"bench: {error}")
        finally:
            Service.kill_all()
        bench.print()


main()
