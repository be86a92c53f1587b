#!/usr/bin/env python3
"""The part of run.sh that runs in the virtual machine for each kind of share: shares.py KIND

One server exports /srv/share. /client is its mount on this machine, /other that on another one. Prints what a client sees of
files that the server or the other machine writes, then has bots-ctl process orders that come so, and ends with code 1 when one
of them did not go out exactly once, byte for byte.
"""

import configparser
import ctypes
import errno
import fcntl
import os
import pathlib
import random
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time

KIND = sys.argv[1]
SERVER, CLIENT, OTHER = (pathlib.Path(name) for name in ("/srv/share", "/client", "/other"))
# Who writes what /client shows.
WRITERS = {"server": SERVER, "other machine": OTHER}
DEMO = pathlib.Path("/mnt/demo")
PYTHON = pathlib.Path("/opt/bots/bin/python")
SEEN_TIMEOUT = 100
ORDERS_TIMEOUT = 900
RUN_TIMEOUT = 300
SCHEDULE_INTERVAL = 2
ROUNDS = 3
# Of writers that append. On a busy machine they can be longer than was meant.
PAUSES = []

libc = ctypes.CDLL(None, use_errno=True)


def say(text):
    print(f"{KIND}: {text}")


def seconds(since):
    return f"{time.monotonic() - since:.1f} s"


def attempt(call):
    """The name of the error of a call, or `yes`."""
    try:
        call()
        return "yes"
    except OSError as error:
        return errno.errorcode[error.errno]


# How long what was changed elsewhere is not seen.


def open_size(path):
    with open(path, "rb") as file:
        return os.fstat(file.fileno()).st_size


def statx_size(path):
    """The size by statx(2) with AT_STATX_FORCE_SYNC of a file that is opened."""
    with open(path, "rb") as file:
        buffer = ctypes.create_string_buffer(256)
        at_empty_path, force_sync, basic_stats = 0x1000, 0x2000, 0x7FF
        if libc.statx(file.fileno(), b"", at_empty_path | force_sync, basic_stats, buffer) != 0:
            raise OSError(ctypes.get_errno(), "statx")
        return struct.unpack_from("Q", buffer, 0x28)[0]


SIZES = {"stat": lambda path: os.stat(path).st_size, "open and fstat": open_size, "open and statx FORCE_SYNC": statx_size}


def wait_seen(look):
    """How long it takes until `look` sees something."""
    begin = time.monotonic()
    while time.monotonic() - begin < SEEN_TIMEOUT:
        if look():
            return seconds(begin)
        time.sleep(0.1)
    return f"not within {SEEN_TIMEOUT} s"


def see_appended(writer, age, method):
    """A file that was looked at for so many seconds grows, and its writer closes it again."""
    name = f"appended-{writer}-{age}-{method}".replace(" ", "-")
    path, size = WRITERS[writer] / name, SIZES[method]
    path.write_bytes(b"x" * 100)
    wait_seen(lambda: (CLIENT / name).exists())
    end = time.monotonic() + age
    while time.monotonic() < end:
        size(CLIENT / name)
        time.sleep(0.5)
    with open(path, "ab") as file:
        file.write(b"x" * 100)
    say(f"appended by the {writer} to a file looked at for {age} s: {method} sees it after "
        f"{wait_seen(lambda: size(CLIENT / name) == 200)}")


def see_new_name(writer):
    """A file comes into a directory that was listed for 40 s."""
    name = f"listed-{writer}".replace(" ", "-")
    (WRITERS[writer] / name).mkdir()
    wait_seen((CLIENT / name).exists)
    for _ in range(40):
        os.listdir(CLIENT / name)
        time.sleep(1)
    (WRITERS[writer] / name / "new").write_bytes(b"")
    say(f"made by the {writer} in a directory listed each second for 40 s: listed after "
        f"{wait_seen(lambda: os.listdir(CLIENT / name))}")


def see_unclosed(writer):
    """A writer does not close its file."""
    name = f"unclosed-{writer}".replace(" ", "-")
    with open(WRITERS[writer] / name, "wb", buffering=0) as file:
        file.write(b"x" * 100)
        say(f"written by the {writer}, which does not close the file: open and statx FORCE_SYNC sees it after "
            f"{wait_seen(lambda: (CLIENT / name).exists() and statx_size(CLIENT / name) == 100)}")


