#!/usr/bin/env python3
"""Measures how long the first start takes to seed 20,000 files from the image, beside `cp -R`.

    cargo build --release && python3 -B tests/bench/seeding.py

Takes about a minute. Options of all scripts: a binary, --bots DIRECTORY, --quick.
"""

import os
import subprocess

import measure
import place
from measure import BenchError, Times
from place import Place
from table import Table, least

FILES = 20_000
FILES_PER_DIRECTORY = 100


def measured(given, home):
    files, rounds = (2_000, 2) if given.quick else (FILES, 5)
    source = home / "seed"
    make_files(source, files)
    here = Place(given.binary, given.bots, home, {"BOTS_CTL_SEED_USERSYS": str(source)})
    here.init_db()
    usersys = here.root / "usersys"
    # With nothing else to do it fills an empty usersys.
    command = ([here.binary, "init-db"], here.env)
    ours, theirs, flushed = [], [], []
    for number in range(rounds):
        # Removing it would be measured too: ext4 passes over inodes that were freed a moment ago, one by one.
        usersys.rename(home / f"usersys_{number}")
        flush(home)
        with_files = measure.alternating(1, command)[0].median
        # The same without files to copy: a changed usersys is the reason for one Python run.
        (usersys / "__init__.py").touch()
        ours.append(with_files - measure.alternating(1, command)[0].median)
        flush(home)
        begin = measure.now()
        subprocess.run(["cp", "-R", source, home / f"copy_{number}"], check=True)
        theirs.append(measure.now() - begin)
        flush(home)
        flushed.append(measure.now() - begin)
    seeded = sum(len(names) for _, _, names in os.walk(usersys))
    if seeded < files:
        raise BenchError(f"only {seeded} files were seeded")
    ours, theirs, flushed = Times(ours), Times(theirs), Times(flushed)
    table = Table("Seeding usersys")
    what = f"seeding {files:,} files and flushing them, median of {rounds}"
    table.row(what, least(ours), {"`cp -R`": least(theirs), "`cp -R` and `sync`": least(flushed)})
    yield table


def flush(directory):
    subprocess.run(["sync", "-f", directory], check=True)


def make_files(directory, number):
    """Files of the size of a grammar."""
    content = b"# a line of a grammar, as long as most\n" * 50
    for file in range(number):
        folder = directory / f"folder_{file // FILES_PER_DIRECTORY:03}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"file_{file:05}.py").write_bytes(content)


if __name__ == "__main__":
    place.bench(place.options(__doc__), measured)
