#!/usr/bin/env python3
"""Measures the job queue of bots-ctl beside Bots 4's own server.

    cargo build --release && python3 -B tests/bench/jobs.py --bots /path/to/bots4/bin

Takes about three minutes. Both keep the same jobs in the same environment, one after the other; while one job holds the queue
up, all others wait. Calls are those of Python's xmlrpc.client, byte for byte: from wrk where it is installed, since clients in
Python need a core for themselves, else from as many processes as there are clients. Each connection is kept where the server
lets it, which Bots's does not. The database is SQLite, or the one of DB_ENGINE, DB_NAME and so on. The durable queue answers
when the database has the job; Bots's keeps it in memory. Options of all scripts: a binary, --bots DIRECTORY, --quick.
"""

import multiprocessing
import os
import pathlib
import re
import shutil
import socket
import time

import measure
import place
from measure import BenchError, Times
from place import Place
from table import Table, duration, megabytes, rate, spread

WRK_SCRIPT = pathlib.Path(__file__).with_name("jobs.lua")

CALL = (
    "<?xml version='1.0'?>\n<methodCall>\n<methodName>{method}</methodName>\n<params>\n{params}</params>\n</methodCall>\n"
)
ADD = (
    "<param>\n<value><array><data>\n{words}</data></array></value>\n</param>\n"
    "<param>\n<value><int>5</int></value>\n</param>\n"
)

# Notes when it was started; stays until a file is there when asked to, at most until the end of the measurement.
TASK = """#!/bin/sh
date +%s.%N >>"$HOME/started"
if [ "$1" = hold ]; then while [ ! -e "$HOME/go" ] && [ -d "$HOME" ]; do sleep 0.05; done; fi
"""


class Client:
    """Calls over one connection for as long as the server keeps it."""

    def __init__(self, port):
        self.port, self.stream = port, None

    def call(self, method, params=""):
        body = CALL.format(method=method, params=params).encode()
        head = f"POST /RPC2 HTTP/1.1\r\nHost: localhost:{self.port}\r\nContent-Type: text/xml\r\n"
        request = f"{head}User-Agent: Python-xmlrpc/3.11\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        if self.stream is None:
            self.stream = socket.create_connection(("127.0.0.1", self.port), timeout=30)
            self.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.stream.sendall(request)
        answer = b""
        while b"</methodResponse>" not in answer:
            part = self.stream.recv(1 << 20)
            if not part:
                break
            answer += part
        if answer.startswith(b"HTTP/1.0"):
            self.stream.close()
            self.stream = None
        return answer

    def add(self, *words):
        listed = "".join(f"<value><string>{word}</string></value>\n" for word in words)
        answer = self.call("addjob", ADD.format(words=listed))
        if not re.search(rb"<(?:int|i4)>0</", answer):
            raise BenchError(f"addjob was answered {answer[-300:]}")


def hammer(port, name, task, seconds, results):
    """One client: adds a job after the other."""
    client, taken, end = Client(port), [], time.perf_counter() + seconds
    number = 0
    while (begin := time.perf_counter()) < end:
        client.add(task, f"{name}-{number}")
        taken.append(time.perf_counter() - begin)
        number += 1
    results.put(taken)


