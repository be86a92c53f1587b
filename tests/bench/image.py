#!/usr/bin/env python3
"""Measures the image: python3 -B tests/bench/image.py IMAGE [PODMAN ...]

PODMAN is the command with its options, "podman" if it is left out. Prints the size, the time from the start of a container to
the first ready answer on a database that is initialised, and what the probes of 100 pods cost at the periods of the manifests.
"""

import os
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request

ROUNDS = 10
PROBES = 2000
# Of k3s/deployments: live every 10 s and ready every 5 s.
PER_SECOND = 1 / 10 + 1 / 5
PODS = 100


class Image:
    def __init__(self, name, podman):
        self.name = name
        self.podman = podman

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
            size = int(self.run("image", "inspect", "--format", "{{.Size}}", self.name))
            print("size: %.0f MB" % (size / 1e6))
            self.run("run", "--rm", "-v", "%s:/home/bots" % self.volume, self.name, "init-db")
            times = sorted(self.ready_after() for _ in range(ROUNDS))
            print("start to ready: %.2f s (median of %d, longest %.2f s)" % (statistics.median(times), ROUNDS, times[-1]))
            print("probes of %d pods: %.2f %% of one core, in all pods together" % (PODS, self.probe_cost()))
        finally:
            self.run("volume", "rm", "--force", self.volume)

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
        """In percent. Only what the probes add: the same time without them is taken off."""
        name, _ = self.start("webserver")
        try:
            url = self.url(name)
            while not answers(url + "/health/ready"):
                time.sleep(0.01)
            pid = int(self.run("inspect", "--format", "{{.State.Pid}}", name))
            begin, before = time.monotonic(), cpu(pid)
            for number in range(PROBES):
                answers(url + ("/health/live", "/health/ready", "/health/ready")[number % 3])
            took, used = time.monotonic() - begin, cpu(pid) - before
            before = cpu(pid)
            time.sleep(took)
            used -= cpu(pid) - before
            return used / PROBES * PER_SECOND * PODS * 100
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


if len(sys.argv) < 2:
    sys.exit(__doc__)
Image(sys.argv[1], sys.argv[2:] or ["podman"]).measure()
