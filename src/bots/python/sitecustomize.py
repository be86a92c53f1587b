"""Has each start of Bots's engine lead to bots-ctl, which runs it under its lease.

Python imports this when it starts, since this directory comes first on PYTHONPATH. Bots's engine begins with a look for another one on
its machine: at that point bots-ctl takes its place, with the same arguments. An engine that bots-ctl itself starts has a variable
that says so: it goes on, and its row in the table mutex says that it holds the lease. When one of its channels lists a directory, bots-ctl
says which of the files are complete; the others stay for the next run. Every program of Bots gets the values of bots.ini that variables
replace. And the client of the job queue of Bots 3 gets the sentences that it lacks for a refused job.
"""

import errno
import os
import select
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ENGINE = "bots.engine"
PROGRAM = "bots-engine"
CLIENT = "bots.job2queue"
# Of the paths in one request to bots-ctl: a slow share answers for so many in time.
REQUEST_BYTES = 8 * 1024
# bots-ctl itself gives up a file system that does not answer after 5 s.
ANSWER_TIMEOUT = 60
ANSWERS = {
    2: "Error, no job is named.",
    3: "Error, this job is not allowed: it is not bots-engine of this environment, nor in authorized_tasks of bots.ini.",
}


def directory():
    try:
        return os.getcwd()
    except OSError:
        return None


def run_under_the_lease(start):
    words = [os.path.join(HERE, PROGRAM)] + sys.argv[1:]
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    name = spec.name if spec else os.path.basename(getattr(main, "__file__", ""))
    try:
        if start is not None:
            # Bots has changed it: a configuration directory may be named from here.
            os.chdir(start)
        if name in (ENGINE, PROGRAM, PROGRAM + ".py"):
            os.execv(words[0], words)
        # A script that goes on after the engine.
        import subprocess

        code = subprocess.call(words)
    except OSError as error:
        # Bots would take it for another engine that runs, and say nothing.
        sys.exit("bots-ctl: cannot run the engine under its lease by %s: %s" % (words[0], error.strerror))
    sys.exit(code)


def redirect_engine(botslib, start):
    look = botslib.check_if_other_engine_is_running

    def checked():
        # The web UI looks as well.
        asking = sys._getframe(1).f_globals.get("__spec__")
        if asking is not None and asking.name == ENGINE:
            run_under_the_lease(start)
        return look()

    botslib.check_if_other_engine_is_running = checked


def mark_the_row(botslib):
    """The row is written by one statement, so there is no moment in which an engine of bots-ctl has one without the mark."""
    take_lock, change = botslib.set_database_lock, botslib.changeq

    def marked(query, *values):
        return change(query.replace("(mutexk) VALUES (1)", "(mutexk, mutexer) VALUES (1, 1)"), *values)

    def take_marked_lock():
        botslib.changeq = marked
        try:
            return take_lock()
        finally:
            botslib.changeq = change

    botslib.set_database_lock = take_marked_lock


class Matches:
    """Stands for the module glob while a channel lists its directory: files that are not complete do not match."""

    def __init__(self, glob, pipes):
        self.glob, self.pipes = glob, pipes

    def iglob(self, pattern):
        paths = list(self.glob.iglob(pattern))
        return self.complete(pattern, paths) if paths else paths

    def complete(self, pattern, paths):
        complete, done = [], 0
        try:
            for part in parts(paths):
                complete += [path for path, is_taken in zip(part, self.ask(pattern, part)) if is_taken]
                done += len(part)
        except (EOFError, BrokenPipeError):
            # bots-ctl cannot judge them, and has said why.
            self.pipes = None
        except (OSError, ValueError) as error:
            self.pipes = None
            warn_unchecked(error)
        return complete + paths[done:]

    def ask(self, pattern, paths):
        if self.pipes is None:
            raise EOFError
        responses, requests = self.pipes
        request = b"".join(os.fsencode(path) + b"\0" for path in [pattern] + paths)
        # Shorter than what a pipe holds, and the pipe is empty.
        os.write(requests, len(request).to_bytes(4, "big") + request)
        answer = b""
        while len(answer) < len(paths):
            if not is_readable(responses):
                raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
            received = os.read(responses, len(paths) - len(answer))
            if not received:
                raise EOFError
            answer += received
        return answer