def see_growing(writer):
    """A writer appends each half second, and does not close its file."""
    name = f"growing-{writer}".replace(" ", "-")
    size, changed, longest = 0, time.monotonic(), 0
    end = changed + SEEN_TIMEOUT
    with open(WRITERS[writer] / name, "wb", buffering=0) as file:
        file.write(b"x" * 100)
        wait_seen(lambda: (CLIENT / name).exists() and statx_size(CLIENT / name) > 0)
        while time.monotonic() < end:
            file.write(b"x" * 100)
            time.sleep(0.5)
            if statx_size(CLIENT / name) != size:
                size, changed = statx_size(CLIENT / name), time.monotonic()
            longest = max(longest, time.monotonic() - changed)
    say(f"appended each half second by the {writer}, which does not close the file: open and statx FORCE_SYNC sees no change for "
        f"up to {longest:.1f} s")


def observe_caches():
    looks = [(see_appended, writer, age, method) for writer in WRITERS for age in (0, 40) for method in SIZES]
    looks += [(see, writer) for see in (see_new_name, see_unclosed, see_growing) for writer in WRITERS]
    threads = [threading.Thread(target=see, args=args) for see, *args in looks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# What the kernel of a client knows.


def has_lease(path):
    with open(path, "rb") as file:
        answer = attempt(lambda: fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK))
        if answer == "yes":
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        return answer


def observe_leases():
    path = SERVER / "leased"
    path.write_bytes(b"x")
    wait_seen(lambda: (CLIENT / "leased").exists())
    say(f"F_SETLEASE of a file that no process has open: {has_lease(CLIENT / 'leased')}")
    for writer, directory in {"client": CLIENT, **WRITERS}.items():
        with open(directory / "leased", "ab"):
            say(f"F_SETLEASE of a file that a process of the {writer} has open for writing: {has_lease(CLIENT / 'leased')}")


def observe_events():
    for writer, directory in {"client": CLIENT, **WRITERS}.items():
        watched = CLIENT / f"watched-{writer}".replace(" ", "-")
        watched.mkdir()
        wait_seen((directory / watched.name).exists)
        queue = libc.inotify_init1(os.O_NONBLOCK)
        all_events = 0xFFF
        libc.inotify_add_watch(queue, bytes(watched), all_events & ~0x21 & ~0x10)
        (directory / watched.name / "new").write_bytes(b"x")
        time.sleep(5)
        try:
            events = len(os.read(queue, 65536)) // 16
        except BlockingIOError:
            events = 0
        os.close(queue)
        say(f"inotify on a directory in which the {writer} makes a file: {'events' if events else 'no event'}")


LOCKS = {
    "flock": lambda file: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB),
    "fcntl": lambda file: fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB),
}


def observe_locks():
    (CLIENT / "locked").write_bytes(b"")
    for name, lock in LOCKS.items():
        for holder, directory in {"client": CLIENT, **WRITERS}.items():
            for taker, its_directory in {"client": CLIENT, **WRITERS}.items():
                answer = lock_by_two(directory / "locked", its_directory / "locked", lock)
                say(f"{name} by the {taker} while the {holder} holds it: {answer}")


def lock_by_two(held, taken, lock):
    """What a second process gets while this one holds the lock."""
    with open(held, "r+b") as file:
        answer = attempt(lambda: lock(file))
        if answer != "yes":
            return f"not even alone: {answer}"
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            def take():
                with open(taken, "r+b") as other:
                    lock(other)
            os.write(writer, attempt(take).encode())
            os._exit(0)
        os.waitpid(child, 0)
        os.close(writer)
        with open(reader) as pipe:
            return pipe.read()


# Orders.


def message(number):
    text = (DEMO / "input/single.edi").read_bytes()
    return text.replace(b"PO-1001", order(number)).replace(b"IC0001", b"IC%04d" % number)


def expected(number):
    return (DEMO / "expected/PO-1001.txt").read_bytes().replace(b"PO-1001", order(number))


def order(number):
    return b"PO-%04d" % number


