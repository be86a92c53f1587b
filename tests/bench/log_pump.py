"""How fast the output of a service reaches a file through bots-ctl: MB/s of 100-byte lines, beside `cat` alone.

    BOTS_BIN_DIR=… python3 tests/bench/log_pump.py target/release/bots-ctl [MEGABYTES]

The web server's place is taken by a script that prints as fast as it can. What is measured ends when the last line is
in the file; lines that are missing there fail the measurement.
"""

import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import measure

ROUNDS = 5
LINE = b"x" * 99 + b"\n"

SERVICE = """#!/bin/sh
date +%s.%N >"$HOME/begin"
head -c {size} "$HOME/lines"
"""


def prepare(home, bots, size):
    """A virtual environment like the real one, with another program in place of bots-webserver."""
    for name in ("lib", "pyvenv.cfg"):
        (home / "venv").mkdir(exist_ok=True)
        (home / "venv" / name).symlink_to(bots.parent / name)
    programs = home / "venv/bin"
    programs.mkdir()
    for program in bots.iterdir():
        if program.name != "bots-webserver":
            (programs / program.name).symlink_to(program)
    script = programs / "bots-webserver"
    script.write_text(SERVICE.format(size=size))
    script.chmod(0o755)
    (home / "lines").write_bytes(LINE * (size // len(LINE)))


def through(binary, home, shape):
    """Seconds from the service's first byte to the end of bots-ctl, and the lines that arrived."""
    env = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(home),
        "BOTS_BIN_DIR": str(home / "venv/bin"),
        "BOTS_CTL_CHILD_OUTPUT": shape,
        "BOTS_CTL_HEALTH_ADDR": f"127.0.0.1:{measure.free_port(20000 + os.getpid() % 1000 * 10)}",
        "PORT": str(measure.free_port(30000 + os.getpid() % 100 * 10)),
        "DB_INIT_SKIP": "true",
        "LOG_LEVEL": "info",
    }
    with open(home / "out", "wb") as out, open(home / "err", "wb") as err:
        subprocess.run([binary, "webserver"], env=env, stdout=out, stderr=err, check=True)
    took = time.time() - float((home / "begin").read_text())
    return took, count(home / "out")


def alone(home, size):
    """The same bytes through a pipe and `cat` into the same place."""
    with open(home / "out", "wb") as out:
        begin = time.time()
        subprocess.run(f"head -c {size} lines | cat", shell=True, cwd=home, stdout=out, check=True)
    return time.time() - begin, count(home / "out")


def count(path):
    with open(path, "rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def main():
    binary, megabytes = os.path.abspath(sys.argv[1]), int((sys.argv + ["500"])[2])
    size = megabytes * 1_000_000
    with tempfile.TemporaryDirectory() as directory:
        home = pathlib.Path(directory)
        prepare(home, pathlib.Path(os.environ["BOTS_BIN_DIR"]), size)
        commands = {shape: (lambda shape=shape: through(binary, home, shape)) for shape in ("text", "json", "raw")}
        commands["cat alone"] = lambda: alone(home, size)
        speeds = {name: [] for name in commands}
        for _ in range(ROUNDS):
            for name, command in commands.items():
                took, lines = command()
                if lines != size // len(LINE):
                    raise measure.BenchError(f"{name}: {lines} of {size // len(LINE)} lines arrived")
                speeds[name].append(megabytes / took)
        print(f"| {megabytes} MB of 100-byte lines to a file | MB/s, median (least, most) of {ROUNDS} |\n|---|---|")
        for name, all_of_it in speeds.items():
            print(f"| {name} | {statistics.median(all_of_it):.0f} ({min(all_of_it):.0f}, {max(all_of_it):.0f}) |")


if __name__ == "__main__":
    main()
