"""The cost of a run and of an idle process, and the time until a port answers."""

import contextlib
import ctypes
import dataclasses
import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import time

PR_SET_CHILD_SUBREAPER = 36

# A service that takes longer than this to start, answer or end is broken.
DEADLINE = 60.0

# After this time the signal that ends a process is sent again.
REPEAT = 10.0

# How often a port is tried while a service starts: fine enough for differences of milliseconds.
POLL = 0.002


class BenchError(Exception):
    """Something that was to be measured did not work."""


@dataclasses.dataclass
class Times:
    """Wall times of many runs, in seconds."""

    all: list

    @property
    def median(self):
        return statistics.median(self.all)

    @property
    def least(self):
        return min(self.all)

    def percentile(self, share):
        return sorted(self.all)[min(len(self.all) - 1, int(len(self.all) * share))]


def wall(argv, env):
    """Runs a program without output; gives its wall time and its exit code."""
    quiet = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in range(3)]
    begin = time.perf_counter()
    pid = os.posix_spawn(argv[0], argv, env, file_actions=quiet)
    _, status = os.waitpid(pid, 0)
    return time.perf_counter() - begin, os.waitstatus_to_exitcode(status)


def now():
    return time.perf_counter()


def alternating(runs, *commands):
    """Runs several programs in turns, so that a busy moment of the machine meets all of them."""
    times = [[] for _ in commands]
    for _ in range(runs):
        for (argv, env), collected in zip(commands, times):
            took, code = wall(argv, env)
            if code != 0:
                raise BenchError(f"{' '.join(argv)} ended with {code}")
            collected.append(took)
    return [Times(collected) for collected in times]


def peak_memory(argv, env):
    """Peak resident memory of one run, in bytes.

    The kernel counts for a new process the memory of the one that forked it, too. So a shell, which is small, starts
    it and goes away, and we adopt it.
    """
    if ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise BenchError("cannot adopt processes")
    script = '"$@" >/dev/null 2>&1 & echo $!'
    with subprocess.Popen(["/bin/sh", "-c", script, "sh", *argv], env=env, stdout=subprocess.PIPE) as shell:
        pid = int(shell.stdout.readline())
    _, status, usage = os.wait4(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code != 0:
        raise BenchError(f"{' '.join(argv)} ended with {code}")
    return usage.ru_maxrss * 1024


def cpu_of_runs(argv, env, runs):
    """CPU time of one run on average, in seconds, with what its children used."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    alternating(runs, (argv, env))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / runs


class Service:
    """A process that serves until it is told to end."""

    running = []

    def __init__(self, argv, env, directory, log):
        self.argv, self.log = argv, log
        with open(log, "ab") as output:
            self.begin = time.perf_counter()
            streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
            self.process = subprocess.Popen(argv, env=env, cwd=directory, start_new_session=True, **streams)
        self.running.append(self)

    @property
    def pid(self):
        return self.process.pid

    def until(self, port, request, wanted):
        """Seconds from the start until the answer to a request begins with the wanted bytes."""
        while (took := time.perf_counter() - self.begin) < DEADLINE:
            if self.process.poll() is not None:
                raise BenchError(f"{' '.join(self.argv)} ended by itself; see {self.log}")
            if first_line(port, request).startswith(wanted):
                return time.perf_counter() - self.begin
            time.sleep(POLL)
        raise BenchError(f"{' '.join(self.argv)} did not answer within {took:.0f} s; see {self.log}")

    def stop(self, number):
        """Ends it with a signal; gives the seconds this took. Bots's web UI may lose one that comes right after its start."""
        begin = time.perf_counter()
        while time.perf_counter() < begin + DEADLINE:
            self.process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(REPEAT)
                break
        else:
            raise BenchError(f"{' '.join(self.argv)} did not stop")
        self.running.remove(self)
        return time.perf_counter() - begin

    def kill(self):
        """Ends it with everything below it, at once. What it started has groups of its own."""
        for pid in [*below(self.pid), self.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.running.remove(self)

    @classmethod
    def kill_all(cls):
        """Whatever was interrupted leaves no process behind."""
        for service in list(cls.running):
            service.kill()


def first_line(port, request):
    """The first line of an HTTP answer; empty when there is none."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as connection:
            connection.sendall(f"{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            answer = b""
            while part := connection.recv(65536):
                answer += part
            return answer.split(b"\r\n", 1)[0]
    except OSError:
        return b""


def wrk(port, path, connections, seconds):
    """Requests per second of a path, and the latency: median and p99. With one thread, so that on two cores nobody waits
    for a core."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", f"http://127.0.0.1:{port}{path}"]
    said = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    answered = re.search(r"Requests/sec:\s+([\d.]+)", said)
    latency = [re.search(rf"{share}%\s+([\d.]+)(us|ms|s|m)\b", said) for share in (50, 99)]
    if not answered or not all(latency):
        raise BenchError(f"wrk says: {said}")
    units = {"us": 1e-6, "ms": 1e-3, "s": 1, "m": 60}
    return float(answered[1]), [float(found[1]) * units[found[2]] for found in latency]


def free_port(first):
    """A port nobody listens on, below the range from which the system takes ports for clients."""
    for port in range(first, 32000):
        with socket.socket() as attempt:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                attempt.bind(("", port))
                return port
            except OSError:
                continue
    raise BenchError("no port is free")


@dataclasses.dataclass
class Idle:
    """What a process costs while nothing happens."""

    rss: int
    anonymous: int
    pss: int
    threads: int
    wakeups: float
    cpu: float


def idle(pid, seconds):
    """Watches a process; wake-ups and CPU time are per second. Threads that come and go meanwhile are in the CPU time,
    but not in the wake-ups, which the kernel forgets with them."""
    switches, used, begin = wakeups(pid), cpu_time(pid), time.perf_counter()
    time.sleep(seconds)
    elapsed = time.perf_counter() - begin
    switches, used = wakeups(pid) - switches, cpu_time(pid) - used
    status, rollup = kilobytes(f"/proc/{pid}/status"), kilobytes(f"/proc/{pid}/smaps_rollup")
    threads = len(os.listdir(f"/proc/{pid}/task"))
    return Idle(status["VmRSS"], status["RssAnon"], rollup["Pss"], threads, switches / elapsed, used / elapsed)


def wakeups(pid):
    """Every return from a wait is one voluntary switch."""
    total = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/status", encoding="ascii") as lines:
            total += sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))
    return total


