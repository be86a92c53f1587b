#!/usr/bin/env python3
"""Measures the health listener in its worse moments: a scrape of /metrics with 500 routes, probes while the database is away,
and probes beside a thousand connections that ask nothing or ask slowly.

    cargo build --release && python3 -B tests/bench/metrics.py

Takes about a minute. The service is the job queue, on SQLite. Options of all scripts: a binary, --bots DIRECTORY, --quick.
"""

import shutil
import signal
import socket
import sqlite3
import threading
import time

import measure
import place
from measure import Times
from place import READY, Place
from table import Table, duration, megabytes, rate, spread

ROUTES = 500
CONNECTIONS = (2, 32, 128)
CROWD = 1000


class Listener:
    """A bots-ctl whose health listener is measured."""

    def __init__(self, given, home):
        variables = {"BOTS_CTL_RESULTS_INTERVAL": "1s", "BOTS_CTL_METRICS_MAX_LABEL_VALUES": str(ROUTES)}
        self.here = Place(given.binary, given.bots, home, variables)
        self.database = self.here.root / "botssys/sqlitedb/botsdb"
        self.scraped, self.probes, self.seconds = (20, 30, 1) if given.quick else (300, 300, 8)
        self.table = Table("Health listener in its worse moments")

    def measure(self):
        self.prepare()
        service = self.here.start("jobqueue")
        self.here.ready(service)
        self.wait_for_routes()
        before = measure.memory(service.pid).rss
        times, size = self.scrapes(self.scraped)
        self.table.row(f"scrape of {ROUTES} routes by name, {size // 1024} kB, median of {self.scraped}", spread(times, 0.99))
        after = measure.memory(service.pid).rss
        self.table.row("… growth of RSS by that", megabytes(after - before), target="flat")
        self.database.rename(self.database.with_suffix(".away"))
        service.until(self.here.health_port, READY, b"HTTP/1.1 503")
        for connections in CONNECTIONS if shutil.which("wrk") else ():
            answered, latency = measure.wrk(self.here.health_port, "/health/ready", connections, self.seconds)
            what = f"`/health/ready` without a database, {connections} connections: requests"
            self.table.row(what, rate(answered))
            self.table.row("… latency, median", duration(latency[0]).also(f"p99 {duration(latency[1]).text}"))
        if not shutil.which("wrk"):
            self.table.note("Left out: requests without a database, since wrk is not installed.")
        times = self.crowded()
        longest = spread(times, 0.99).also(f"longest {duration(max(times.all)).text}")
        self.table.row(f"a probe with {CROWD:,} idle and slow connections, median of {self.probes}", longest)
        service.stop(signal.SIGTERM)

    def prepare(self):
        self.here.init_db()
        self.here.use_queue()
        with sqlite3.connect(self.database) as database:
            columns = list(database.execute("SELECT name, type FROM pragma_table_info('routes') WHERE \"notnull\" AND NOT pk"))
            names = ", ".join(f'"{name}"' for name, _ in columns)
            for number in range(ROUTES):
                values = [self.value(name, kind, number) for name, kind in columns]
                database.execute(f"INSERT INTO routes ({names}) VALUES ({', '.join('?' * len(values))})", values)
        database.close()

    @staticmethod
    def value(name, kind, number):
        if name == "idroute":
            return f"route_{number:04}_from_a_partner_to_another"
        return 1 if name in ("active", "seq") else "" if "char" in kind.lower() or "text" in kind.lower() else number

    def wait_for_routes(self):
        told = lambda: self.get("/metrics").count(b"\nbotsctl_edi_files_received_total{") >= ROUTES
        place.wait_for("the routes are told", told, 0.1)

    def get(self, path):
        with socket.create_connection(("127.0.0.1", self.here.health_port), timeout=measure.DEADLINE) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            answer = b""
            while part := connection.recv(1 << 20):
                answer += part
        return answer

    def timed(self, path, times):
        begin = time.perf_counter()
        self.get(path)
        times.append(time.perf_counter() - begin)

    def scrapes(self, number):
        times = []
        for _ in range(number):
            self.timed("/metrics", times)
        return Times(times), len(self.get("/metrics"))

    def crowded(self):
        """Half of them say nothing, half of them send a header line now and then; those that are closed come back."""
        done = threading.Event()
        guests = [self.guest() for _ in range(CROWD)]

        def hold():
            while not done.wait(0.2):
                for number, guest in enumerate(guests):
                    try:
                        if number % 2:
                            guest.sendall(b"X-Slow: 1\r\n")
                        else:
                            guest.setblocking(False)
                            if guest.recv(1) == b"":
                                raise ConnectionResetError
                    except BlockingIOError:
                        pass
                    except OSError:
                        guest.close()
                        guests[number] = self.guest()

        holder = threading.Thread(target=hold)
        holder.start()
        times = []
        for _ in range(self.probes):
            self.timed("/health/ready", times)
            time.sleep(0.02)
        done.set()
        holder.join()
        for guest in guests:
            guest.close()
        return Times(times)

    def guest(self):
        guest = socket.create_connection(("127.0.0.1", self.here.health_port), timeout=measure.DEADLINE)
        guest.sendall(b"GET /health/ready HTTP/1.1\r\n")
        return guest


def measured(given, home):
    listener = Listener(given, home)
    listener.measure()
    yield listener.table


if __name__ == "__main__":
    place.bench(place.options(__doc__), measured)
