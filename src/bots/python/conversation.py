"""The Python side of a session: replies with the settings, then executes requests until its input ends.

Run as `python -c <the scripts, this one last> CONFIG_DIR [settings|check]`. Requests come as a line of JSON on standard
input, so that no password is ever an argument. Standard output has only the replies, a line of JSON each; what Django and
the settings print goes to standard error.
"""

import json
import os
import sys
import time
import traceback

replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)


def reply(result):
    json.dump(result, replies)
    replies.write("\n")
    replies.flush()


def settings_alone(config_dir, _):
    """For a check that has found faults in bots.ini, which Bots would stumble over before it sees the settings."""
    import importlib

    importlib.import_module(os.path.basename(config_dir) + ".settings")
    return {}


def work(request):
    if "plugin" in request:
        return plugin(request)
    steps = []
    done = {"steps": steps}

    def step(name, task, *arguments):
        begin = time.monotonic()
        result = task(*arguments)
        steps.append({"step": name, "seconds": round(time.monotonic() - begin, 3)})
        return result

    user = request["user"]
    password = Hash(user["password"]) if user else None
    if request["migrate"]:
        step("migrate", migrate, request["finish"])
    if user:
        done["user"] = step("superuser", superuser if user["update"] else first_user, user, password)
    return done


def attempt(task, *arguments):
    try:
        return task(*arguments)
    except (Exception, SystemExit) as error:
        found = fault(error, sys.argv[1], is_setting=task is not work)
        if task is work:
            found["is_unavailable"] = is_unavailable(error)
        return {"fault": found}


found = attempt(settings_alone if sys.argv[2:] == ["settings"] else facts, sys.argv[1], *sys.argv[2:])
reply(found)
if "fault" not in found:
    for line in sys.stdin:
        reply(attempt(work, json.loads(line)))
sys.stderr.flush()
# Without the interpreter's clean-up, which takes as long as everything Django loaded.
os._exit(0)
