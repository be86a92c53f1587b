#!/usr/bin/env python3
"""Measures `bots-ctl init-db` beside `python -m django migrate` on the same databases.

    cargo build --release && python3 -B tests/bench/init_db.py

Takes about five minutes. SQLite, and MariaDB and PostgreSQL where their servers are installed: each is started in a
temporary directory. Options of all scripts: a binary, --bots DIRECTORY, --quick.
"""

import contextlib
import os
import pathlib
import shutil
import subprocess
import time

import measure
import place
from measure import BenchError, Times
from place import Place
from table import Table, least

# Servers refuse to run as root; this user is on every system.
NOBODY = 65534

REPLICAS = 8

# The least that a Python of Bots can do: its settings and its models.
BARE_PYTHON = "import django; django.setup()"

FACTS = ".bots-ctl-settings-cache.json"


class Sqlite:
    """A file below one directory for each database."""

    title, word, drivers = "SQLite", "sqlite", []

    @staticmethod
    def installed():
        return True

    def __init__(self, directory):
        self.directory = directory

    def create(self, name):
        return {"DB_ENGINE": self.word, "DB_NAME": str(self.directory / name)}

    def drop(self, name):
        for file in self.directory.glob(name + "*"):
            file.unlink()

    def stop(self):
        pass


class Server:
    """A server on a loopback port and on a socket in its directory. Its data is flushed as in production."""

    def __init__(self, directory):
        self.directory = directory / self.word
        self.directory.mkdir()
        if os.geteuid() == 0:
            os.chown(self.directory, NOBODY, NOBODY)
        self.port = measure.free_port(22000 + os.getpid() % 500 * 10 + len(self.word))
        self.log = open(self.directory.with_suffix(".log"), "wb")
        self.run(self.make())
        self.process = subprocess.Popen(self.serve(), stdout=self.log, stderr=self.log, **self.as_nobody())
        deadline = time.monotonic() + measure.DEADLINE
        while not self.sql("SELECT 1", check=False):
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise BenchError(f"{self.title} does not start; see {self.log.name}")
            time.sleep(0.1)
        self.sql(self.account)

    def as_nobody(self):
        return {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}

    def run(self, command):
        subprocess.run(command, stdout=self.log, stderr=self.log, check=True, **self.as_nobody())

    def sql(self, statement, check=True):
        command = self.client() + [statement]
        return subprocess.run(command, stdout=self.log, stderr=self.log, check=check).returncode == 0

    def create(self, name):
        for statement in self.database:
            self.sql(statement.format(name))
        place = {"DB_HOST": "127.0.0.1", "DB_PORT": str(self.port)}
        return {"DB_ENGINE": self.word, "DB_NAME": name, "DB_USER": "bots", "DB_PASSWORD": "a password", **place}

    def drop(self, name):
        self.sql(f"DROP DATABASE {name}")

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.log.close()


