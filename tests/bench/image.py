#!/usr/bin/env python3
"""Measures the image: python3 -B tests/bench/image.py [--quick] IMAGE [PODMAN ...]

PODMAN is the command with its options, "podman" if it is left out. Prints the size, the time from the start of a container to
the first ready answer on a database that is initialised, and what the probes of 100 pods cost at the periods of the manifests.
"""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request

from measure import Times
from probes import PODS, per_second
from table import Table, duration, megabytes, percent


class Image:
    def __init__(self, name, podman, is_quick):
        self.name = name
        self.podman = podman
        self.rounds, self.probes = (2, 200) if is_quick else (10, 2000)

    def run(self, *arguments):
        done = subprocess.run([*self.podman, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            sys.exit("%s: %s" % (" ".join(arguments), done.stderr))
        return done.stdout.strip()

    def start(self, *command):
        name = "bots-bench-%d" % os.getpid()
        network = ["--network", "bridge", "-v", "%s:/home/bots" % self.volume]
        begin = time.monotonic()
        self.run("run", "--detach", "--read-only", "--cap-drop=all", "--name", name, *network, self.name, *command)
        return name, begin

    def measure(self):
        self.volume = "bots-bench-%d" % os.getpid()
        self.run("volume", "create", self.volume)
        try:
            table = Table(f"Image {self.name}")
            size = int(self.run("image", "inspect", "--format", "{{.Size}}", self.name))
            base = self.size_of_base()
            table.row("size", megabytes(size), {"its base, `debian:bookworm-slim`": megabytes(base)} if base else None)
            self.run("run", "--rm", "-v", "%s:/home/bots" % self.volume, self.name, "init-db")
            times = Times([self.ready_after() for _ in range(self.rounds)])
            longest = duration(max(times.all)).text
            what = f"start of a container until the web UI is ready, median of {self.rounds}"
            table.row(what, duration(times.median).also(f"longest {longest}"))
            table.row(f"probes of {PODS} pods at the periods of k3s/deployments: share of one core", percent(self.probe_cost()))
            table.print()
        finally:
            self.run("volume", "rm", "--force", self.volume)

    def size_of_base(self):
        """Where it is at hand; nothing is fetched for this."""
        command = [*self.podman, "image", "inspect", "--format", "{{.Size}}", "debian:bookworm-slim"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        return int(done.stdout) if done.returncode == 0 else None

    def ready_after(self):
        name, begin = self.start("webserver")
        try:
            url = self.url(name) + "/health/ready"
            while not answers(url):
                time.sleep(0.01)
            return time.monotonic() - begin
        finally:
            self.run("rm", "--force", "--time", "0", name)

    def probe_cost(self):
        """Only what the probes add: the same time without them is taken off."""
        name, _ = self.start("webserver")
        try:
            url = self.url(name)
            while not answers(url + "/health/ready"):
                time.sleep(0.01)
            pid = int(self.run("inspect", "--format", "{{.State.Pid}}", name))
            begin, before = time.monotonic(), cpu(pid)
            for number in range(self.probes):
                answers(url + ("/health/live", "/health/ready", "/health/ready")[number % 3])
            took, used = time.monotonic() - begin, cpu(pid) - before
            before = cpu(pid)
            time.sleep(took)
            used -= cpu(pid) - before
            return used / self.probes * per_second() * PODS
        finally:
            self.run("rm", "--force", "--time", "0", name)

    def url(self, name):
        return "http://%s:9180" % self.run("inspect", "--format", "{{.NetworkSettings.IPAddress}}", name)


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def cpu(pid):
    """Seconds that a process has used so far."""
    with open("/proc/%d/stat" % pid) as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--quick"]
    if not words:
        sys.exit(__doc__)
    Image(words[0], words[1:] or ["podman"], len(words) < len(sys.argv) - 1).measure()
