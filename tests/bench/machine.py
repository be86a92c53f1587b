"""What a report begins with: the machine, and the versions of what is measured on it."""

import os
import pathlib
import platform
import re
import shutil
import subprocess

import measure

OF_BOTS = """
import importlib.metadata as m, platform
print("Bots", m.version("bots-ediint") + ", Django", m.version("Django") + ", Python", platform.python_version())
"""

# How each of the others tells its version.
OTHERS = {
    "tini": ["tini", "--version"],
    "dumb-init": ["dumb-init", "--version"],
    "s6": ["dpkg-query", "-W", "-f", "s6 ${Version}", "s6"],
    "runit": ["dpkg-query", "-W", "-f", "runit ${Version}", "runit"],
    "supervisor": ["supervisord", "--version"],
    "wrk": ["wrk", "--version"],
    "MariaDB": ["/usr/sbin/mariadbd", "--version"],
    "PostgreSQL": ["psql", "--version"],
    "podman": ["podman", "--version"],
}


def print_head(given):
    if given.quick:
        print("**A quick run, to try the scripts: its figures are not to be quoted.**\n")
    print("\n".join(f"- {line}" for line in [machine(), ours(given.binary), said([given.bots / "python", "-c", OF_BOTS])]))


def machine():
    cpu = re.search(r"^model name\s*: (.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    memory = measure.kilobytes("/proc/meminfo")["MemTotal"]
    return (
        f"{cpu[1] if cpu else platform.machine()}, {os.cpu_count()} cores, {memory / 2**30:.0f} GB of memory, "
        f"{distribution()}, Linux {platform.release()}; load average at the begin {os.getloadavg()[0]:.1f}"
    )


def distribution():
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def ours(binary):
    root = pathlib.Path(__file__).resolve().parents[2]
    commit = said(["git", "-C", root, "describe", "--always", "--dirty"])
    return f"{said([binary, '--version'])}, commit {commit or 'unknown'}, {said(['rustc', '--version'])}"


def others():
    """The versions of what is compared with and is installed."""
    lines = []
    for name, command in OTHERS.items():
        if shutil.which(command[0]) and (line := said(command)):
            lines.append(line if name.lower() in line.lower() else f"{name} {line}")
    return lines


def said(argv):
    """The first line that a program prints, wherever it prints it; nothing when there is no such program."""
    try:
        done = subprocess.run(list(map(str, argv)), stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except OSError:
        return ""
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[0].split(" Copyright")[0].strip() if lines and "no packages found" not in lines[0] else ""