def append_open(path, text):
    """Without a longer pause for 10 s, in a file that stays open."""
    with open(path, "wb", buffering=0) as file:
        for part in at_intervals(text):
            file.write(part)


def append_closing(path, text):
    """The same, and closes the file after each part."""
    path.write_bytes(b"")
    for part in at_intervals(text):
        # One that was taken meanwhile is not made again.
        with open(path, "r+b") as file:
            file.seek(0, os.SEEK_END)
            file.write(part)


def fill_later(path, text):
    path.write_bytes(b"")
    time.sleep(4)
    with open(path, "r+b") as file:
        file.write(text)


def rename(path, text):
    part = path.with_suffix(".part")
    part.write_bytes(text)
    part.rename(path)


def rewrite(path, text):
    path.write_bytes(text[: len(text) // 2])
    time.sleep(2)
    with open(path, "r+b") as file:
        file.truncate()
        file.write(text)


HABITS = [append_open, append_closing, fill_later, rename, rewrite]


def at_intervals(text):
    """Twenty parts, one each half second."""
    size, last = -(-len(text) // 20), time.monotonic()
    for at in range(0, len(text), size):
        yield text[at : at + size]
        time.sleep(0.5)
        PAUSES.append(time.monotonic() - last)
        last = time.monotonic()


class Writer(threading.Thread):
    """Writes one order, and keeps the error that it saw."""

    def __init__(self, habit, writer, directory, number):
        super().__init__()
        self.habit, self.writer, self.number = habit, writer, number
        self.path = directory / f"{number}.edi"
        self.error = None

    def run(self):
        time.sleep(random.uniform(0, 6))
        try:
            self.habit(self.path, message(self.number))
        except OSError as error:
            self.error = error

    def amiss(self, output):
        """Why the order did not go out as it should, if so."""
        if self.error:
            return f"its writer saw {self.error}"
        path = output / f"{order(self.number).decode()}.txt"
        text = path.read_bytes() if path.exists() else None
        if text != expected(self.number):
            return "lost" if text is None else f"damaged or twice: {len(text)} of {len(expected(self.number))} bytes"
        return None


class Bots:
    """An environment of Bots below a home directory."""

    def __init__(self, home, share=None, database=None):
        """`share` becomes the directory of the orders that come; `database` is a file apart from the environment."""
        self.variables = {"DB_ENGINE": "sqlite", "DB_NAME": database} if database else {}
        self.home, self.env = home, home / ".bots/env/default"
        self.input, self.output = self.env / "botssys/infile/demo", self.env / "botssys/outfile/demo"
        home.mkdir(parents=True, exist_ok=True)
        self.share = share

    def command(self, *words, elsewhere=False):
        # On a busy machine a run takes longer than the defaults allow.
        variables = {"HOME": str(self.home), "PATH": os.environ["PATH"], "LOG_FORMAT": "text", "BOTS_BIN_DIR": str(PYTHON.parent),
                     "BOTS_CTL_LEASE_WAIT": "4m", "BOTS_CTL_STOP_TIMEOUT": "4m", **self.variables}
        # On the other machine the same directory is its own mount.
        node = ["nsenter", "--net=/run/netns/other", "--uts=/run/other-name", "unshare", "--mount", "sh", "-c",
                f'mount --bind {OTHER} {CLIENT} && exec "$@"', "sh"] if elsewhere else []
        log = open("/tmp/commands.log", "ab")
        return subprocess.Popen([*node, "/mnt/bots-ctl", *words], env=variables, stdout=log, stderr=subprocess.STDOUT, cwd="/tmp")

    def run(self, *words):
        return self.command(*words).wait()

    def install_demo(self):
        if self.run("exec", "--", str(PYTHON), "-B", "/tmp/demo/install.py", str(self.env / "config")) != 0:
            sys.exit("cannot install the demo: see /tmp/commands.log")
        ini = configparser.RawConfigParser()
        ini.optionxform = str
        path = self.env / "config/bots.ini"
        ini.read(path)
        for section, key, value in [("jobqueue", "enabled", "True"), ("dirmonitor1", "path", str(self.input)),
                                    ("dirmonitor1", "route", "demo_orders")]:
            ini.has_section(section) or ini.add_section(section)
            ini.set(section, key, value)
        with open(path, "w") as file:
            ini.write(file)
        if self.share:
            subprocess.run(["mount", "--bind", self.share, self.input], check=True)

    def remove(self):
        if self.share:
            subprocess.run(["umount", self.input], check=True)


def code_of(process):
    """The exit code of a command that should not take so long, or that of SIGKILL."""
    try:
        return process.wait(RUN_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def judge(what, writers, bots):
    """Says which orders are not as they should be; whether all are."""
    faults = [(writer, writer.amiss(bots.output)) for writer in writers]
    for writer, fault in faults:
        if fault:
            say(f"FAULT: {writer.habit.__name__} by the {writer.writer}, order {writer.number}: {fault}")
    good = sum(not fault for _, fault in faults)
    rest = sorted(path.name for path in bots.input.iterdir())
    say(f"{what}: {good} of {len(faults)} orders out exactly once, byte for byte; left in the directory: {rest or 'nothing'}")
    return good == len(faults) and not rest


def process_orders():
    """The directory monitor, and runs of the engine beside it, while orders come in all habits."""
    directories = {writer: directory / "orders" for writer, directory in WRITERS.items()}
    (SERVER / "orders").mkdir()
    wait_seen((CLIENT / "orders").exists)
    bots = Bots(pathlib.Path(f"/tmp/{KIND}"), share=CLIENT / "orders")
    if bots.run("init-db") != 0:
        say("init-db failed")
        return False
    bots.install_demo()
    begin = time.monotonic()
    monitor = bots.command("up", "--services", "jobqueue,dirmonitor")
    codes, done = [], threading.Event()

    def schedule():
        while not done.is_set():
            codes.append(bots.run("engine", "--new"))
            done.wait(SCHEDULE_INTERVAL)

    scheduler = threading.Thread(target=schedule)
    scheduler.start()
    time.sleep(5)
    cases = [(habit, *place) for habit in HABITS for place in directories.items()] * ROUNDS
    writers = [Writer(*case, number) for number, case in enumerate(cases, start=1000)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    say(f"the longest pause of a writer that appends was {max(PAUSES):.1f} s")
    written = time.monotonic()
    while time.monotonic() - written < ORDERS_TIMEOUT and any(bots.input.glob("*.edi")):
        time.sleep(0.5)
    say(f"all orders were taken {seconds(written)} after the last was written, {seconds(begin)} after the begin")
    done.set()
    scheduler.join()
    monitor.send_signal(signal.SIGTERM)
    code = monitor.wait()
    say(f"up ended with {code}; codes of {len(codes)} engine runs beside it: {sorted(set(codes))}")
    is_good = judge("monitor and engine runs", writers, bots)
    bots.remove()
    return is_good and {code, *codes} == {0}


def start_on_two_machines():
    """An environment that is on the share, used by two machines at once. Its database is where both see it, and no lock of the
    share is needed for it, as that of a server."""
    bots = Bots(CLIENT / "home", database=f"/tmp/{KIND}-database")

    def both(*words):
        begun = [bots.command(*words), bots.command(*words, elsewhere=True)]
        return [code_of(process) for process in begun]

    codes = both("init-db")
    say(f"two init-db at once on an environment on the share ended with {codes}")
    if codes != [0, 0]:
        return False
    bots.install_demo()
    numbers = range(2000, 2000 + 5 * ROUNDS)
    writers = [Writer(rename, "server", SERVER / bots.input.relative_to(CLIENT), number) for number in numbers]
    ended = []
    for chunk in range(ROUNDS):
        for writer in writers[5 * chunk : 5 * chunk + 5]:
            rename(writer.path, message(writer.number))
        ended.append(both("engine", "--new"))
        say(f"two engines at once there ended with {ended[-1]}")
    return judge("two engines at once", writers, bots) and all(code == 0 for codes in ended for code in codes)


def main():
    shutil.copytree(DEMO, "/tmp/demo", dirs_exist_ok=True)
    for observe in (observe_leases, observe_events, observe_locks, observe_caches):
        observe()
    results = [process_orders(), start_on_two_machines()]
    if not all(results):
        print(pathlib.Path("/tmp/commands.log").read_text(errors="replace")[-20000:])
    sys.exit(not all(results))


if __name__ == "__main__":
    main()
