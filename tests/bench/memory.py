#!/usr/bin/env python3
"""Measures the memory of each service as it runs in a pod, all its processes together, beside Bots's own program alone; and
what bots-ctl costs while nothing happens.

    cargo build --release && python3 -B tests/bench/memory.py

Takes about four minutes. Bots 4 has all services; 3.3.1 has no job queue that runs jobs, but one that can be weighed.
Options of all scripts: a binary, --bots DIRECTORY, --quick.
"""

import os
import signal
import statistics
import time

import measure
import place
from measure import Memory
from place import Place
from table import Figure, Table, duration, megabytes

READY_ALONE = {
    "bots-webserver": lambda here, service: service.until(here.web_port, "HEAD /static/", b"HTTP/"),
    "bots-jobqueueserver": lambda here, service: service.until(here.queue_port, "GET /", b"HTTP/"),
    "bots-dirmonitor": lambda here, service: watches(service.pid),
}


def measured(given, home):
    # The statistics are read every 30 s: two readings.
    settle, idle = (2, 3) if given.quick else (10, 60)
    here = Place(given.binary, given.bots, home)
    here.init_db()
    here.use_queue()
    watched = home / "watched"
    watched.mkdir()
    with open(here.config / "bots.ini", "a", encoding="utf-8") as ini:
        ini.write(f"\n[dirmonitor1]\npath = {watched}\nroute = any\n")
    table = Table("Memory of a pod: RSS of all processes (PSS)")
    queue = here.start("jobqueue")
    here.ready(queue)
    row(table, "job queue", at_rest(settle, queue), bare(here, "bots-jobqueueserver", settle), "≤ 12 MB")
    # Bots 4's monitor starts only where a queue answers.
    monitor = Place(given.binary, given.bots, home, number=1)
    service = monitor.start("dirmonitor")
    monitor.ready(service)
    weight = at_rest(settle, service)
    service.stop(signal.SIGTERM)
    row(table, "directory monitor", weight, bare(here, "bots-dirmonitor", settle))
    queue.stop(signal.SIGTERM)
    webserver(here, table, settle, idle)
    engine(here, table, 3 if given.quick else 9)
    table.row("release binary", megabytes(os.path.getsize(given.binary)), target="≤ 10 MB")
    yield table


def row(table, what, ours, theirs, target=""):
    table.row(what, shown(ours), {"Bots's own": shown(theirs)}, target)


def shown(held):
    return Figure(held.rss, f"{megabytes(held.rss).text} ({megabytes(held.pss).text})")


def at_rest(settle, service):
    time.sleep(settle)
    return measure.memory(service.pid, *measure.below(service.pid))


def bare(here, program, settle):
    service = here.start_bare(program)
    READY_ALONE[program](here, service)
    held = at_rest(settle, service)
    service.kill()
    return held


def watches(pid):
    place.wait_for("bots-dirmonitor watches something", lambda: measure.has_inotify(pid), 0.05)


def webserver(here, table, settle, idle):
    """Bots's web server has the same memory either way; so it is bots-ctl itself that is told as well."""
    service = here.start("webserver")
    here.ready(service)
    held = at_rest(settle, service)
    switches = measure.all_switches(service.pid, idle)
    own = measure.idle(service.pid, idle)
    service.stop(signal.SIGTERM)
    row(table, "web UI", held, bare(here, "bots-webserver", settle))
    table.row("… bots-ctl in it", shown(Memory(own.rss, own.pss)), target="≤ 8 MB")
    table.row("… anonymous memory of that", megabytes(own.anonymous), target="≤ 2 MB")
    every = switches()
    came_and_went = "" if every is None else f" ({every:.1f} with those that came and went)"
    wakeups = Figure(own.wakeups, f"{own.wakeups:.1f}{came_and_went}")
    table.row(f"… wake-ups per second of its {own.threads} threads, over {idle} s", wakeups, target="< 5")
    table.row("… CPU time per second", duration(own.cpu))

    queue = {"BOTS_CTL_JOBQUEUE_URL": "http://127.0.0.1:9", "BOTS_CTL_JOBQUEUE_TOKEN": "of-a-benchmark"}
    relay = Place(here.binary, here.bots, here.home, queue)
    service = relay.start("webserver")
    relay.ready(service)
    time.sleep(settle)
    with_relay = measure.memory(service.pid)
    service.stop(signal.SIGTERM)
    table.row("… bots-ctl in it with the relay to a job queue elsewhere", shown(with_relay), target="≤ 8 MB")


def engine(here, table, rounds):
    env = here.bare_env()
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(measure.peak_of_tree([here.binary, "engine", "--new"], here.env, here.log))
        theirs.append(measure.peak_of_tree([*here.bare("bots-engine"), "--new"], env, here.log))
    middle = lambda of: Memory(statistics.median(held.rss for held in of), statistics.median(held.pss for held in of))
    row(table, f"a run of the engine, the most at any moment, median of {rounds}", middle(ours), middle(theirs))


if __name__ == "__main__":
    place.bench(place.options(__doc__), measured)
