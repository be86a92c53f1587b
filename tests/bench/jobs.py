#!/usr/bin/env python3
"""Measures the job queue of bots-ctl beside Bots 4's own server, in one run, and prints a Markdown table.

    cargo build --release && python3 -B tests/bench/jobs.py --bots /path/to/bots4/bin target/release/bots-ctl

Takes about three minutes. Both keep the same jobs in the same environment, one after the other; while one job holds the queue
up, all others wait. Calls are those of Python's xmlrpc.client, byte for byte, from as many processes as there are
clients; each keeps its connection where the server lets it, which Bots's does not. The database is SQLite, or the one of
DB_ENGINE, DB_NAME and so on. The durable queue answers when the database has the job; Bots's keeps it in memory.
"""

import argparse
import multiprocessing
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import measure
from measure import BenchError, Service, Times

SECONDS = 4
CLIENTS = (1, 8, 32)
STARTS = 30
WAITING = 10_000
AT_LENGTH = 200
LEASES = 60

CALL = (
    "<?xml version='1.0'?>\n<methodCall>\n<methodName>{method}</methodName>\n<params>\n{params}</params>\n</methodCall>\n"
)
ADD = (
    "<param>\n<value><array><data>\n{words}</data></array></value>\n</param>\n"
    "<param>\n<value><int>5</int></value>\n</param>\n"
)

