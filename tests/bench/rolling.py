#!/usr/bin/env python3
"""Measures what a rolling restart of two web servers loses behind a balancer, and how long each takes to stop: bots-ctl, and
Bots's web server below tini.

    cargo build --release && python3 -B tests/bench/rolling.py

Takes about three minutes. The balancer sends requests to who was ready when it was last asked, as a cluster does; a server is
told to end once its successor is ready. Options of all scripts: a binary, --bots DIRECTORY, --quick.
"""

import dataclasses
import itertools
import shutil
import signal
import socket
import threading
import time

import place
from measure import BenchError, Service, Times
from place import Place
from table import Figure, Table, duration

SENDERS = 4

# How often readiness is asked for, and how long bots-ctl goes on serving when it is not ready any more: the same one to four as
# in the manifests, four times as fast.
PERIOD = 0.5
DRAIN = "2s"

PAGE = "/login/"


@dataclasses.dataclass
class Backend:
    """A server, and where it tells whether it is ready."""

    service: Service
    web_port: int
    ready_port: int
    ready_path: str
    is_ready: bool = True
    is_gone: bool = False

    def look(self):
        while not self.is_gone:
            self.is_ready = status(self.ready_port, self.ready_path, 2) == 200
            time.sleep(PERIOD)


class Balancer:
    """Sends one request after the other from each of its senders, in turns to whoever is ready."""

    def __init__(self):
        self.backends, self.times, self.failures = [], [], []
        self.is_over, self.turn = False, itertools.count()
        self.threads = [threading.Thread(target=self.send) for _ in range(SENDERS)]

    def add(self, backend):
        self.backends.append(backend)
        threading.Thread(target=backend.look, daemon=True).start()

    def start(self):
        for thread in self.threads:
            thread.start()

    def end(self):
        self.is_over = True
        for thread in self.threads:
            thread.join()
        for backend in self.backends:
            backend.is_gone = True

    def send(self):
        while not self.is_over:
            ready = [backend for backend in self.backends if backend.is_ready and not backend.is_gone]
            begin = time.perf_counter()
            answer = status(ready[next(self.turn) % len(ready)].web_port, PAGE, 30) if ready else None
            if answer == 200:
                self.times.append(time.perf_counter() - begin)
            else:
                self.failures.append(answer)
                # Who is sent away comes back after a moment.
                time.sleep(0.05)


def status(port, path, timeout):
    """The status of an answer that came whole; nothing when there was none."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        head, found, _ = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]) if found else None
    except (OSError, ValueError, IndexError):
        return None


class Ours:
    """A pod of bots-ctl."""

    def __init__(self, here):
        self.here = here

    def start(self):
        service = self.here.start("webserver")
        self.here.ready(service)
        return Backend(service, self.here.web_port, self.here.health_port, "/health/ready")


class Bare:
    """A pod of Bots's own web server; a page tells that it is ready."""

    def __init__(self, here, tini):
        self.here, self.tini, self.env = here, tini, here.bare_env()

    def start(self):
        here = self.here
        service = Service([*self.tini, *here.bare("bots-webserver")], self.env, here.root, here.log)
        service.until(here.web_port, f"GET {PAGE}", place.OK)
        return Backend(service, here.web_port, here.web_port, PAGE)


def measured(given, home):
    rounds = 1 if given.quick else 5
    table = Table("Rolling restart of two web servers under load")
    tini = [shutil.which("tini"), "-g", "--"] if shutil.which("tini") else []
    name = "`bots-webserver` below tini" if tini else "`bots-webserver`"
    # Two that run and two that take their places, on ports of their own: as pods have addresses of their own.
    places = [Place(given.binary, given.bots, home / str(number), {"BOTS_CTL_DRAIN": DRAIN}, number) for number in range(4)]
    for here in places:
        here.init_db()
    ours = restart([Ours(here) for here in places], rounds)
    theirs = restart([Bare(here, tini) for here in places], rounds)
    what = f"lost requests in {rounds * 2} restarts, of {ours.total:,}"
    table.row(what, Figure(ours.lost, f"{ours.lost}"), {f"{name}, of {theirs.total:,}": Figure(theirs.lost, f"{theirs.lost}")}, "0")
    table.row("latency of a request meanwhile, median (longest)", ours.latency(), {name: theirs.latency()})
    what = f"SIGTERM until the end of a busy server, of which {DRAIN} to be left alone by the balancer, median"
    table.row(what, duration(Times(ours.stops).median), {name: duration(Times(theirs.stops).median)})
    yield table


@dataclasses.dataclass
class Outcome:
    times: list
    lost: int
    stops: list

    @property
    def total(self):
        return len(self.times) + self.lost

    def latency(self):
        times = Times(self.times)
        return duration(times.median).also(duration(max(times.all)).text)


def restart(pods, rounds):
    """Two run; each is replaced by one of the two others, and so on."""
    balancer, spare, stops = Balancer(), pods[2:], []
    running = [(pod, pod.start()) for pod in pods[:2]]
    for _, backend in running:
        balancer.add(backend)
    balancer.start()
    try:
        for _ in range(rounds * 2):
            successor = spare.pop(0)
            new = successor.start()
            balancer.add(new)
            pod, old = running.pop(0)
            stops.append(old.service.stop(signal.SIGTERM))
            # The kubelet takes some time to see that a server is gone; the balancer sees it when it asks next.
            time.sleep(PERIOD * 2)
            old.is_gone = True
            running.append((successor, new))
            spare.append(pod)
    finally:
        balancer.end()
    for _, backend in running:
        backend.service.stop(signal.SIGTERM)
    if not balancer.times:
        raise BenchError("no request was answered")
    return Outcome(balancer.times, len(balancer.failures), stops)


if __name__ == "__main__":
    place.bench(place.options(__doc__), measured)
