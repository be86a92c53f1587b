#!/usr/bin/env python3
"""Measures the way of a file from its channel to the translated one, beside Bots's own monitor and job queue, and what a run costs.

    cargo build --release && python3 -B tests/bench/file_to_result.py --bots DIRECTORY

The job queue of Bots 3.3.1 runs no jobs, so this takes the programs of Bots 4. Takes about five minutes. Options of all scripts:
a binary, --bots DIRECTORY, --quick.
"""

import contextlib
import os
import re
import signal
import time
import xmlrpc.client

import measure
import place
from measure import Times
from place import ROOT, Place
from table import Figure, Table, duration, megabytes, rate

FIXTURE = ROOT / "tests/fixtures/demo"


class Chain:
    """A monitor, a job queue and a route. `warm` is the setting of bots-ctl; without it both services are those of Bots."""

    def __init__(self, given, home, number, warm=None):
        variables = {"BOTS_CTL_UP_SERVICES": "jobqueue,dirmonitor", "BOTS_CTL_ALLOW_UNKNOWN_ROUTES": "true"}
        if warm:
            variables["BOTS_CTL_ENGINE_WARM"] = warm
        self.here = Place(given.binary, given.bots, home / str(number), variables, number)
        self.here.init_db()
        self.here.use_queue()
        self.order = (FIXTURE / "input/single.edi").read_text()
        place.output([given.binary, "exec", "--", str(given.bots / "python"), str(FIXTURE / "install.py"), str(self.here.config)], self.here.env)
        self.inputs, self.outputs = (self.here.root / "botssys" / name / "demo" for name in ("infile", "outfile"))
        ini = self.here.config / "bots.ini"
        text = re.sub(r"(?m)^\[dirmonitor\d+\][^\[]*", "", ini.read_text())
        text = re.sub(r"(?m)^port *= *28081", f"port = {measure.free_port(self.here.queue_port + 1)}", text)
        ini.write_text(f"{text}\n[dirmonitor1]\npath = {self.inputs}\nroute = demo_orders\n")
        self.count = 0
        if warm:
            self.services = [self.here.start("up")]
            self.here.ready(self.services[0])
        else:
            self.services = [self.here.start_bare("bots-jobqueueserver")]
            self.services[0].until(self.here.queue_port, "POST /RPC2", b"HTTP/1.")
            self.services.append(self.here.start_bare("bots-dirmonitor"))
            place.wait_for("bots-dirmonitor watches", lambda: measure.has_inotify(self.services[1].pid), 0.05)

    def put(self):
        """A file of its own order, moved into the channel as a whole."""
        self.count += 1
        name = f"order-{self.count}"
        path = self.here.home / name
        path.write_text(self.order.replace("PO-1001", f"PO-{self.count}"))
        os.rename(path, self.inputs / f"{name}.edi")

    def results(self):
        return len(os.listdir(self.outputs))

    def one(self):
        """Seconds from the rename to the file that is sent."""
        before, begin = self.results(), time.perf_counter()
        self.put()
        place.wait_for("the file is translated", lambda: self.results() > before, 0.001)
        return time.perf_counter() - begin

    def files(self, rounds):
        """After some that bring all caches, and the engine host."""
        for _ in range(3):
            self.one()
            time.sleep(1)
        taken, cpu = [], self.cpu()
        for number in range(rounds):
            taken.append(self.one())
            time.sleep(0.3 + number * 0.137 % 0.5)
        return Times(taken), (self.cpu() - cpu) / rounds

    def cpu(self):
        """Of all processes, those that have ended included."""
        total, tick = 0, os.sysconf("SC_CLK_TCK")
        for pid in [pid for service in self.services for pid in (service.pid, *measure.below(service.pid))]:
            with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
                total += sum(map(int, stat.read().rsplit(")", 1)[1].split()[11:15])) / tick
        return total

    def stream(self, seconds, pause):
        """Results per second while files come at a steady pace."""
        first, before, end = self.count, self.results(), time.perf_counter() + seconds
        begin = time.perf_counter()
        while time.perf_counter() < end:
            self.put()
            time.sleep(pause)
        wanted = before + self.count - first
        place.wait_for("all are translated", lambda: self.results() >= wanted, 0.01)
        return (wanted - before) / (time.perf_counter() - begin)

    def runs(self, jobs):
        """Runs per second, each of a route of its own that has nothing to do."""
        queue = xmlrpc.client.ServerProxy(f"http://localhost:{self.here.queue_port}")
        pattern = "job [0-9]+ finished after"
        before, begin = self.ended(pattern), time.perf_counter()
        for number in range(jobs):
            queue.addjob(["bots-engine", "--new", f"route-{number}"], 5)
        place.wait_for("all jobs have ended", lambda: self.ended(pattern) - before >= jobs, 0.05)
        return jobs / (time.perf_counter() - begin)

    def ended(self, pattern):
        return len(re.findall(pattern, self.here.log.read_text(errors="replace")))

    def memory(self):
        """The queue with all below it."""
        return measure.memory(self.services[0].pid, *measure.below(self.services[0].pid)).pss

    def stop(self):
        for service in reversed(self.services):
            service.stop(signal.SIGTERM)
        # Bots's own queue leaves its engine running.
        place.wait_for("no engine runs", lambda: not measure.inside(self.here.home), 0.05)


def measured(given, home):
    rounds, jobs, seconds = (4, 10, 5) if given.quick else (40, 30, 30)
    table = Table("From a file to its result")
    times, cpus, memories, runs, streams = {}, {}, {}, {}, {}
    for number, (name, warm) in enumerate((("ours", "auto"), ("cold", "off"), ("bots", None))):
        chain = Chain(given, home, number, warm)
        if warm:
            memories[name, "before"] = chain.memory()
        times[name], cpus[name] = chain.files(rounds)
        if warm:
            memories[name, "after"] = chain.memory()
            runs[name] = chain.runs(jobs)
        streams[name] = chain.stream(seconds, 0.05)
        chain.stop()
    beside = lambda figures, show: {"`engine.warm = off`": show(figures["cold"]), "Bots's own monitor and queue": show(figures["bots"])}
    both = lambda taken: duration(taken.median).also(f"p99 {duration(taken.percentile(0.99)).text}")
    table.row(f"rename into the channel until the result is sent, median of {rounds}", both(times["ours"]), beside(times, both), "≤ 150 ms")
    table.row("… CPU time of all processes for each file", duration(cpus["ours"]), beside(cpus, duration), "≤ 150 ms")
    per_second = lambda value: Figure(value, f"{value:.1f}/s")
    table.row(f"{jobs} runs of a route each, from one queue", per_second(runs["ours"]), {"`engine.warm = off`": per_second(runs["cold"])}, "≥ 5 ×")
    table.row(f"a file each 50 ms for {seconds} s: results", per_second(streams["ours"]), beside(streams, per_second))
    memory = megabytes(memories["ours", "after"]).also(f"before the first run {megabytes(memories['ours', 'before']).text}")
    table.row("job queue and monitor at rest after runs, with the engine host, PSS", memory, {"`engine.warm = off`": megabytes(memories["cold", "after"])})
    yield table


if __name__ == "__main__":
    place.bench(place.options(__doc__), measured)
