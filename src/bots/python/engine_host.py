"""Starts runs of Bots's engine without a new import of the same modules: each run is a fork of this process.

Run as `python engine_host.py DIRECTORY`, which has the programs of Bots.

This process imports modules and nothing else: it reads no settings, and opens no database, socket, log or thread. A line of JSON on
standard input names two pipes of bots-ctl; the reply, a line on standard output, is the number of a new process. If the process is
forked in advance and modules are still to be imported, the number is 0. The new process reads from the first pipe what bots-ctl would
execute for a run, and executes it, so it becomes the `bots-ctl engine` of the run. It has one child, forked before, which waits in the same
way for the program of Bots that `bots-ctl engine` starts under its lease, and runs it with the modules that are there. So each process has
the parent that it would have if bots-ctl had started it.

A process that waits ends when the other side closes its pipe. Until it has replied that it is ready, and has read the confirmation, nothing
has begun, and bots-ctl may start the program itself.
"""

import atexit
import os
import sys

# Python calls registered functions in reverse order: the first one runs last. None is registered before this module is executed, unless a
# .pth file has done so.
IS_FIRST_AT_EXIT = not atexit._ncallbacks()
atexit.register(lambda: leave())

# Before the first import of Django, whose modules would read the settings: without the variable they say that there are none.
START = dict(entry.split(b"=", 1) for entry in open("/proc/self/environ", "rb").read().split(b"\0") if b"=" in entry)
# Python itself adds a variable in some locales.
ADDED = {name: value for name, value in os.environb.items() if name not in START and not name.startswith(b"BOTS_CTL_")}
os.environ.pop("DJANGO_SETTINGS_MODULE", None)

import contextlib
import ctypes
import fcntl
import gc
import importlib
import io
import json
import platform
import select
import signal
import time
from importlib.machinery import PathFinder, SourceFileLoader

import sitecustomize

ENGINE = "bots.engine"
PROGRAM = os.path.join(sys.argv[1], "bots-engine")
# Directories of an environment and, in old installations, of Bots itself: their modules change between two runs.
OWN = {"config", "usersys", "botssys", START.get(b"DJANGO_SETTINGS_MODULE", b"").decode().split(".")[0]}
# They change from process to process, and no module that is imported here reads them.
VOLATILE = (b"_", b"SHLVL", b"PWD", b"OLDPWD")
PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15
# Since Linux 5.14.
MADV_POPULATE_WRITE = 23
COPIED_AT_ONCE = 1 << 20
LIBC = ctypes.CDLL(None)
# Of the module io, text first: closing it writes to the others.
WRITERS = (io.TextIOWrapper, io.BufferedRWPair, io.BufferedRandom, io.BufferedWriter)
# Names of modules in one write.
NAMES = 40
# The name of a process until it knows what it runs.
WAITING = b"engine-waiting"
GET_CODE = SourceFileLoader.get_code


class NotUsable(Exception):
    """The waiting process differs from a freshly started one."""


def read_line(descriptor):
    """Without its end; nothing when the other side is gone."""
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(descriptor, 65536)
        if not part:
            return None
        line += part
    return line[:-1]


def write_line(descriptor, **values):
    os.write(descriptor, json.dumps(values).encode() + b"\n")


def is_readable(descriptor):
    return bool(select.select([descriptor], [], [], 0)[0])


def silence(*descriptors):
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in descriptors:
        os.dup2(null, descriptor)
    os.close(null)


