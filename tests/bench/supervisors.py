"""Programs that look after one program of ours: how each is told to."""

import shlex
import shutil
import signal


class Supervising:
    """Runs a program that it is told of by files; told to end, it ends the program and then itself."""

    stop_signal = signal.SIGTERM

    def script(self, directory, argv, name="program"):
        """The program as a script without arguments."""
        script = directory / name
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text("#!/bin/sh\nexec " + " ".join(shlex.quote(word) for word in argv) + "\n")
        script.chmod(0o755)
        return script


class S6(Supervising):
    """s6-svscan, which looks after one s6-supervise, which looks after the program."""

    name, program = "s6", "s6-svscan"

    def command(self, argv, directory):
        self.script(directory, argv, "scan/program/run")
        # Once: a program that has ended is not started again.
        self.script(directory, ["sh", "-c", "exit 125"], "scan/program/finish")
        return [self.program, str(directory / "scan")]


class Runit(Supervising):
    """runsvdir, which looks after one runsv, which looks after the program."""

    name, program = "runit", "runsvdir"
    # SIGTERM would leave the program behind.
    stop_signal = signal.SIGHUP

    def command(self, argv, directory):
        self.script(directory, argv, "services/program/run")
        self.script(directory, ["sv", "once", str(directory / "services/program")], "services/program/finish")
        return [self.program, str(directory / "services")]


class Supervisor(Supervising):
    """supervisord with one program."""

    name, program = "supervisor", "supervisord"

    def command(self, argv, directory):
        config = directory / "supervisord.conf"
        config.write_text(
            f"[supervisord]\nnodaemon=true\nlogfile=/dev/null\nlogfile_maxbytes=0\npidfile={directory}/pid\n"
            f"user=root\n[program:program]\ncommand={self.script(directory, argv)}\nautorestart=false\nstartsecs=0\n"
        )
        return [self.program, "-c", str(config)]


def installed():
    return [kind() for kind in (S6, Runit, Supervisor) if shutil.which(kind.program)]
