#!/usr/bin/env python3
"""Measures everything, one theme after the other, and writes one report in Markdown.

    tests/bench/report.py [--quick] [--bots4 DIRECTORY] [--image IMAGE] [-o FILE]

Installs what is compared with, as root or through sudo, and says what it has to leave out; builds bots-ctl as it is released
(BOTS_CTL_BIN names another binary) and installs Bots 3.3.1 below target/tmp (BOTS_BIN_DIR names another one). Between themes
it waits until the machine has nothing else to do. Takes an hour, with --quick some minutes; then the figures are not to be
quoted.
"""

import argparse
import contextlib
import io
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import time

import machine
from place import ROOT

HERE = pathlib.Path(__file__).parent

# What each package has that is looked for.
PACKAGES = {
    "tini": "tini", "dumb-init": "dumb-init", "s6-svscan": "s6", "supervisord": "supervisor", "runsvdir": "runit",
    "wrk": "wrk", "/usr/sbin/mariadbd": "mariadb-server-core", "mariadb-install-db": "mariadb-server-core",
    "mariadb": "mariadb-client-core", "psql": "postgresql",
}  # fmt: skip

# In this order: what most readers look for first.
THEMES = [
    "file_to_result", "probes", "starts", "init_db", "rolling", "init", "log_pump", "memory", "jobs", "dirmonitor", "metrics", "changes",
]  # fmt: skip

# Of these a job queue that runs jobs is a part.
OF_BOTS_4 = ["jobs", "file_to_result"]

# A machine is quiet when others have used less of its processors than this, for so many seconds.
QUIET, LOOK, PATIENCE = 0.05, 3, 300


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds, to try it")
    parser.add_argument("--bots", type=pathlib.Path, default=os.environ.get("BOTS_BIN_DIR"), help="programs of Bots")
    parser.add_argument("--bots4", type=pathlib.Path, help="programs of Bots 4, for the job queue")
    parser.add_argument("--image", help="an image to be measured, and podman's command if it has options")
    parser.add_argument("--only", nargs="+", choices=THEMES, default=THEMES, metavar="THEME", help=" ".join(THEMES))
    parser.add_argument("-o", "--output", type=pathlib.Path, help="file for the report, else standard output")
    given = parser.parse_args()
    left_out = install()
    given.binary = build()
    given.bots = (given.bots or install_bots(given.binary)).absolute()
    report, failures = measure(given, left_out)
    if given.output:
        given.output.write_text(report)
    else:
        print(report)
    for failure in failures:
        print(f"bench: {failure}", file=sys.stderr)
    return 1 if failures else 0


def install():
    """Gives what cannot be had."""
    missing = {package: program for program, package in PACKAGES.items() if not shutil.which(program)}
    if missing and shutil.which("apt-get"):
        as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
        with contextlib.suppress(OSError), no_daemons(as_root):
            run([*as_root, "apt-get", "update", "-qq"])
            run([*as_root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-qq",
                 "--no-install-recommends", *missing])  # fmt: skip
    return [package for package, program in missing.items() if not shutil.which(program)]


@contextlib.contextmanager
def no_daemons(as_root):
    """Keeps Debian's packages from starting what they install."""
    policy = "/usr/sbin/policy-rc.d"
    is_ours = not os.path.exists(policy) and subprocess.run(
        [*as_root, "install", "-m", "755", "/dev/stdin", policy], input=b"#!/bin/sh\nexit 101\n", check=False
    ).returncode == 0  # fmt: skip
    try:
        yield
    finally:
        if is_ours:
            run([*as_root, "rm", "-f", policy])


def run(argv):
    """Whether it succeeds. What it prints is for who watches, and no part of the report."""
    return subprocess.run(list(map(str, argv)), stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False).returncode == 0


def build():
    if binary := os.environ.get("BOTS_CTL_BIN"):
        return pathlib.Path(binary).absolute()
    if not run(["cargo", "build", "--release", "--locked", "--manifest-path", ROOT / "Cargo.toml"]):
        sys.exit("bench: bots-ctl cannot be built")
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/bots-ctl"


def install_bots(binary):
    """The one that the tests use: with drivers for all databases, or without where they cannot be built."""
    place = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "tmp/bots"
    if not (place / "bin/bots-webserver").exists():
        command = ["env", f"BOTS_CTL_INSTALL_DIR={place}", binary, "install"]
        if not run([*command, "--with", "mysql,postgresql"]) and not run(command):
            sys.exit("bench: Bots cannot be installed; name one with BOTS_BIN_DIR")
    return place / "bin"


def measure(given, left_out):
    """The report, and what has failed."""
    head = io.StringIO()
    with contextlib.redirect_stdout(head):
        print("# Benchmarks of bots-ctl\n")
        machine.print_head(given)
        for line in machine.others():
            print(f"- {line}")
        print("- each value of bots-ctl and that of the alternative come from the same run")
    if left_out:
        head.write(f"- left out, since it cannot be installed: {', '.join(left_out)}\n")
    parts, failures = [head.getvalue()], []
    for theme in given.only:
        bots = given.bots4 if theme in OF_BOTS_4 else given.bots
        if not bots:
            parts.append(f"\n## {theme}\n\nLeft out: it takes Bots 4, whose directory of programs --bots4 names.\n")
            continue
        words = ["--bots", bots, "--part", *(["--quick"] if given.quick else []), given.binary]
        parts.append(part(theme, words, failures, given.quick))
    if given.image:
        words = [*(["--quick"] if given.quick else []), *shlex.split(given.image)]
        parts.append(part("image", words, failures, given.quick))
    elif given.only == THEMES:
        parts.append("\n## image\n\nLeft out: --image names one.\n")
    return "".join(parts), failures


def part(theme, words, failures, is_quick):
    print(f"{theme}:", file=sys.stderr, flush=True)
    note = "" if is_quick else wait_for_quiet()
    command = [sys.executable, "-B", HERE / f"{theme}.py", *words]
    done = subprocess.run(list(map(str, command)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False, text=True)
    if done.returncode:
        failures.append(f"{theme}.py ended with {done.returncode}")
        note += f"\n**{theme}.py failed: what is here is not all of it.**\n"
    return done.stdout + note


def wait_for_quiet():
    """Until the processors are idle; a note for the report if they do not become so."""
    deadline = time.monotonic() + PATIENCE
    while (busy := used(LOOK)) > QUIET:
        if time.monotonic() > deadline:
            return f"\n**Others used {busy * 100:.0f} % of the processors before this was measured.**\n"
    return ""


def used(seconds):
    """Of all processors, by anybody."""

    def times():
        fields = [int(field) for field in pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
        return sum(fields), fields[3] + fields[4]

    before, idle_before = times()
    time.sleep(seconds)
    total, idle = times()
    return 1 - (idle - idle_before) / max(total - before, 1)


if __name__ == "__main__":
    sys.exit(main())
