#!/usr/bin/env python3
"""Measures the health listener, in one run, and prints a Markdown table: a scrape of /metrics with 500 routes, probes while
the database is away, and probes beside a thousand connections that ask nothing or ask slowly.

    cargo build --release && python3 -B tests/bench/metrics.py --bots /path/to/bots/bin target/release/bots-ctl

Takes about a minute. The service is the job queue, on SQLite; needs wrk.
"""

import argparse
import os
import pathlib
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time

import measure
from measure import BenchError, Service, Times

ROUTES = 500
SCRAPES = 300
SECONDS = 8
CONNECTIONS = (2, 32, 128)
IDLE = 1000
PROBES = 300


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bots", default=os.environ.get("BOTS_BIN_DIR"), help="directory of bots-engine")
    parser.add_argument("binary", help="bots-ctl as it is released")
    options = parser.parse_args()
    if not shutil.which("wrk"):
        sys.exit("wrk is not installed")
    with tempfile.TemporaryDirectory() as home:
        try:
            bots = options.bots and os.path.abspath(options.bots)
            Listener(pathlib.Path(home), os.path.abspath(options.binary), bots).measure()
        except BenchError as error:
            sys.exit(f"{error}")
        finally:
            Service.kill_all()


class Listener:
    """A bots-ctl whose health listener is measured."""

    def __init__(self, home, binary, bots):
        self.home, self.binary, self.port = home, binary, measure.free_port(24000)
        self.database = home / ".bots/env/default/botssys/sqlitedb/botsdb"
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "BOTS_CTL_HEALTH_ADDR": f"127.0.0.1:{self.port}",
            "BOTS_CTL_RESULTS_INTERVAL": "1s",
            "BOTS_CTL_METRICS_NAMES": str(ROUTES),
            **({"BOTS_BIN_DIR": bots} if bots else {}),
        }

    def measure(self):
        self.prepare()
        service = Service([self.binary, "jobqueue"], self.env, str(self.home), str(self.home / "log"))
        service.until(self.port, "GET /health/ready", b"HTTP/1.1 200")
        self.wait_for_routes()
        print("| | |\n|---|---|")
        before = measure.kilobytes(f"/proc/{service.pid}/status")["VmRSS"]
        times, size = self.scrapes()
        print(f"| scrape, {ROUTES} routes by name, {size // 1024} kB: median, p99 | {ms(times.median)}, {ms(times.percentile(0.99))} |")
        after = measure.kilobytes(f"/proc/{service.pid}/status")["VmRSS"]
        print(f"| resident memory before and after {SCRAPES} scrapes | {before / 1e6:.1f} MB, {after / 1e6:.1f} MB |")
        self.database.rename(self.database.with_suffix(".away"))
        service.until(self.port, "GET /health/ready", b"HTTP/1.1 503")
        for connections in CONNECTIONS:
            rate, p50, p99 = self.load(connections)
            print(f"| /health/ready, no database, {connections} connections: rate, median, p99 | {rate:,.0f}/s, {p50}, {p99} |")
        times = self.crowded()
        print(
            f"| a probe beside {IDLE} idle and slow connections: median, p99, longest | "
            f"{ms(times.median)}, {ms(times.percentile(0.99))}, {ms(max(times.all))} |"
        )
        service.stop(signal.SIGTERM)

    def prepare(self):
        made = subprocess.run([self.binary, "init-db"], env=self.env, capture_output=True, text=True)
        if made.returncode:
            raise BenchError(made.stderr)
        ini = self.home / ".bots/env/default/config/bots.ini"
        text = re.sub(r"(?ms)(^\[jobqueue\].*?^enabled\s*=\s*)\w+", r"\g<1>True", ini.read_text())
        ini.write_text(re.sub(r"(?ms)(^\[jobqueue\].*?^port\s*=\s*)\d+", rf"\g<1>{measure.free_port(self.port + 1)}", text))
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
        until = time.monotonic() + measure.DEADLINE
        while self.get("/metrics").count(b"\nbotsctl_edi_files_received_total{") < ROUTES:
            if time.monotonic() > until:
                raise BenchError("the routes are not told")
            time.sleep(0.1)

    def get(self, path):
        with socket.create_connection(("127.0.0.1", self.port), timeout=measure.DEADLINE) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            answer = b""
            while part := connection.recv(1 << 20):
                answer += part
        return answer

    def timed(self, path, times):
        begin = time.perf_counter()
        self.get(path)
        times.append(time.perf_counter() - begin)

    def scrapes(self):
        times = []
        for _ in range(SCRAPES):
            self.timed("/metrics", times)
        return Times(times), len(self.get("/metrics"))

    def load(self, connections):
        # One thread, so that on two cores nobody waits for a core.
        command = ["wrk", "-t", "1", "-c", str(connections), "-d", f"{SECONDS}s", "--latency"]
        done = subprocess.run([*command, f"http://127.0.0.1:{self.port}/health/ready"], capture_output=True, text=True)
        rate = re.search(r"Requests/sec:\s*([\d.]+)", done.stdout)
        p50, p99 = (re.search(rf"{share}%\s*(\S+)", done.stdout) for share in (50, 99))
        if not (rate and p50 and p99):
            raise BenchError(done.stdout + done.stderr)
        return float(rate[1]), p50[1], p99[1]

    def crowded(self):
        """Half of them say nothing, half of them send a header line now and then; those that are closed come back."""
        done = threading.Event()
        guests = [self.guest() for _ in range(IDLE)]

        def hold():
            while not done.wait(0.2):
                for place, guest in enumerate(guests):
                    try:
                        if place % 2:
                            guest.sendall(b"X-Slow: 1\r\n")
                        else:
                            guest.setblocking(False)
                            if guest.recv(1) == b"":
                                raise ConnectionResetError
                    except BlockingIOError:
                        pass
                    except OSError:
                        guest.close()
                        guests[place] = self.guest()

        holder = threading.Thread(target=hold)
        holder.start()
        times = []
        for _ in range(PROBES):
            self.timed("/health/ready", times)
            time.sleep(0.02)
        done.set()
        holder.join()
        for guest in guests:
            guest.close()
        return Times(times)

    def guest(self):
        guest = socket.create_connection(("127.0.0.1", self.port), timeout=measure.DEADLINE)
        guest.sendall(b"GET /health/ready HTTP/1.1\r\n")
        return guest


def ms(seconds):
    return f"{seconds * 1000:.2f} ms"


if __name__ == "__main__":
    main()
