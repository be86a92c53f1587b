#!/usr/bin/env python3
"""Measures the directory monitor beside Bots's own, and at scale.

    cargo build --release && python3 -B tests/bench/dirmonitor.py

The job queue is a stand-in that notes when it is asked. Takes three minutes. Options of all scripts: a binary,
--bots DIRECTORY, --quick.
"""

import os
import queue
import re
import signal
import threading
import time
import xmlrpc.server

import measure
import place
from measure import BenchError, Times
from place import Place
from table import Table, duration, megabytes, percent


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
    def __init__(self, given, home):
        self.home, self.here = home, Place(given.binary, given.bots, home, {"LOG_LEVEL": "debug"})
        self.rounds, self.directories, self.files = (3, 500, 5_000) if given.quick else (15, 10_000, 100_000)
        self.settle, self.idle = (1, 3) if given.quick else (5, 20)
        self.jobs = Jobs(self.here.queue_port)
        self.table = Table("Directory monitor")

    def run(self):
        self.here.init_db()
        self.here.use_queue()
        self.template = re.sub(r"(?m)^\[dirmonitor\d+\][^\[]*", "", (self.here.config / "bots.ini").read_text())
        self.jobs.start()
        self.latency()
        self.many_directories()
        self.many_files()

    def sections(self, *sections):
        """A bots.ini with these directories to be monitored."""
        text = self.template
        for number, section in enumerate(sections, 1):
            text += f"\n[dirmonitor{number}]\n" + "".join(f"{key} = {value}\n" for key, value in section.items())
        (self.here.config / "bots.ini").write_text(text)

    def start(self):
        service = self.here.start("dirmonitor")
        return service, self.here.ready(service)

    def latency(self):
        watched, outside = self.home / "watched", self.home / "outside"
        watched.mkdir()
        outside.mkdir()
        times = {}
        for name, keys in (("inotify", {}), ("poll", {"watch": "poll"})):
            self.sections({"path": watched, "route": name, **keys})
            service, _ = self.start()
            times[name] = self.renames(outside, watched, name)
            service.stop(signal.SIGTERM)
        self.sections({"path": watched, "route": "python"})
        service = self.here.start_bare("bots-dirmonitor")
        place.wait_for("bots-dirmonitor watches something", lambda: measure.has_inotify(service.pid), 0.05)
        bots = {"`bots-dirmonitor`": self.renames(outside, watched, "python")}
        service.stop(signal.SIGTERM)
        what = f"rename into place until the job is submitted, inotify, median of {self.rounds}"
        self.table.row(what, times["inotify"], bots, "< 100 ms")
        self.table.row("the same, polled every second", times["poll"], bots, "< 1200 ms")

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
        return duration(Times(times).median).also(f"longest {duration(max(times)).text}")

    def many_directories(self):
        root = self.home / "many"
        for number in range(self.directories):
            (root / str(number)).mkdir(parents=True)
        self.sections({"path": root / "*", "route": "r"})
        self.start()[0].stop(signal.SIGTERM)
        service, took = self.start()
        self.at_rest(f"{self.directories:,} directories by one mask", service, took)
        (root / str(self.directories // 2) / "file").write_text("content")
        self.jobs.calls.get(timeout=measure.DEADLINE)
        service.stop(signal.SIGTERM)
        self.sections(*({"path": root / str(number), "route": f"r{number}"} for number in range(self.directories)))
        self.start()[0].stop(signal.SIGTERM)
        service, took = self.start()
        self.at_rest(f"{self.directories:,} sections", service, took)
        service.stop(signal.SIGTERM)

    def at_rest(self, what, service, took):
        self.table.row(f"{what}: start until ready", duration(took), target="< 2 s")
        time.sleep(self.settle)
        idle = measure.idle(service.pid, self.idle)
        memory = megabytes(idle.rss).also(f"{megabytes(idle.anonymous).text} of it anonymous")
        self.table.row(f"{what}: resident memory", memory, target="< 40 MB")
        self.table.row(f"{what}: idle, of a core", percent(idle.cpu), target="< 1 %")

    def many_files(self):
        root = self.home / "files"
        for number in range(self.files):
            directory = root / str(number % 100)
            if number < 100:
                directory.mkdir(parents=True)
            (directory / f"{number}.xml").touch()
        self.sections({"path": root, "route": "r", "recursive": "True", "watch": "poll"})
        before = self.here.log.stat().st_size
        service, _ = self.start()
        looks = place.wait_for("it has looked at everything", lambda: self.looks(before), 0.5)
        rss = measure.memory(service.pid).rss
        service.stop(signal.SIGTERM)
        what = f"a look at {self.files:,} files in 100 directories, median of {len(looks)}"
        self.table.row(what, duration(Times(looks).median).also(f"{megabytes(rss).text} resident"), target="< 1 s")

    def looks(self, since):
        """How long each look took, once there are some."""
        with open(self.here.log, encoding="utf-8") as log:
            log.seek(since)
            pattern = r"the full scan of \S+ and below took ([0-9.]+) s"
            looks = [float(took) for took in re.findall(pattern, log.read())]
        return looks if len(looks) >= 3 else None


def measured(given, home):
    bench = Bench(given, home)
    bench.run()
    yield bench.table


if __name__ == "__main__":
    place.bench(place.options(__doc__), measured)