class Imports:
    """The modules that a run imports, and that can be imported without settings. They are imported one after the other while there is no
    request: a run must not wait for the imports of others."""

    def __init__(self):
        self.tried = set()
        self.files = {}
        self.codes = {}
        self.waiting = []
        # Modules that cannot be imported without settings.
        self.failed = []
        self.attempt = Attempt([ENGINE])
        self.reports, self.writer = os.pipe()
        os.set_blocking(self.writer, False)

    def sources(self):
        return [self.attempt.pipe] if self.attempt else [self.reports]

    def are_complete(self):
        """Whether no run has reported a module that this process has still to import."""
        return not self.attempt and not self.waiting and not is_readable(self.reports)

    def read(self):
        """Reads the result of an attempt, or the report of a run."""
        if self.attempt is None:
            lines = os.read(self.reports, 65536).splitlines()
            return self.try_out([name for line in lines for name in json.loads(line)])
        names = self.attempt.names
        failed, found = self.attempt.result()
        self.attempt = None
        if names == [ENGINE]:
            self.try_out(found)
        elif failed:
            self.failed += failed
            self.attempt = Attempt([name for name in names if name not in failed])
        else:
            self.waiting = names + self.failed

    def try_out(self, names):
        names = [name for name in names if name not in self.tried]
        self.tried.update(names)
        if names:
            self.attempt = Attempt(names)

    def load_code(self, name):
        """Of a module that needs settings, for example: a run executes it, but need not read it."""
        path = getattr(sys.modules.get(name.rpartition(".")[0]), "__path__", None)
        spec = path and PathFinder.find_spec(name, path)
        if spec and type(spec.loader) is SourceFileLoader:
            with contextlib.suppress(Exception):
                self.codes[spec.origin] = (modified(spec.origin), GET_CODE(spec.loader, name))

    def get_code(self, loader, name):
        before, code = self.codes.get(loader.path, (None, None))
        is_current = code and modified(loader.path) == before
        return code if is_current else GET_CODE(loader, name)

    def import_one(self):
        name = self.waiting.pop(0)
        if name in self.failed:
            self.failed.remove(name)
            self.load_code(name)
        else:
            importlib.import_module(name)
        if self.waiting:
            return
        for name, module in list(sys.modules.items()):
            path = getattr(module, "__file__", None)
            if path and name not in self.files:
                self.files[name] = (path, modified(path))
        if hasattr(gc, "freeze"):
            gc.collect()
            gc.freeze()

    def changed(self):
        """The file of a module that is no longer the one that was imported."""
        return next((path for path, before in self.files.values() if modified(path) != before), None)

    def report(self):
        """At the end of a run: a later one need not import these. Runs may report at once, so each write is one that stays together; what does not
        fit into the pipe is reported by a later run."""
        new = library_modules(self.tried)
        try:
            for begin in range(0, len(new), NAMES):
                line = json.dumps(new[begin : begin + NAMES]).encode() + b"\n"
                if len(line) <= select.PIPE_BUF:
                    os.write(self.writer, line)
        except OSError:
            pass

    def close(self):
        """In the process of a run."""
        for descriptor in {self.reports, *self.sources()}:
            os.close(descriptor)


class Attempt:
    """Imports modules in a fork, since one that fails may have done half of its work."""

    def __init__(self, names):
        self.names = names
        self.pipe, theirs = os.pipe()
        self.child = os.fork()
        if self.child == 0:
            silence(0, 1)
            failed = [name for name in names if not is_importable(name)]
            if has_side_effects():
                failed = names
            with os.fdopen(theirs, "w") as pipe:
                json.dump([failed, library_modules()], pipe)
            os._exit(0)
        os.close(theirs)

    def result(self):
        """The modules that failed, and all that are there."""
        with os.fdopen(self.pipe) as pipe:
            found = pipe.read()
        os.waitpid(self.child, 0)
        return json.loads(found) if found else (self.names, [])


def is_importable(name):
    try:
        importlib.import_module(name)
    except BaseException:
        return False
    return True


def modified(path):
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino)


def library_modules(known=()):
    """In the order of their import, without those of the environment. The engine itself is executed by each run."""
    environment = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
    prefix = os.path.abspath(sys.prefix) + os.sep

    def is_library(name, module):
        spec = getattr(module, "__spec__", None)
        if spec is None or spec.name != name or name == ENGINE or OWN & set(name.split(".")):
            return False
        path = os.path.abspath(spec.origin or "")
        return path.startswith(prefix) or not path.startswith(environment)

    return [name for name, module in list(sys.modules.items()) if name not in known and is_library(name, module)]


def has_side_effects():
    """Whether an import has started a thread or opened a socket: a fork would share it."""
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            if os.readlink("/proc/self/fd/" + descriptor).startswith("socket:"):
                return True
        except OSError:
            pass
    return len(os.listdir("/proc/self/task")) > 1


