#!/usr/bin/env python3
"""Measures `bots-ctl init-db` beside `python -m django migrate` on the same databases in one run; prints a table.

    cargo build --release && python3 -B tests/bench/init_db.py

Takes about five minutes. SQLite, and MariaDB and PostgreSQL where their servers are installed: each is started in a
temporary directory. Bots is that of BOTS_BIN_DIR, else the one in ~/.bots/venv; BOTS_CTL_BIN names another binary.
"""

import argparse
import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import measure
from measure import BenchError, Times

# Servers refuse to run as root; this user is on every system.
NOBODY = 65534

REPLICAS = 8

# The least that a Python of Bots can do: its settings and its models.
BARE_PYTHON = "import django; django.setup()"

FACTS = ".bots-ctl-facts.json"


class Sqlite:
    """A file below one directory for each database."""

    title, word = "SQLite", "sqlite"

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
    title, word = "MariaDB", "mysql"
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
    title, word = "PostgreSQL", "postgresql"
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
    """One kind of database, environments of Bots, and the rows of the table."""

    def __init__(self, binary, bots, rounds, server, directory):
        self.binary, self.bots, self.rounds, self.server = str(binary), bots, rounds, server
        self.directory = directory / f"homes-{server.word}"
        self.count = 0
        self.rows = []
        self.migrate = [str(bots / "python"), "-m", "django", "migrate", "--noinput", "-v0"]
        self.migrate += ["--skip-checks"] if is_bots_4(bots) else ["--run-syncdb"]

    def row(self, what, ours, beside, target, limit):
        self.rows.append((self.server.title, what, ours, beside, target, "yes" if limit else "**no**"))
        print(f"  {self.rows[-1]}", file=sys.stderr)

    def fresh(self):
        self.count += 1
        return self.server.create(f"bots{self.count}")

    def again(self):
        """The last one, empty once more."""
        self.server.drop(f"bots{self.count}")
        self.server.create(f"bots{self.count}")

    def home(self, name, database):
        """An environment, whose files are there when it has been used before; other settings are not known yet."""
        home = self.directory / name
        home.mkdir(parents=True, exist_ok=True)
        return {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": str(home),
            "BOTS_BIN_DIR": str(self.bots),
            "SUPERUSER_PASSWORD": "not so well known",
            **database,
        }

    def root(self, env):
        return pathlib.Path(env["HOME"]) / ".bots/env/default"

    def forget(self, env):
        (self.root(env) / FACTS).unlink(missing_ok=True)

    def bare(self, env):
        """What Django's own command line needs."""
        printed = subprocess.run(
            [self.binary, "exec", "--", "env", "-0"], env=env, stdout=subprocess.PIPE, check=True
        ).stdout.decode()
        variables = dict(entry.split("=", 1) for entry in printed.split("\0") if entry)
        return {**variables, "PYTHONPATH": str(self.root(env)), "DJANGO_SETTINGS_MODULE": "config.settings"}

    def run(self):
        env = self.home("one", self.fresh())
        self.once(env)
        self.nothing_to_do(env)
        self.first()
        shared, own = lambda _: "shared", lambda number: f"replica-{number}"
        self.replicas("in one environment", shared, known=False)
        self.replicas("in an environment each, settings known", own, known=True)
        self.replicas("in an environment each, settings not known", own, known=False)

    def once(self, env):
        took, code = measure.wall([self.binary, "init-db"], env)
        if code != 0:
            raise BenchError(f"init-db on {self.server.title} ended with {code}")
        return took

    def nothing_to_do(self, env):
        bare, python = self.bare(env), [str(self.bots / "python"), "-c", BARE_PYTHON]
        known, unknown, started, migrated = [], [], [], []
        for _ in range(self.rounds):
            known.append(self.once(env))
            self.forget(env)
            unknown.append(self.once(env))
            started.append(measure.alternating(1, (python, bare))[0].median)
            migrated.append(measure.alternating(1, (self.migrate, bare))[0].median)
        known, unknown, started, migrated = map(Times, (known, unknown, started, migrated))
        beside = f"`django migrate` {milli(migrated)}"
        self.row("nothing to do, settings known", milli(known), beside, "≤ 20 ms", known.median <= 0.020)
        over = unknown.median - started.median
        beside = f"a bare Python start {milli(started)}; {over * 1e3:+.0f} ms"
        self.row("nothing to do, settings not known", milli(unknown), beside, "≤ a start + 30 ms", over <= 0.030)

    def first(self):
        ours, theirs = [], []
        for _ in range(self.rounds):
            env = self.home("one", self.fresh())
            ours.append(self.once(env))
            bare = self.bare(self.home("one", self.fresh()))
            theirs.append(measure.alternating(1, (self.migrate, bare))[0].median)
        ours, theirs = Times(ours), Times(theirs)
        times = ours.median / theirs.median
        beside = f"`django migrate` {milli(theirs)}; × {times:.2f}"
        self.row("first initialisation", milli(ours), beside, "≤ 1.15 ×", times <= 1.15)

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
            pythons.append(at_once([str(self.bots / "python"), "-c", BARE_PYTHON], [bare] * REPLICAS))
        together, alone, pythons = map(Times, (together, alone, pythons))
        times = together.median / alone.median
        beside = f"one {milli(alone)}; × {times:.2f}; {REPLICAS} bare Python starts {milli(pythons)}"
        self.row(f"{REPLICAS} at once {where}", milli(together), beside, "≤ 1.3 ×", times <= 1.3)

    def empty_again(self, homes, known):
        if known:
            for env in homes:
                self.once(env)
            self.again()
        return at_once([self.binary, "init-db"], homes)