def below(pid):
    """All processes below one."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as listed:
            children = [int(child) for child in listed.read().split()]
    except OSError:
        return []
    return children + [grandchild for child in children for grandchild in below(child)]


def inside(directory):
    """All processes that work in a directory, or below it."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if pathlib.Path(os.readlink(f"/proc/{pid}/cwd")).is_relative_to(directory):
                found.append(int(pid))
    return found


def has_inotify(pid):
    """Whether a process watches anything."""
    for descriptor in os.listdir(f"/proc/{pid}/fdinfo"):
        # It may close one meanwhile.
        with contextlib.suppress(OSError), open(f"/proc/{pid}/fdinfo/{descriptor}", encoding="ascii") as info:
            if "inotify wd" in info.read():
                return True
    return False


@dataclasses.dataclass
class Memory:
    """What processes hold together. Of what several share, each has a part in `pss`; in `rss` it counts each time."""

    rss: int = 0
    pss: int = 0


def memory(*pids):
    total = Memory()
    for pid in pids:
        try:
            sizes = kilobytes(f"/proc/{pid}/smaps_rollup")
        except OSError:
            continue
        total.rss += sizes.get("Rss", 0)
        total.pss += sizes.get("Pss", 0)
    return total


def peak_of_tree(argv, env, log):
    """The most that a program and everything below it hold together at any moment of its run; its code as well."""
    with open(log, "ab") as output:
        process = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    most = Memory()
    while process.poll() is None:
        held = memory(process.pid, *below(process.pid))
        most = Memory(max(most.rss, held.rss), max(most.pss, held.pss))
        time.sleep(POLL)
    if process.returncode:
        raise BenchError(f"{' '.join(argv)} ended with {process.returncode}; see {log}")
    return most


def all_switches(pid, seconds):
    """Begins to count the context switches of all threads, those of short life too, with `perf` where it is installed
    and allowed. Gives a function that waits for the number per second, or for None."""
    if not (perf := shutil.which("perf")):
        return lambda: None
    command = [perf, "stat", "-x,", "-e", "context-switches", "-p", str(pid), "--", "sleep", str(seconds)]
    counter = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def per_second():
        count = counter.communicate()[1].split(b",", 1)[0].strip()
        return int(count) / seconds if count.isdigit() else None

    return per_second


def cpu_time(pid):
    """CPU time of a process, in seconds: its clock, by the encoding of clock_getcpuclockid(3)."""
    return time.clock_gettime(~pid << 3 | 2)


def kilobytes(path):
    """The fields of a file of /proc that are sizes, in bytes."""
    with open(path, encoding="utf-8", errors="replace") as lines:
        fields = [line.split() for line in lines]
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in fields if len(words) == 3 and words[2] == "kB"}