class Bench:
    def __init__(self, given, home):
        database = {name: value for name, value in os.environ.items() if name.startswith("DB_")}
        self.here = Place(given.binary, given.bots, home, database)
        self.title = f"Job queue, on {database.get('DB_ENGINE', 'SQLite')}, compared with Bots 4's server, in memory"
        self.seconds, self.starts = (1, 5) if given.quick else (4, 30)
        self.waiting, self.at_length, self.leases = (500, 20, 10) if given.quick else (10_000, 200, 60)
        self.wrk = shutil.which("wrk")
        # With the least rate, as a multiple of Bots's.
        self.clients = {1: "≥ 1 ×", 8: "≥ 4 ×", 32: ""}

    def prepare(self):
        self.here.init_db()
        self.task = self.here.home / "task"
        self.task.write_text(TASK)
        self.task.chmod(0o755)
        self.here.use_queue(f"authorized_tasks = {self.task}", "nr_threads = 1")

    def client(self):
        return Client(self.here.queue_port)

    def queue(self, backend):
        # The bare server: what bots-ctl adds to it is no part of this.
        is_ours = backend == "native"
        service = self.here.start("jobqueue") if is_ours else self.here.start_bare("bots-jobqueueserver")
        place.wait_for(f"the {backend} queue answers", self.answers, 0.02)
        return service

    def answers(self):
        try:
            return self.client().call("listjobs")
        except OSError:
            return None

    def end(self, service):
        (self.here.home / "go").touch()
        service.kill()
        (self.here.home / "go").unlink()
        (self.here.home / "started").unlink(missing_ok=True)

    def started(self):
        try:
            return [float(line) for line in (self.here.home / "started").read_text().split()]
        except FileNotFoundError:
            return []

    def wait_started(self, count):
        place.wait_for("a job is started", lambda: len(self.started()) >= count)
        return self.started()[count - 1]

    def hold(self):
        """From here on everything waits."""
        before = len(self.started())
        self.client().add(str(self.task), "hold")
        self.wait_started(before + 1)

    def one_backend(self, backend):
        found = {}
        service = self.queue(backend)
        time.sleep(3)
        found["idle"] = measure.memory(service.pid).rss
        found["start"] = self.start_times()
        self.hold()
        for clients in self.clients:
            self.client().call("clearjobq")
            found[clients] = (self.by_wrk if self.wrk else self.by_python)(backend, clients)
        self.behind_many(service, found)
        self.end(service)
        return found

    def start_times(self):
        client, taken = self.client(), []
        for number in range(self.starts):
            submitted = time.time()
            client.add(str(self.task), f"start-{number}")
            taken.append(self.wait_started(number + 1) - submitted)
            # Its end is a moment after its start.
            time.sleep(0.05)
        return Times(taken)

    def by_wrk(self, backend, clients):
        """Jobs per second, and the latency as shown."""
        command = [self.wrk, "-t1", f"-c{clients}", f"-d{self.seconds}s", "--timeout", "30s", "-s", WRK_SCRIPT]
        said = place.output([*command, f"http://127.0.0.1:{self.here.queue_port}", "--", self.task, f"{backend}-{clients}"])
        told = re.search(r"^told (\d+) (\d+) (\d+) (\d+) (\d+) (\d+)$", said, re.M)
        if not told:
            raise BenchError(f"wrk says: {said}")
        requests, took, refused, failed, p50, p95 = map(int, told.groups())
        if refused or failed:
            raise BenchError(f"{refused} jobs were refused and {failed} calls failed, of {requests}, by the {backend} queue")
        return requests / took * 1e6, duration(p50 / 1e6).also(f"p95 {duration(p95 / 1e6).text}")

    def by_python(self, backend, clients):
        results, begin = multiprocessing.Queue(), time.perf_counter()
        arguments = (str(self.task), self.seconds, results)
        names = [f"{backend}-{clients}-{number}" for number in range(clients)]
        processes = [multiprocessing.Process(target=hammer, args=(self.here.queue_port, name, *arguments)) for name in names]
        for process in processes:
            process.start()
        taken = [time for _ in processes for time in results.get()]
        for process in processes:
            process.join()
        return len(taken) / (time.perf_counter() - begin), spread(Times(taken))

    def behind_many(self, service, found):
        client = self.client()
        client.call("clearjobq")
        before = measure.memory(service.pid).rss
        for number in range(self.waiting):
            client.add(str(self.task), f"long-{number}")
        taken = []
        for number in range(self.at_length):
            begin = time.perf_counter()
            client.add(str(self.task), f"longer-{number}")
            taken.append(time.perf_counter() - begin)
        found["long"] = Times(taken)
        found["growth"] = measure.memory(service.pid).rss - before
        client.call("clearjobq")

    def run(self):
        self.prepare()
        if not self.here.is_bots_4():
            raise BenchError(f"the job queue of Bots 3.3.1 in {self.here.bots} runs no jobs: give --bots the programs of Bots 4")
        ours, theirs = self.one_backend("native"), self.one_backend("python")
        table = Table(self.title)
        row = lambda what, show, key, target: table.row(what, show(ours[key]), {"Bots": show(theirs[key])}, target)
        row("idle: RSS", megabytes, "idle", "≤ 12 MB")
        what = f"from the call of `addjob` to the start of a job that is first in line, median of {self.starts}"
        row(what, spread, "start", "≤ 50 ms")
        source = "wrk" if self.wrk else "Python"
        for clients, target in self.clients.items():
            what = f"`addjob` from {clients} clients ({source}) for {self.seconds} s: jobs"
            row(what, lambda found: rate(found[0]), clients, target)
            row("… latency, median", lambda found: found[1], clients, "")
        row(f"`addjob` behind {self.waiting:,} waiting jobs, median of {self.at_length}", spread, "long", "< 5 ms")
        row("… growth of RSS by those jobs", megabytes, "growth", "flat")
        self.lease(table)
        return table

    def lease(self, table):
        """An engine that does nothing, with the lease; and the same program under the same preparations without."""
        programs = self.here.stand_in("bots-engine", "/bin/true")
        env = {**self.here.env, "BOTS_BIN_DIR": str(programs), "LOG_LEVEL": "error"}
        place.output([self.here.binary, "engine"], env)
        commands = [([self.here.binary, *words], env) for words in (["engine"], ["exec", "--", str(programs / "bots-engine")])]
        with_lease, without = measure.alternating(self.leases, *commands)
        cost = f"lease and all checks ≤ 8 ms: {(with_lease.median - without.median) * 1e3:.1f} ms"
        beside = {"`exec` of the same": spread(without)}
        table.row(f"`engine` with an engine that does nothing, median of {self.leases}", spread(with_lease), beside, cost)


def measured(given, home):
    yield Bench(given, home).run()


if __name__ == "__main__":
    place.bench(place.options(__doc__), measured)
