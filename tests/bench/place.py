"""An environment of Bots in a temporary directory with free ports, and the command line that all scripts share."""

import argparse
import contextlib
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import machine
import measure
from measure import BenchError, Service

READY = "GET /health/ready"
OK = b"HTTP/1.1 200"

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Place:
    """Where bots-ctl, or Bots without it, works."""

    def __init__(self, binary, bots, home, variables=(), number=0):
        """`number` keeps the ports of several apart."""
        self.binary, self.bots, self.home = str(binary), pathlib.Path(bots), pathlib.Path(home)
        self.home.mkdir(parents=True, exist_ok=True)
        self.root = self.home / ".bots/env/default"
        self.config = self.root / "config"
        self.log = self.home / "services.log"
        self.web_port = measure.free_port(20000 + os.getpid() % 100 * 100 + number * 10)
        self.health_port = measure.free_port(self.web_port + 1)
        self.queue_port = measure.free_port(self.health_port + 1)
        # A clean environment: neither a shell's nor a cluster's variables may change what is measured.
        self.env = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.home),
            "BOTS_BIN_DIR": str(self.bots),
            "PORT": str(self.web_port),
            "BOTS_CTL_HEALTH_ADDR": f"127.0.0.1:{self.health_port}",
            **dict(variables),
        }

    def bare_env(self):
        """The variables that bots-ctl gives to a service: for the same program without it."""
        printed = output([self.binary, "exec", "--", "env", "-0"], self.env)
        return dict(entry.split("=", 1) for entry in printed.split("\0") if entry)

    def bare(self, program):
        """The command line of a program of Bots without bots-ctl."""
        return [str(self.bots / program), f"-c{self.config}"]

    def init_db(self):
        output([self.binary, "init-db"], self.env)

    def start(self, *words):
        """Starts bots-ctl as a service."""
        return Service([self.binary, *words], self.env, self.home, self.log)

    def ready(self, service):
        """Seconds until it says that it is ready."""
        return service.until(self.health_port, READY, OK)

    def start_bare(self, program, env=None):
        return Service(self.bare(program), env or self.bare_env(), self.root, self.log)

    def use_queue(self, *keys):
        """Switches the job queue on, on a port of its own."""
        ini = self.config / "bots.ini"
        text = re.sub(r"(?ms)^\[jobqueue\].*?(?=^\[|\Z)", "", ini.read_text())
        section = ["[jobqueue]", "enabled = True", f"port = {self.queue_port}", *keys]
        ini.write_text(text + "\n" + "\n".join(section) + "\n")

    def is_bots_4(self):
        question = "import bots, os; print(os.path.isdir(os.path.join(os.path.dirname(bots.__file__), 'migrations')))"
        return output([self.bots / "python", "-c", question]) == "True\n"

    def stand_in(self, program, to):
        """A copy of Bots's virtual environment, of links, with another program in the place of one of its own."""
        venv = self.home / "stand-in"
        (venv / "bin").mkdir(parents=True)
        for name in ("lib", "lib64", "pyvenv.cfg"):
            if (self.bots.parent / name).exists():
                (venv / name).symlink_to(self.bots.parent / name)
        for real in self.bots.iterdir():
            (venv / "bin" / real.name).symlink_to(to if real.name == program else real)
        return venv / "bin"


def output(argv, env=None):
    """What a program prints; what it says when it fails."""
    done = subprocess.run(argv, env=env, stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode:
        command = " ".join(map(str, argv))
        raise BenchError(f"{command} ended with {done.returncode}: {done.stderr.decode(errors='replace')[-2000:]}")
    return done.stdout.decode()


def wait_for(what, found, pause=0.005):
    """Until something is there; gives it."""
    deadline = time.perf_counter() + measure.DEADLINE
    while time.perf_counter() < deadline:
        if result := found():
            return result
        time.sleep(pause)
    raise BenchError(f"waited in vain until {what}")


def options(doc, extend=None):
    """The command line: the same for each script, and what `extend` adds for one of them."""
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    binary = os.environ.get("BOTS_CTL_BIN", target / "release/bots-ctl")
    bots = os.environ.get("BOTS_BIN_DIR", pathlib.Path.home() / ".bots/venv/bin")
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=pathlib.Path, nargs="?", default=binary, help="the bots-ctl to measure")
    parser.add_argument("--bots", type=pathlib.Path, default=bots, help="directory of the programs of Bots")
    parser.add_argument("--quick", action="store_true", help="few rounds: to try the script, not to be quoted")
    parser.add_argument("--part", action="store_true", help="without the lines on the machine, as part of a report")
    if extend:
        extend(parser)
    given = parser.parse_args()
    given.binary, given.bots = given.binary.absolute(), given.bots.absolute()
    if not given.binary.is_file():
        sys.exit(f"bench: there is no {given.binary}: run 'cargo build --release', or set BOTS_CTL_BIN")
    if not (given.bots / "bots-webserver").exists():
        sys.exit(f"bench: there is no bots-webserver in {given.bots}: run 'bots-ctl install', or set BOTS_BIN_DIR")
    return given


def bench(given, measured):
    """Measures in a temporary directory and prints the tables. What was started ends, whatever happens."""
    if not given.part:
        machine.print_head(given)
    with tempfile.TemporaryDirectory(prefix="bots-ctl-bench-") as home:
        # Servers that do not run as root look into it.
        os.chmod(home, 0o755)
        try:
            with contextlib.closing(measured(given, pathlib.Path(home))) as tables:
                for table in tables:
                    table.print()
        except (BenchError, OSError) as error:
            for log in pathlib.Path(home).glob("**/services.log"):
                print(log.read_text(errors="replace")[-4000:], file=sys.stderr)
            sys.exit(f"bench: {error}")
        finally:
            Service.kill_all()
