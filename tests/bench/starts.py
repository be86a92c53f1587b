#!/usr/bin/env python3
"""Measures starts and stops of the web UI: bots-ctl until it is ready, Bots alone until it answers, and Bots below tini and
a shell script that makes the same preparations.

    cargo build --release && python3 -B tests/bench/starts.py

Takes about two minutes. Options of all scripts: a binary, --bots DIRECTORY, --quick.
"""

import pathlib
import re
import shutil
import signal

import place
from measure import Service, Times
from place import Place
from table import Figure, Table, duration, least

ENTRYPOINT = pathlib.Path(__file__).with_name("entrypoint.sh")

# What bots-ctl itself asks the web server for: a directory of static files, which needs no database.
STATIC_FILE = "HEAD /static/"

# Ends Bots's web UI in order; SIGTERM cuts requests off.
IN_ORDER = signal.SIGINT


def measured(given, home):
    here = Place(given.binary, given.bots, home)
    here.root.mkdir(parents=True)
    table = Table("Start to ready, and stop")
    first = here.start("webserver")
    table.row("first start on an empty disk: environment, database, first user, until ready", duration(here.ready(first)))
    first.stop(signal.SIGTERM)
    # bots-ctl passes PORT on; the script leaves it to bots.ini.
    ini = here.config / "bots.ini"
    ini.write_text(re.sub(r"(?m)^(\[webserver\][^\[]*?^port *= *)\d+", rf"\g<1>{here.web_port}", ini.read_text()))
    starts(here, table, 2 if given.quick else 10)
    yield table


def starts(here, table, rounds):
    """In turns, so that a busy moment of the machine meets all of them."""
    migrate = ["--skip-checks"] if here.is_bots_4() else ["--run-syncdb"]
    shell = ["bash", str(ENTRYPOINT), str(here.bots), str(here.config), *migrate]
    if tini := shutil.which("tini"):
        shell = [tini, "-g", "--", *shell]
    name = "`tini -- bash`, the same preparations" if tini else "`bash`, the same preparations"
    env = here.bare_env()
    bare = here.bare("bots-webserver")
    taken = {"ours": [], "bare": [], "shell": []}
    stops = {"ours": [], "bare": [], "shell": []}
    for _ in range(rounds):
        service = here.start("webserver")
        taken["ours"].append(here.ready(service))
        stops["ours"].append(service.stop(signal.SIGTERM))
        for key, command, number in (("bare", bare, IN_ORDER), ("shell", shell, signal.SIGTERM)):
            service = Service(command, env, here.root, here.log)
            taken[key].append(service.until(here.web_port, STATIC_FILE, b"HTTP/"))
            stops[key].append(service.stop(number))
    times = {key: Times(all_of_them) for key, all_of_them in taken.items()}
    table.row(
        f"second start of `webserver` until ready, median of {rounds}",
        least(times["ours"]),
        {"`bots-webserver` until it answers": least(times["bare"]), name: least(times["shell"])},
    )
    over = times["ours"].median - times["bare"].median
    table.row("… over the bare program", Figure(over, f"{over * 1e3:+.0f} ms"), target="≤ 100 ms")
    ended = {key: Times(all_of_them) for key, all_of_them in stops.items()}
    table.row(
        f"stop of the idle `webserver`, median of {rounds}",
        least(ended["ours"]),
        {"`bots-webserver` after SIGINT": least(ended["bare"]), f"{name}, which cuts requests off": least(ended["shell"])},
    )


if __name__ == "__main__":
    place.bench(place.options(__doc__), measured)