class Waiting:
    """This process, while it waits for what it is to run."""

    def __init__(self, requests, replies):
        self.requests, self.replies = requests, replies

    def receive(self):
        """What to run, once the other side has confirmed it; all of it is set up then."""
        line = read_line(self.requests)
        if line is None:
            os._exit(0)
        start = json.loads(line.decode())
        try:
            self.set_up(start)
        except (OSError, NotUsable) as error:
            write_line(self.replies, error=str(error))
            os._exit(1)
        write_line(self.replies, ready=True)
        if read_line(self.requests) is None:
            os._exit(0)
        os.close(self.requests)
        os.close(self.replies)
        return start

    def set_up(self, start):
        start["environment"] = {encode(name): encode(value) for name, value in start["environment"].items()}
        start["argv"] = [encode(word) for word in start["argv"]]
        self.check(start)
        os.setpgid(0, 0)
        # The kernel kills this process when its parent dies.
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != start["parent"]:
            raise NotUsable("its parent has ended")
        if start["directory"] is not None:
            os.chdir(encode(start["directory"]))
        self.take_descriptors({int(number): opened for number, opened in start["descriptors"].items()})

    def check(self, start):
        pass

    def take_descriptors(self, wanted):
        above = max(wanted) + 1
        self.requests, self.replies = (move(number, above) for number in (self.requests, self.replies))
        opened = {number: move(os.open(path, flags), above) for number, (path, flags) in wanted.items()}
        for number, descriptor in opened.items():
            os.dup2(descriptor, number)
            os.close(descriptor)


def encode(text):
    """Bytes travel as the characters of their numbers."""
    return text.encode("latin-1")


def move(descriptor, above):
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, above)
    os.close(descriptor)
    return moved


class Program(Waiting):
    """Executes a program, with a fork of the modules as its child."""

    def run(self, imports):
        name_process(WAITING)
        # What the child waits for comes from the program that this process executes.
        requests, ours = os.pipe()
        replies, theirs = os.pipe()
        begun, self.begin = os.pipe()
        child = os.fork()
        if child == 0:
            for descriptor in (ours, replies, self.begin, self.requests, self.replies):
                os.close(descriptor)
            return Engine(requests, theirs).run(imports, begun)
        for descriptor in (requests, theirs, begun):
            os.close(descriptor)
        self.imports = imports
        start = self.receive()
        program, environment = start["argv"][0], start["environment"]
        environment[b"_BOTS_CTL_FORKED"] = ("%d,%d,%d" % (child, ours, replies)).encode()
        for descriptor in (ours, replies):
            os.set_inheritable(descriptor, True)
        for number in range(1, signal.NSIG):
            if signal.getsignal(number) == signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        try:
            os.execvpe(program, start["argv"], environment)
        except OSError as error:
            print("cannot run %s: %s" % (program.decode(errors="replace"), error.strerror), file=sys.stderr)
        os._exit(127)

    def check(self, start):
        # The child begins to copy its memory.
        os.close(self.begin)
        changed = self.imports.changed()
        if changed:
            raise NotUsable("%s has changed" % changed)


class Engine(Waiting):
    """Runs a Python program in this very process, as Python would after its start."""

    def check(self, start):
        environment = {name: value for name, value in start["environment"].items() if name not in VOLATILE}
        others = {name for name, _ in environment.items() ^ {k: v for k, v in START.items() if k not in VOLATILE}.items()}
        others = sorted(name for name in others if not name.startswith(b"BOTS_CTL_"))
        if others:
            raise NotUsable("the run has another value of %s" % b", ".join(others).decode(errors="replace"))
        if os.fsdecode(start["argv"][0]) != PROGRAM:
            raise NotUsable("the run is of %s" % os.fsdecode(start["argv"][0]))

    def run(self, imports, begun):
        silence(0, 1, 2)
        imports.close()
        read_line(begun)
        os.close(begun)
        copy_memory(until=self.requests)
        start = self.receive()
        os.environb.clear()
        os.environb.update(start["environment"])
        os.environb.update(ADDED)
        time.tzset()
        if "random" in sys.modules:
            sys.modules["random"].seed()
        importlib.invalidate_caches()
        sitecustomize.finder.begin_run()
        SourceFileLoader.get_code = lambda loader, name: imports.get_code(loader, name)
        atexit.register(imports.report)
        argv = [os.fsdecode(word) for word in start["argv"]]
        name_process(os.path.basename(start["argv"][0]))
        if not getattr(sys.flags, "safe_path", False):
            sys.path[0] = os.path.dirname(os.path.realpath(argv[0]))
        sys.argv = argv
        execute(argv[0])


def copy_memory(until):
    """A run writes to most of the pages that it shares with the host, since Python counts references in them. They are copied while this process
    waits, which is before there is something to read."""
    for begin, end in writable_memory():
        for address in range(begin, end, COPIED_AT_ONCE):
            length = min(COPIED_AT_ONCE, end - address)
            if is_readable(until) or LIBC.madvise(ctypes.c_void_p(address), ctypes.c_size_t(length), MADV_POPULATE_WRITE):
                return