class Mariadb(Server):
    title, word, drivers = "MariaDB", "mysql", ["MySQLdb"]
    account = "CREATE USER bots@'%' IDENTIFIED BY 'a password'"
    database = ["CREATE DATABASE {0} CHARACTER SET utf8mb4", "GRANT ALL ON {0}.* TO bots@'%'"]

    @staticmethod
    def installed():
        return os.path.exists("/usr/sbin/mariadbd") and shutil.which("mariadb-install-db")

    def make(self):
        options = ["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]
        return ["mariadb-install-db", *options, f"--datadir={self.directory}/data"]

    def serve(self):
        options = ["--no-defaults", "--bind-address=127.0.0.1", "--skip-name-resolve", f"--port={self.port}"]
        places = {"datadir": "data", "socket": "socket", "pid-file": "pid"}
        return ["/usr/sbin/mariadbd", *options, *(f"--{key}={self.directory}/{name}" for key, name in places.items())]

    def client(self):
        return ["mariadb", "--no-defaults", "--user=root", f"--socket={self.directory}/socket", "-e"]


class Postgresql(Server):
    title, word, drivers = "PostgreSQL", "postgresql", ["psycopg2", "psycopg"]
    account = "CREATE ROLE bots LOGIN PASSWORD 'a password'"
    database = ["CREATE DATABASE {0} OWNER bots"]
    programs = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"))

    @classmethod
    def installed(cls):
        return cls.programs and shutil.which("psql")

    def make(self):
        options = ["--locale=C", "--encoding=UTF8", "-U", "postgres", "-D", f"{self.directory}/data"]
        return [str(self.programs[-1] / "initdb"), "--auth-local=trust", "--auth-host=scram-sha-256", *options]

    def serve(self):
        settings = [f"--unix_socket_directories={self.directory}", "--listen_addresses=127.0.0.1"]
        return [str(self.programs[-1] / "postgres"), "-D", f"{self.directory}/data", "-p", str(self.port), *settings]

    def client(self):
        return ["psql", "-X", "-q", "-h", str(self.directory), "-p", str(self.port), "-U", "postgres", "-c"]


class Bench:
    """One kind of database, environments of Bots, and the table."""

    def __init__(self, given, server, directory):
        self.given, self.server, self.rounds = given, server, 2 if given.quick else 10
        self.directory = directory / f"homes-{server.word}"
        self.count = 0
        self.table = Table(f"init-db on {server.title}")
        bots_4 = Place(given.binary, given.bots, self.directory / "question").is_bots_4()
        self.migrate = [str(given.bots / "python"), "-m", "django", "migrate", "--noinput", "-v0"]
        self.migrate += ["--skip-checks"] if bots_4 else ["--run-syncdb"]
        self.bare_python = [str(given.bots / "python"), "-c", BARE_PYTHON]

    def fresh(self):
        self.count += 1
        return self.server.create(f"bots{self.count}")

    def again(self):
        """The last one, empty once more."""
        self.server.drop(f"bots{self.count}")
        self.server.create(f"bots{self.count}")

    def home(self, name, database):
        """An environment, whose files are there when it has been used before; other settings are not known yet."""
        variables = {"SUPERUSER_PASSWORD": "not so well known", **database}
        return Place(self.given.binary, self.given.bots, self.directory / name, variables)

    def bare(self, here):
        """What Django's own command line needs."""
        return {**here.bare_env(), "PYTHONPATH": str(here.root), "DJANGO_SETTINGS_MODULE": "config.settings"}

    def run(self):
        here = self.home("one", self.fresh())
        self.once(here)
        self.nothing_to_do(here)
        self.first()
        shared, own = lambda _: "shared", lambda number: f"replica-{number}"
        self.replicas("in one environment", shared, known=False)
        self.replicas("in an environment each, settings known", own, known=True)
        self.replicas("in an environment each, settings not known", own, known=False)

    def once(self, here):
        return measure.alternating(1, ([here.binary, "init-db"], here.env))[0].median

    def nothing_to_do(self, here):
        bare = self.bare(here)
        known, unknown, started, migrated = [], [], [], []
        for _ in range(self.rounds):
            known.append(self.once(here))
            (here.root / FACTS).unlink(missing_ok=True)
            unknown.append(self.once(here))
            started.append(measure.alternating(1, (self.bare_python, bare))[0].median)
            migrated.append(measure.alternating(1, (self.migrate, bare))[0].median)
        known, unknown, started, migrated = map(Times, (known, unknown, started, migrated))
        migrate = {"`django migrate`": least(migrated)}
        self.table.row(f"nothing to do, settings known, median of {self.rounds}", least(known), migrate, "≤ 20 ms")
        start = {"a bare Python start": least(started), **migrate}
        over = f"≤ a start + 30 ms: {(unknown.median - started.median) * 1e3:+.0f} ms"
        self.table.row("nothing to do, settings not known", least(unknown), start, over)

    def first(self):
        ours, theirs = [], []
        for _ in range(self.rounds):
            ours.append(self.once(self.home("one", self.fresh())))
            bare = self.bare(self.home("one", self.fresh()))
            theirs.append(measure.alternating(1, (self.migrate, bare))[0].median)
        beside = {"`django migrate`": least(Times(theirs))}
        self.table.row("first initialisation", least(Times(ours)), beside, "≤ 1.15 ×")

    def replicas(self, where, name, known):
        """On an empty database, until the last of them has ended; beside one alone, and the same number of Pythons,
        each of which does no more than to load Bots's settings."""
        together, alone, pythons = [], [], []
        for number in range(REPLICAS):
            self.once(self.home(name(number), self.fresh()))
        for _ in range(self.rounds):
            alone.append(self.empty_again([self.home(name(0), self.fresh())], known))
            database = self.fresh()
            homes = [self.home(name(number), database) for number in range(REPLICAS)]
            together.append(self.empty_again(homes, known))
            bare = self.bare(homes[0])
            pythons.append(at_once(self.bare_python, [bare] * REPLICAS))
        beside = {"one alone": least(Times(alone)), f"{REPLICAS} bare Python starts": least(Times(pythons))}
        self.table.row(f"{REPLICAS} at once {where}", least(Times(together)), beside, "≤ 1.3 × one alone")

    def empty_again(self, homes, known):
        if known:
            for here in homes:
                self.once(here)
            self.again()
        return at_once([homes[0].binary, "init-db"], [here.env for here in homes])


QUIET = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def missing(kind, bots):
    """Why it cannot be measured."""
    if not kind.installed():
        return "its server is not installed"
    tries = " and ".join(f"not find_spec({driver!r})" for driver in kind.drivers)
    if tries and place.output([bots / "python", "-c", f"from importlib.util import find_spec; print({tries})"]) == "True\n":
        return "Bots has no driver for it"
    return None


def at_once(command, environments):
    """Seconds until the last of them has ended."""
    begin = time.perf_counter()
    running = [subprocess.Popen(command, env=env, **QUIET) for env in environments]
    codes = [process.wait() for process in running]
    took = time.perf_counter() - begin
    if any(codes):
        raise BenchError(f"{' '.join(command)}, {len(codes)} at once, ended with {codes}")
    return took


def measured(given, home):
    with contextlib.ExitStack() as stack:
        for kind in (Sqlite, Mariadb, Postgresql):
            table = Table(f"init-db on {kind.title}")
            if why := missing(kind, given.bots):
                table.note(f"Left out: {why}.")
                yield table
                continue
            server = kind(home)
            stack.callback(server.stop)
            bench = Bench(given, server, home)
            bench.run()
            yield bench.table


if __name__ == "__main__":
    place.bench(place.options(__doc__), measured)
