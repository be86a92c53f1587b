"""Measures the directory monitor beside Bots's own, and at scale; prints a Markdown table.

python3 -B tests/bench/dirmonitor.py [--bots DIRECTORY] [--rounds N] BINARY

The job queue is a stand-in that notes when it is asked. Works in a temporary directory on free ports; takes two minutes.
"""

import argparse
import os
import pathlib
import queue
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import xmlrpc.server

import measure
from measure import BenchError, Service

DIRECTORIES = 10_000
FILES = 100_000

# How long the cost of doing nothing is measured.
IDLE = 20


class Jobs(threading.Thread):
    """The job queue's port. A call is noted with the time at which it came."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.calls = queue.Queue()
        self.server = xmlrpc.server.SimpleXMLRPCServer(("localhost", port), logRequests=False)
        self.server.register_function(self.addjob)
        self.server.register_function(lambda: 0, "listjobs")

    def addjob(self, task, _priority):
        if task != ["isup"]:
            self.calls.put((time.perf_counter(), task[-1]))
        return 0

    def run(self):
        self.server.serve_forever()

    def forget(self):
        """What was asked for at the start is not what is measured."""
        try:
            while True:
                self.calls.get(timeout=3)
        except queue.Empty:
            pass


class Bench:
    def __init__(self, binary, bots, rounds, home):
        self.binary, self.bots, self.rounds, self.home = str(binary), bots, rounds, home
        self.config = home / ".bots/env/default/config"
        self.log = home / "services.log"
        self.port = measure.free_port(21000 + os.getpid() % 1000 * 10)
        self.health_port = measure.free_port(self.port + 1)
        self.env = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": str(home),
            "BOTS_BIN_DIR": str(bots),
            "BOTS_CTL_HEALTH_ADDR": f"127.0.0.1:{self.health_port}",
            "LOG_LEVEL": "debug",
        }
        self.jobs = Jobs(self.port)
        self.rows = []

    def row(self, what, ours, beside="", target=""):
        self.rows.append((what, ours, beside, target))
        print(f"  {what}: {ours}; {beside}", file=sys.stderr)

    def run(self):
        subprocess.run([self.binary, "init-db"], env=self.env, check=True, capture_output=True)
        self.template = (self.config / "bots.ini").read_text()
        self.jobs.start()
        self.latency()
        self.many_directories()
        self.many_files()

    def sections(self, *sections):
        """A bots.ini with these directories to be monitored, and the queue in use."""
        text = re.sub(r"(?m)^\[dirmonitor\d+\][^\[]*", "", self.template)
        text = re.sub(r"(?ms)^(\[jobqueue\].*?^enabled = )False", r"\1True", text)
        text = re.sub(r"(?ms)^(\[jobqueue\].*?^port = )\d+", rf"\g<1>{self.port}", text)
        for number, section in enumerate(sections, 1):
            text += f"\n[dirmonitor{number}]\n" + "".join(f"{key} = {value}\n" for key, value in section.items())
        (self.config / "bots.ini").write_text(text)

    def start(self):
        service = Service([self.binary, "dirmonitor"], self.env, self.home, self.log)
        return service, service.until(self.health_port, "GET /health/ready", b"HTTP/1.1 200")

    def latency(self):
        watched = self.home / "watched"
        watched.mkdir()
        outside = self.home / "outside"
        outside.mkdir()
        times = {}
        for name, keys in (("inotify", {}), ("poll", {"watch": "poll"})):
            self.sections({"path": watched, "route": name, **keys})
            service, _ = self.start()
            times[name] = self.renames(outside, watched, name)
            service.stop(signal.SIGTERM)
        self.sections({"path": watched, "route": "python"})
        printed = subprocess.run([self.binary, "exec", "--", "env", "-0"], env=self.env, check=True, capture_output=True)
        env = dict(entry.split("=", 1) for entry in printed.stdout.decode().split("\0") if entry)
        service = Service([str(self.bots / "bots-dirmonitor"), f"-c{self.config}"], env, self.home, self.log)
        self.wait_for_inotify(service.pid)
        python = self.renames(outside, watched, "python")
        service.stop(signal.SIGTERM)
        beside = f"bots-dirmonitor {milliseconds(python)}"
        self.row("rename into place until the job is submitted, inotify", milliseconds(times["inotify"]), beside, "< 100 ms")
        self.row("the same, polled every second", milliseconds(times["poll"]), beside, "< 1200 ms")

    def wait_for_inotify(self, pid):
        deadline = time.perf_counter() + measure.DEADLINE
        while time.perf_counter() < deadline:
            for descriptor in pathlib.Path(f"/proc/{pid}/fdinfo").iterdir():
                try:
                    if "inotify wd" in descriptor.read_text():
                        return
                except OSError:
                    pass
            time.sleep(0.05)
        raise BenchError("bots-dirmonitor watches nothing")

    def renames(self, outside, watched, route):
        self.jobs.forget()
        times = []
        for number in range(self.rounds):
            name = f"{route}-{number}.xml"
            (outside / name).write_text("content")
            begin = time.perf_counter()
            os.rename(outside / name, watched / name)
            at, task = self.jobs.calls.get(timeout=measure.DEADLINE)
            if task != route:
                raise BenchError(f"a job for {task}, where {route} was to be run")
            times.append(at - begin)
            # At any moment between two looks.
            time.sleep(0.6 + number * 0.137 % 1)
        return times

    def many_directories(self):
        root = self.home / "many"
        for number in range(DIRECTORIES):
            (root / str(number)).mkdir(parents=True)
        self.sections({"path": root / "*", "route": "r"})
        self.start()[0].stop(signal.SIGTERM)
        service, took = self.start()
        self.at_rest(f"{DIRECTORIES} directories by one mask", service, took)
        (root / "5000" / "file").write_text("content")
        self.jobs.calls.get(timeout=measure.DEADLINE)
        service.stop(signal.SIGTERM)
        self.sections(*({"path": root / str(number), "route": f"r{number}"} for number in range(DIRECTORIES)))
        self.start()[0].stop(signal.SIGTERM)
        service, took = self.start()
        self.at_rest(f"{DIRECTORIES} sections", service, took)
        service.stop(signal.SIGTERM)

    def at_rest(self, what, service, took):
        self.row(f"{what}: start until ready", f"{took:.2f} s", "", "< 2 s")
        time.sleep(5)
        idle = measure.idle(service.pid, IDLE)
        self.row(f"{what}: resident memory", f"{idle.rss / 1e6:.1f} MB", f"{idle.anonymous / 1e6:.1f} MB of it anonymous", "< 40 MB")
        self.row(f"{what}: idle", f"{idle.cpu * 100:.2f} % of a core", "", "< 1 %")

    def many_files(self):
        root = self.home / "files"
        for number in range(FILES):
            directory = root / str(number % 100)
            if number < 100:
                directory.mkdir(parents=True)
            (directory / f"{number}.xml").touch()
        self.sections({"path": root, "route": "r", "recursive": "True", "watch": "poll"})
        before = self.log.stat().st_size
        service, _ = self.start()
        time.sleep(10)
        rss = measure.idle(service.pid, 5).rss
        service.stop(signal.SIGTERM)
        with open(self.log, encoding="utf-8") as log:
            log.seek(before)
            looks = [float(took) for took in re.findall(r"a look at everything of \S+ and below took ([0-9.]+) s", log.read())]
        self.row(f"a look at {FILES} files in 100 directories, median of {len(looks)}", f"{statistics.median(looks):.2f} s", f"{rss / 1e6:.1f} MB resident", "< 1 s")


def milliseconds(times):
    ordered = sorted(times)
    return f"{statistics.median(times) * 1000:.0f} ms (at most {ordered[-1] * 1000:.0f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bots", default=os.path.expanduser("~/.bots/venv/bin"), type=pathlib.Path)
    parser.add_argument("--rounds", default=15, type=int)
    parser.add_argument("binary", type=pathlib.Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bots-ctl-bench-") as home:
        bench = Bench(arguments.binary.resolve(), arguments.bots.absolute(), arguments.rounds, pathlib.Path(home).resolve())
        try:
            bench.run()
        except BenchError as error:
            sys.exit(f"dirmonitor.py: {error}")
        finally:
            Service.kill_all()
    print(f"\n{bench.rounds} renames; load {os.getloadavg()[0]:.1f}\n")
    print("| | bots-ctl | beside it, same run | target |\n|---|---|---|---|")
    for row in bench.rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