def is_readable(descriptor):
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return poll.poll(ANSWER_TIMEOUT * 1000)


def warn_unchecked(error):
    print("bots-ctl: cannot determine which files are complete: %s; the run processes all of them" % error, file=sys.stderr)


def parts(paths):
    part, size = [], 0
    for path in paths:
        part.append(path)
        size += len(os.fsencode(path)) + 1
        if size >= REQUEST_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def judge_files(communication, pipes):
    """Channels that fetch files by other means than a directory are as they were."""
    try:
        # What the engine starts has nothing to ask.
        for descriptor in pipes:
            os.set_inheritable(descriptor, False)
    except OSError as error:
        return warn_unchecked(error)
    glob, incommunicate = communication.glob, communication.file.incommunicate
    matches = Matches(glob, pipes)

    def judged(*args, **named):
        communication.glob = matches
        try:
            return incommunicate(*args, **named)
        finally:
            communication.glob = glob

    communication.file.incommunicate = judged


def apply_variables(botsinit):
    """They take the place of values of bots.ini, which pods with other variables may share."""
    start = botsinit.generalinit

    def generalinit(*args, **named):
        result = start(*args, **named)
        ini = sys.modules["bots.botsglobal"].ini
        port = os.environ.get("PORT")
        is_remote = os.environ.get("BOTS_CTL_JOBQUEUE_URL")
        for section, key, value in (("webserver", "port", port), ("jobqueue", "enabled", is_remote and "True")):
            if value:
                if not ini.has_section(section):
                    ini.add_section(section)
                ini.set(section, key, value)
        return result

    botsinit.generalinit = generalinit


def complete_the_answers(job2queue):
    for code, text in ANSWERS.items():
        job2queue.JOBQUEUEMESSAGE2TXT.setdefault(code, text)


class Finder:
    """Finds the modules of Bots in which something is changed once they are there."""

    def __init__(self):
        start = directory()
        self.changes = {
            "bots.botslib": lambda module: redirect_engine(module, start),
            "bots.botsinit": apply_variables,
            CLIENT: complete_the_answers,
        }

    def begin_run(self):
        """Whatever the engine starts does not hold the lease, so the variables are for this process alone."""
        holds_lease, pipes = (os.environ.pop(name, None) for name in ("BOTS_CTL_HOLDS_LEASE", "BOTS_CTL_FILES_PIPES"))
        if holds_lease:
            self.changes["bots.botslib"] = mark_the_row
        if holds_lease and pipes:
            self.change("bots.communication", lambda module: judge_files(module, [int(pipe) for pipe in pipes.split(",")]))

    def change(self, name, change):
        """Changes a module, which an engine that bots-ctl has forked may have already."""
        self.changes[name] = change
        if name in sys.modules:
            change(sys.modules[name])

    def find_spec(self, name, path=None, target=None):
        change = self.changes.get(name)
        if change is None:
            return None
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            loader = spec.loader
            execute, get_code = loader.exec_module, loader.get_code

            def exec_module(module):
                loader.get_code = get_code
                execute(module)
                change(module)

            loader.exec_module = exec_module
            if name == CLIENT:
                # `python -m` executes this under another name, by which nothing would be changed.
                loader.get_code = lambda name: compile("from %s import start\nstart()" % name, spec.origin, "exec")
        return spec


def pass_on():
    """Runs the module of this name that Python would have found without this one."""
    from importlib.machinery import PathFinder

    others = [place for place in sys.path if os.path.abspath(place) != HERE]
    spec = PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        module = type(sys)("sitecustomize")
        module.__spec__, module.__file__, module.__loader__ = spec, spec.origin, spec.loader
        spec.loader.exec_module(module)


def use_own_distutils():
    """setuptools has put its copy of distutils in the place of Python's, and Django 2 imports it for a comparison of versions: half of
    what the engine's imports take. From Python 3.12 on there is no other."""
    shim = sys.modules.get("_distutils_hack")
    if shim is not None and sys.version_info < (3, 12) and "SETUPTOOLS_USE_DISTUTILS" not in os.environ:
        getattr(shim, "remove_shim", int)()


finder = Finder()
# Older ones cannot run a Bots that bots-ctl knows.
if sys.version_info >= (3, 4):
    finder.begin_run()
    use_own_distutils()
    sys.meta_path.insert(0, finder)
    pass_on()