def writable_memory():
    with open("/proc/self/maps") as maps:
        for line in maps:
            addresses, access, _, _, _, *path = line.split()
            if access.startswith("rw") and path in ([], ["[heap]"]):
                yield [int(address, 16) for address in addresses.split("-")]


def name_process(name):
    LIBC.prctl(PR_SET_NAME, name[:15], 0, 0, 0)


def execute(program):
    main = type(sys)("__main__")
    main.__file__, main.__builtins__ = program, __builtins__
    sys.modules["__main__"] = main
    with open(program, "rb") as script:
        code = compile(script.read(), program, "exec")
    try:
        exec(code, main.__dict__)
    except SystemExit as error:
        End.exit_status = status_of(error.code)
        raise
    except Exception as error:
        # Without the frames of this file.
        sys.excepthook(type(error), error, error.__traceback__.tb_next)
        End.exit_status = 1
        sys.exit(1)
    End.exit_status = 0


class End:
    """Exit status of a run, for `leave`."""

    exit_status = None


def status_of(code):
    """As Python does it; nothing for a number that only C can convert."""
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF if abs(code) < 1 << 31 else None
    return 1


def has_finalizer(kind):
    """Those of C free what the process loses anyway, other than the buffers of files."""
    is_other_file = issubclass(kind, io.IOBase) and kind.__module__ != "_io"
    return is_other_file or isinstance(getattr(kind, "__del__", None), type(has_finalizer))


def leave():
    """Python would now free each object, and so copy most of the pages that this process shares with the host: a fifth of the CPU time of a
    run. Only what others can see is done: files are closed. Python itself ends a process that has objects with another finalizer."""
    if End.exit_status is None or not IS_FIRST_AT_EXIT:
        return
    objects = gc.get_objects()
    types = {type(one) for one in objects}
    if any(map(has_finalizer, types)):
        return
    for writer in WRITERS:
        for file in [one for one in objects if type(one) is writer] if writer in types else ():
            with contextlib.suppress(Exception):
                file.close()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except Exception:
        # Python reports it.
        return
    LIBC.fflush(None)
    os._exit(End.exit_status)


def fork_program(request, imports):
    """The new process has bots-ctl as its parent, since the one between has ended. Returns its number; returns None in the forked
    process."""
    ours, theirs = os.pipe()
    between = os.fork()
    if between == 0:
        silence(0, 1)
        # Before the reply, after which bots-ctl closes its copies.
        descriptors = os.open(request["requests"], os.O_RDONLY), os.open(request["replies"], os.O_WRONLY)
        child = os.fork()
        if child:
            os.write(theirs, b"%d" % child)
            os._exit(0)
        os.close(ours)
        os.close(theirs)
        return Program(*descriptors).run(imports)
    os.close(theirs)
    number = int(os.read(ours, 32) or 0)
    os.close(ours)
    os.waitpid(between, 0)
    return number


def check_ourselves():
    """A process that a run begins in must be what a start of the program would make."""
    if os.readlink("/proc/self") != str(os.getpid()):
        sys.exit("/proc is that of another PID namespace")
    with open(PROGRAM, "rb") as script:
        interpreter = os.fsdecode(script.readline()[2:].strip())
    is_same_directory = os.path.dirname(interpreter) == os.path.dirname(sys.executable)
    if not is_same_directory or os.path.realpath(interpreter) != os.path.realpath(sys.executable):
        sys.exit("%s runs with %s, and not with %s" % (PROGRAM, interpreter, sys.executable))


def serve():
    check_ourselves()
    # Bots prints it in each run. Python determines it once in a process, by another program.
    platform.platform()
    imports = Imports()
    is_ready = False
    while True:
        if imports.are_complete() and not is_ready:
            write_line(1, ready=True)
            is_ready = True
        ready, _, _ = select.select([0] + imports.sources(), [], [], 0 if imports.waiting else None)
        if 0 in ready:
            line = read_line(0)
            if line is None:
                os._exit(0)
            if answer(json.loads(line), imports) is None:
                # This process is the run, which has come to its end.
                return
        elif ready:
            imports.read()
        elif imports.waiting:
            imports.import_one()


def answer(request, imports):
    """Returns the number of the new process; returns None in the forked process. A process in advance of its run must have all modules: a
    run that waits for none is faster."""
    can_fork = imports.are_complete() or not request["in_advance"]
    number = fork_program(request, imports) if can_fork else 0
    if number is not None:
        write_line(1, pid=number)
    return number


serve()