QUIET = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def at_once(command, environments):
    """Seconds until the last of them has ended."""
    begin = time.perf_counter()
    running = [subprocess.Popen(command, env=env, **QUIET) for env in environments]
    codes = [process.wait() for process in running]
    took = time.perf_counter() - begin
    if any(codes):
        raise BenchError(f"{' '.join(command)}, {len(codes)} at once, ended with {codes}")
    return took


def is_bots_4(bots):
    question = "import bots, os; print(os.path.isdir(os.path.join(os.path.dirname(bots.__file__), 'migrations')))"
    return subprocess.run([bots / "python", "-c", question], stdout=subprocess.PIPE, check=True).stdout == b"True\n"


def milli(times):
    return f"{times.median * 1e3:.0f} ms ({times.least * 1e3:.0f})"


def main():
    root = pathlib.Path(__file__).resolve().parents[2]
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", root / "target"))
    default = os.environ.get("BOTS_CTL_BIN", target / "release/bots-ctl")
    bots = os.environ.get("BOTS_BIN_DIR", pathlib.Path.home() / ".bots/venv/bin")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=pathlib.Path, nargs="?", default=default, help="the bots-ctl to measure")
    parser.add_argument("--bots", type=pathlib.Path, default=bots, help="directory of bots-webserver")
    parser.add_argument("--rounds", type=int, default=10, help="how often each is run")
    options = parser.parse_args()
    if not pathlib.Path(options.binary).is_file():
        sys.exit(f"bench: there is no {options.binary}: run 'cargo build --release', or set BOTS_CTL_BIN")
    if not (pathlib.Path(options.bots) / "bots-webserver").exists():
        sys.exit(f"bench: there is no bots-webserver in {options.bots}: run 'bots-ctl install', or set BOTS_BIN_DIR")
    rows = []
    with tempfile.TemporaryDirectory(prefix="bots-ctl-bench-") as name, contextlib.ExitStack() as stack:
        directory = pathlib.Path(name)
        directory.chmod(0o755)
        for kind in (Sqlite, *(kind for kind in (Mariadb, Postgresql) if kind.installed())):
            server = kind(directory)
            stack.callback(server.stop)
            bench = Bench(pathlib.Path(options.binary).absolute(), options.bots, options.rounds, server, directory)
            try:
                bench.run()
            except (BenchError, subprocess.CalledProcessError) as error:
                sys.exit(f"bench: {error}")
            rows += bench.rows
    print(f"load average at the end: {os.getloadavg()[0]:.1f}; median (least) of {options.rounds}\n")
    print("| database | measured | `init-db` | beside it | to reach | reached |\n|---|---|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


main()
