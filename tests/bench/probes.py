#!/usr/bin/env python3
"""Measures what health probes cost: `healthcheck`, a probe by HTTP and a script in Python, for one pod and for a hundred.

    cargo build --release && python3 -B tests/bench/probes.py

Takes about two minutes. Options of all scripts: a binary, --bots DIRECTORY, --quick.
"""

import re
import signal

import measure
import place
from place import ROOT, Place
from table import Table, duration, megabytes, percent, spread

PODS = 100

# What a probe in Python does at the least: Bots's settings, Django, one question to the database.
PYTHON_PROBE = """
import django
django.setup()
from django.db import connection
with connection.cursor() as cursor:
    cursor.execute("SELECT 1")
"""


def measured(given, home):
    here = Place(given.binary, given.bots, home)
    here.init_db()
    service = here.start("webserver")
    here.ready(service)
    probes = Table("Health probes")
    cost(here, service, probes, given.quick)
    yield probes
    service.stop(signal.SIGTERM)


def cost(here, service, table, quick):
    many, few = (30, 5) if quick else (300, 20)
    ours = [here.binary, "healthcheck", "--check", "ready", "--quiet"]
    python, env = [str(here.bots / "python"), "-c", PYTHON_PROBE], {**here.bare_env()}
    name = "Python with Bots's settings, one query"
    (times,) = measure.alternating(many, (ours, here.env))
    (theirs,) = measure.alternating(few, (python, env))
    what = f"`healthcheck --check ready --quiet`: wall time, median of {many} (Python {few})"
    table.row(what, spread(times), {name: spread(theirs)}, "≤ 5 ms")
    peak = max(measure.peak_memory(ours, here.env) for _ in range(3 if quick else 10))
    python_peak = max(measure.peak_memory(python, env) for _ in range(2))
    table.row("… peak RSS", megabytes(peak), {name: megabytes(python_peak)}, "≤ 6 MB")

    ours_cpu, python_cpu = measure.cpu_of_runs(ours, here.env, many), measure.cpu_of_runs(python, env, few)
    answered = listener_cpu(here, service, many)
    table.row("… CPU time, with what the listener uses", duration(ours_cpu + answered), {name: duration(python_cpu)})
    table.row("a probe by HTTP, as in the manifests: CPU time of the listener", duration(answered), {name: duration(python_cpu)})
    each = per_second()
    what = f"probes of {PODS} pods at the periods of k3s/deployments, {each:.2f} per second and pod: share of one core"
    of_python = {name: percent(python_cpu * each * PODS)}
    table.row(f"{what}; `healthcheck`", percent((ours_cpu + answered) * each * PODS), of_python)
    table.row("… by HTTP", percent(answered * each * PODS), of_python)


def listener_cpu(here, service, probes):
    """Of one request. What the service uses meanwhile anyway is not in it."""
    before, begin = measure.cpu_time(service.pid), measure.now()
    for _ in range(probes * 5):
        measure.first_line(here.health_port, place.READY)
    used, took = measure.cpu_time(service.pid) - before, measure.now() - begin
    return max(used - measure.idle(service.pid, 2).cpu * took, 0) / (probes * 5)


def per_second():
    """Probes of a pod that has started, on average over the deployments."""
    rates = []
    for manifest in sorted((ROOT / "k3s/deployments").glob("*.yaml")):
        periods = re.findall(r"(?:liveness|readiness)Probe:\n(?:\s{12,}.*\n)*?\s+periodSeconds: (\d+)", manifest.read_text())
        if periods:
            rates.append(sum(1 / int(period) for period in periods))
    if not rates:
        raise measure.BenchError("k3s/deployments has no probes")
    return sum(rates) / len(rates)


if __name__ == "__main__":
    place.bench(place.options(__doc__), measured)