# Notes when it was started; stays until a file is there when asked to.
TASK = """#!/bin/sh
date +%s.%N >>"$HOME/started"
if [ "$1" = hold ]; then while [ ! -e "$HOME/go" ]; do sleep 0.05; done; fi
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
    def __init__(self, binary, bots, home):
        self.binary, self.bots, self.home = str(binary), bots, home
        self.root, self.log = home / ".bots/env/default", home / "services.log"
        self.port = measure.free_port(20000 + os.getpid() % 1000 * 10)
        self.health_port = measure.free_port(self.port + 1)
        self.env = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": str(home),
            "BOTS_BIN_DIR": str(bots),
            "BOTS_CTL_HEALTH_ADDR": f"127.0.0.1:{self.health_port}",
            **{name: value for name, value in os.environ.items() if name.startswith("DB_")},
        }
        self.rows = []

    def row(self, what, ours, theirs="", target=""):
        self.rows.append((what, ours, theirs, target))
        print(f"  {what}: {ours}; {theirs}", file=sys.stderr)

    def prepare(self):
        subprocess.run([self.binary, "init-db"], env=self.env, check=True, capture_output=True)
        self.task = self.home / "task"
        self.task.write_text(TASK)
        self.task.chmod(0o755)
        ini = self.root / "config/bots.ini"
        text = re.sub(r"(?ms)^\[jobqueue\].*?(?=^\[)", "", ini.read_text())
        ini.write_text(
            f"{text}\n[jobqueue]\nenabled = True\nport = {self.port}\nauthorized_tasks = {self.task}\nnr_threads = 1\n"
        )

    def queue(self, backend):
        command = [self.binary, "jobqueue", "--backend", backend]
        if backend == "python":
            # The bare server: what bots-ctl adds to it is no part of this.
            command = [str(self.bots / "bots-jobqueueserver"), f"-c{self.root / 'config'}"]
        service = Service(command, self.env, self.root, self.log)
        deadline = time.perf_counter() + measure.DEADLINE
        while time.perf_counter() < deadline:
            try:
                Client(self.port).call("listjobs")
                return service
            except OSError:
                time.sleep(0.02)
        raise BenchError(f"{backend} does not answer")

    def end(self, service):
        (self.home / "go").touch()
        os.killpg(service.pid, signal.SIGKILL)
        service.process.wait()
        service.running.remove(service)
        (self.home / "go").unlink()
        (self.home / "started").unlink(missing_ok=True)

    def started(self):
        try:
            return [float(line) for line in (self.home / "started").read_text().split()]
        except FileNotFoundError:
            return []

    def wait_started(self, count):
        deadline = time.perf_counter() + measure.DEADLINE
        while len(self.started()) < count:
            if time.perf_counter() > deadline:
                raise BenchError("a job was not started")
            time.sleep(0.005)
        return self.started()[count - 1]

    def hold(self):
        """From here on everything waits."""
        before = len(self.started())
        Client(self.port).add(str(self.task), "hold")
        self.wait_started(before + 1)

    def one_backend(self, backend):
        found = {}
        service = self.queue(backend)
        time.sleep(3)
        found["idle"] = measure.idle(service.pid, 5).rss
        found["start"] = self.start_times()
        self.hold()
        for clients in CLIENTS:
            Client(self.port).call("clearjobq")
            found[clients] = self.rate(backend, clients)
        self.at_length(service, found)
        self.end(service)
        return found

    def start_times(self):
        client, taken = Client(self.port), []
        for number in range(STARTS):
            client.add(str(self.task), f"start-{number}")
            submitted = time.time()
            taken.append(self.wait_started(number + 1) - submitted)
            # Its end is a moment after its start.
            time.sleep(0.05)
        return Times(taken)

    def rate(self, backend, clients):
        results, begin = multiprocessing.Queue(), time.perf_counter()
        arguments = [(self.port, f"{backend}-{clients}-{n}", str(self.task), SECONDS, results) for n in range(clients)]
        processes = [multiprocessing.Process(target=hammer, args=args) for args in arguments]
        for process in processes:
            process.start()
        taken = [time for _ in processes for time in results.get()]
        for process in processes:
            process.join()
        return len(taken) / (time.perf_counter() - begin), Times(taken)

    def at_length(self, service, found):
        client = Client(self.port)
        client.call("clearjobq")
        before = measure.kilobytes(f"/proc/{service.pid}/status")["VmRSS"]
        for number in range(WAITING):
            client.add(str(self.task), f"long-{number}")
        taken = []
        for number in range(AT_LENGTH):
            begin = time.perf_counter()
            client.add(str(self.task), f"longer-{number}")
            taken.append(time.perf_counter() - begin)
        found["long"] = Times(taken)
        found["growth"] = measure.kilobytes(f"/proc/{service.pid}/status")["VmRSS"] - before
        client.call("clearjobq")

    def run(self):
        self.prepare()
        ours, theirs = self.one_backend("native"), self.one_backend("python")
        self.row("idle: RSS", megabytes(ours["idle"]), megabytes(theirs["idle"]), "≤ 12 MB")
        spread = lambda times: f"{milliseconds(times.median)} ({milliseconds(times.percentile(0.95))})"
        self.row(
            f"start of a job that is first in line after `addjob` has answered, median (p95) of {STARTS}",
            spread(ours["start"]), spread(theirs["start"]), "≤ 50 ms",
        )
        for clients in CLIENTS:
            (rate, times), (their_rate, their_times) = ours[clients], theirs[clients]
            self.row(
                f"`addjob` from {clients} clients for {SECONDS} s: jobs per second",
                f"{rate:,.0f}", f"{their_rate:,.0f}", f"20 ×: is {rate / their_rate:.1f} ×",
            )
            self.row("… latency, median (p95)", spread(times), spread(their_times), "no more")
        self.row(f"`addjob` behind {WAITING:,} waiting jobs, median (p95)", spread(ours["long"]), spread(theirs["long"]), "< 5 ms")
        self.row("… growth of RSS by those jobs", megabytes(ours["growth"]), megabytes(theirs["growth"]), "flat")
        self.lease()

    def lease(self):
        """An engine that does nothing, with the lease; and the same program under the same preparations without."""
        venv = self.home / "venv"
        shutil.copytree(self.bots, venv / "bin", symlinks=True)
        for name in ("lib", "lib64", "pyvenv.cfg"):
            (venv / name).symlink_to(self.bots.parent / name)
        engine = venv / "bin/bots-engine"
        engine.unlink()
        engine.symlink_to("/bin/true")
        env = {**self.env, "BOTS_BIN_DIR": str(venv / "bin"), "LOG_LEVEL": "error"}
        subprocess.run([self.binary, "engine"], env=env, check=True)
        commands = [([self.binary, *words], env) for words in (["engine"], ["exec", "--", str(engine)])]
        with_lease, without = measure.alternating(LEASES, *commands)
        self.row(
            f"`engine` with an engine that does nothing, median of {LEASES}",
            milliseconds(with_lease.median),
            f"`exec` of the same: {milliseconds(without.median)}",
            f"lease ≤ 10 ms: with all checks {milliseconds(with_lease.median - without.median)}",
        )

    def print(self):
        database = self.env.get("DB_ENGINE", "SQLite")
        print(f"\n{os.cpu_count()} CPUs, {database}; load average at the end: {os.getloadavg()[0]:.1f}\n")
        print("| measured | bots-ctl, durable | Bots 4's server, in memory | to reach |\n|---|---|---|---|")
        for row in self.rows:
            print("| " + " | ".join(row) + " |")


def milliseconds(value):
    return f"{value * 1000:.{2 if abs(value) < 0.01 else 1}f} ms"


def megabytes(value):
    return f"{value / 1e6:.1f} MB"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=pathlib.Path, help="the bots-ctl to measure")
    parser.add_argument("--bots", type=pathlib.Path, required=True, help="directory of the programs of Bots 4")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bots-ctl-bench-") as home:
        bench = Bench(options.binary.absolute(), options.bots.absolute(), pathlib.Path(home))
        try:
            bench.run()
        except (BenchError, subprocess.CalledProcessError) as error:
            print(bench.log.read_text(errors="replace")[-4000:] if bench.log.exists() else "", file=sys.stderr)
            sys.exit(f"bench: {error}")
        finally:
            Service.kill_all()
        bench.print()


main()
