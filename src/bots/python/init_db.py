"""Brings the managed tables up to date and makes the first web user, in one start of Python.

Run as `python -c <this> CONFIG_DIR` by bots-ctl, which holds the initialisation lock. The request is a JSON object
on standard input, so that no password is ever an argument. Standard output has the answer alone, a JSON object; what
Django and the settings print goes to standard error.
"""

import json
import os
import sys
import traceback

answer_to = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)


def main(config_dir):
    request = json.load(sys.stdin)
    from bots import botsinit

    botsinit.generalinit(config_dir)
    if request["migrate"]:
        migrate()
    created = bool(request["superuser"]) and create_superuser(request["superuser"])
    return {"superuser_created": created}


def migrate():
    from django.core.management import call_command

    # run_syncdb makes the tables of apps without migrations, which is all of Bots up to 3.3.1.
    call_command("migrate", interactive=False, run_syncdb=True, verbosity=1)


def create_superuser(user):
    from django.contrib.auth import get_user_model

    model = get_user_model()
    if model.objects.exists():
        return False
    model.objects.create_superuser(user["username"], user["email"], user["password"])
    return True


try:
    answer = main(sys.argv[1])
except (Exception, SystemExit) as error:
    text = traceback.format_exception_only(type(error), error)[-1].strip()
    answer = {"fault": text, "traceback": traceback.format_exc()}
json.dump(answer, answer_to)
answer_to.close()
