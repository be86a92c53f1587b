"""Has each start of Bots's engine lead to bots-ctl, which runs it under its lease.

Python imports this when it starts, since this directory comes first on PYTHONPATH. Bots's engine begins with a look for another one on
its machine: at that point bots-ctl takes its place, with the same arguments. An engine that bots-ctl itself starts has a variable
that says so: it goes on, and its row in the table mutex says that it holds the lease. And the client of the job queue of Bots 3 gets the sentences that it lacks for a refused job.
"""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ENGINE = "bots.engine"
PROGRAM = "bots-engine"
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


def wrap_the_look(botslib, start):
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


def complete_the_answers(job2queue):
    for code, text in ANSWERS.items():
        job2queue.JOBQUEUEMESSAGE2TXT.setdefault(code, text)


class Finder:
    """Finds the modules of Bots in which something is changed once they are there."""

    def __init__(self, holds_lease):
        start = directory()
        self.changes = {
            "bots.botslib": mark_the_row if holds_lease else lambda module: wrap_the_look(module, start),
            "bots.job2queue": complete_the_answers,
        }

    def find_spec(self, name, path=None, target=None):
        change = self.changes.get(name)
        if change is None:
            return None
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module):
                execute(module)
                change(module)

            spec.loader.exec_module = exec_module
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


# Older ones cannot run a Bots that bots-ctl knows.
if sys.version_info >= (3, 4):
    sys.meta_path.insert(0, Finder("BOTS_CTL_HOLDS_LEASE" in os.environ))
    # Whatever the engine starts does not hold it.
    os.environ.pop("BOTS_CTL_HOLDS_LEASE", None)
    pass_on()
