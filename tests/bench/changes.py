#!/usr/bin/env python3
"""Measures changes of the configuration: their validation, a start and a reload with them, and plugins.

    cargo build --release && python3 -B tests/bench/changes.py

Takes about two minutes. Options of all scripts: a binary, --bots DIRECTORY, --quick.
"""

import copy
import json
import shutil
import signal

import measure
import place
from measure import Times
from place import Place
from table import Table, duration, least

# The least that a Python of Bots can do: its settings and its models.
BARE_PYTHON = "import django; django.setup()"

CHANNELS = 5_000


class Bench:
    """A web UI whose bots.ini and settings.py are mounted."""

    def __init__(self, given, home):
        self.mount = home / "mount"
        self.mount.mkdir()
        self.here = Place(given.binary, given.bots, home, {"BOTS_CTL_CONFIG_SOURCE": str(self.mount)})
        self.here.init_db()
        for name in ("bots.ini", "settings.py"):
            shutil.copy(self.here.config / name, self.mount)
        self.rounds, self.channels = (2, 500) if given.quick else (10, CHANNELS)
        self.changes = 0
        self.table = Table("Changes of the configuration")

    def change(self):
        """Another comment in the mounted bots.ini: the files differ, so they are validated."""
        self.changes += 1
        text = (self.mount / "bots.ini").read_text().split("\n# change ")[0]
        (self.mount / "bots.ini").write_text(f"{text}\n# change {self.changes}\n")

    def ours(self, *words):
        return [self.here.binary, *map(str, words)], self.here.env

    def seconds(self, *words):
        (taken,) = measure.alternating(1, self.ours(*words))
        return taken.median

    def check(self):
        python = [str(self.here.bots / "python"), "-c", BARE_PYTHON], self.here.bare_env()
        ours, bare = measure.alternating(self.rounds, self.ours("config", "check"), python)
        self.table.row(f"`config check`, median of {self.rounds}", least(ours), {"a bare Python start": least(bare)})

    def starts(self):
        """In turns: with the files of the last start, and with others."""
        taken = {False: [], True: []}
        for number in range(2 * self.rounds):
            is_changed = number % 2 == 1
            if is_changed:
                self.change()
            service = self.here.start("webserver")
            taken[is_changed].append(self.here.ready(service))
            service.stop(signal.SIGTERM)
        what = f"start of `webserver` with a changed mount until ready, median of {self.rounds}"
        self.table.row(what, least(Times(taken[True])), {"with an unchanged mount": least(Times(taken[False]))})

    def reloads(self):
        """The command ends when the services are ready again."""
        service, reloads, restarts = self.here.start("webserver"), [], []
        self.here.ready(service)
        for _ in range(self.rounds):
            self.change()
            reloads.append(self.seconds("reload"))
            begin = measure.now()
            self.change()
            service.stop(signal.SIGTERM)
            service = self.here.start("webserver")
            self.here.ready(service)
            restarts.append(measure.now() - begin)
        service.stop(signal.SIGTERM)
        what = f"`reload` of `webserver` with a changed mount until ready, median of {self.rounds}"
        self.table.row(what, least(Times(reloads)), {"stop and start": least(Times(restarts))})

    def plugins(self):
        """An apply of one changed field, and the comparison of many rows with the database."""
        self.seconds("demo")
        plugin = self.here.home / "plugin"
        self.seconds("plugin", "export", plugin)
        index = plugin / "botsindex.json"
        rows = json.loads(index.read_text())
        first = rows["plugins"]["channel"][0]
        unchanged, changed = [], []
        for number in range(self.rounds):
            unchanged.append(self.seconds("plugin", "apply", plugin))
            first["desc"] = f"change {number}"
            index.write_text(json.dumps(rows))
            changed.append(self.seconds("plugin", "apply", plugin))
        what = f"`plugin apply` of one changed field, median of {self.rounds}"
        self.table.row(what, least(Times(changed)), {"with nothing to do": least(Times(unchanged))})

        for number in range(self.channels):
            row = copy.deepcopy(first)
            row["idchannel"] = f"channel_{number}"
            rows["plugins"]["channel"].append(row)
        index.write_text(json.dumps(rows))
        self.seconds("plugin", "apply", plugin)
        compared = Times([self.seconds("plugin", "apply", plugin, "--check") for _ in range(self.rounds)])
        self.table.row(f"… `--check` of {self.channels:,} channels, median of {self.rounds}", duration(compared.median), target="≤ 3 s")


def measured(given, home):
    bench = Bench(given, home)
    bench.check()
    bench.starts()
    bench.reloads()
    bench.plugins()
    yield bench.table


if __name__ == "__main__":
    place.bench(place.options(__doc__), measured)
