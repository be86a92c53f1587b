#!/usr/bin/env python3
"""Measures how fast the output of a service reaches a file through bots-ctl, in 100-byte lines, beside `cat` and the loggers of
s6 and runit.

    cargo build --release && python3 -B tests/bench/log_pump.py

Takes about two minutes. The web server's place is taken by a script that prints as fast as it can. What is measured ends when
the last line is in the file; lines that are missing there fail the measurement. Options of all scripts: a binary,
--bots DIRECTORY, --quick.
"""

import shutil
import subprocess
import time

import place
from measure import BenchError, Times
from place import Place
from table import Figure, Table

LINE = b"x" * 99 + b"\n"

SERVICE = """#!/bin/sh
date +%s.%N >"$HOME/begin"
head -c {size} "$HOME/lines"
"""

# Into a directory of their own, in as few files as they can.
LOGGERS = {
    "cat": "cat >out",
    "s6-log": "s6-log n100 s268435455 t ./logged",
    "svlogd": "mkdir -p logged && printf 's1000000000\\n' >logged/config && svlogd -tt ./logged",
}


def through(here, shape):
    """Seconds from the service's first byte to the end of bots-ctl, and the lines that arrived."""
    env = {**here.env, "BOTS_CTL_CHILD_OUTPUT": shape, "DB_INIT_SKIP": "true", "LOG_LEVEL": "info"}
    with open(here.home / "out", "wb") as out, open(here.log, "wb") as err:
        subprocess.run([here.binary, "webserver"], env=env, stdout=out, stderr=err, check=True)
    took = time.time() - float((here.home / "begin").read_text())
    return took, count(here.home / "out")


def alone(here, size, logger):
    """The same bytes through a pipe and another program into the same place."""
    shutil.rmtree(here.home / "logged", ignore_errors=True)
    begin = time.time()
    subprocess.run(["sh", "-c", f"head -c {size} lines | {{ {logger}; }}"], cwd=here.home, check=True)
    took = time.time() - begin
    logged = [*here.home.glob("logged/current"), *here.home.glob("logged/@*")]
    return took, sum(map(count, logged or [here.home / "out"]))


def count(path):
    with open(path, "rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def measured(given, home):
    megabytes, rounds = (20, 2) if given.quick else (500, 5)
    size = megabytes * 1_000_000
    (home / "lines").write_bytes(LINE * (size // len(LINE)))
    script = home / "service"
    script.write_text(SERVICE.format(size=size))
    script.chmod(0o755)
    here = Place(given.binary, given.bots, home)
    here.env["BOTS_BIN_DIR"] = str(here.stand_in("bots-webserver", script))
    others = {name: logger for name, logger in LOGGERS.items() if shutil.which(name)}
    commands = {shape: (lambda shape=shape: through(here, shape)) for shape in ("text", "json", "raw")}
    commands |= {name: (lambda logger=logger: alone(here, size, logger)) for name, logger in others.items()}
    taken = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            took, lines = command()
            if lines != size // len(LINE):
                raise BenchError(f"{name}: {lines} of {size // len(LINE)} lines arrived")
            taken[name].append(took)
    speeds = {name: speed(megabytes, Times(times)) for name, times in taken.items()}
    table = Table("Log pump")
    for shape in ("text", "json", "raw"):
        what = f"{megabytes} MB of 100-byte lines to a file, `{shape}`, median of {rounds}"
        table.row(what, speeds[shape], {f"`{name}`": speeds[name] for name in others})
    yield table


def speed(megabytes, times):
    return Figure(megabytes / times.median, f"{megabytes / times.median:,.0f} MB/s")


if __name__ == "__main__":
    place.bench(place.options(__doc__), measured)
