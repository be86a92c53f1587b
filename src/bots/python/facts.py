"""Prints what Bots and Django are configured with, as one JSON object.

Run as `python -c <this> CONFIG_DIR` by bots-ctl. Bots's own start-up code is used, so that the answer is the one
the services get. Whatever settings.py prints goes to standard error and cannot mix with the answer.
"""

import json
import os
import sys
import traceback

answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)
opened = set()


def note(event, arguments):
    """Remembers what is opened while the settings are made: they may depend on it."""
    if event == "open" and isinstance(arguments[0], str):
        opened.add(os.path.abspath(arguments[0]))


def facts(config_dir):
    from bots import botsglobal, botsinit

    sys.addaudithook(note)
    botsinit.generalinit(config_dir)
    import django
    from django.apps import apps
    from django.conf import settings

    ini = botsglobal.ini
    models = apps.get_models(include_auto_created=True)
    return {
        "bots_version": str(botsglobal.version),
        "django_version": django.get_version(),
        "database": database(settings.DATABASES["default"]),
        "directories": {
            "config": ini.get("directories", "config"),
            "botssys": ini.get("directories", "botssys"),
            "usersys": os.path.abspath(ini.get("directories", "usersysabs")),
        },
        "static_url": settings.STATIC_URL,
        # Newer Djangos only notice that it is missing when the first request comes in.
        "has_secret_key": bool(settings.SECRET_KEY),
        "web_port": ini.getint("webserver", "port", 8080),
        "web_https": bool(ini.get("webserver", "ssl_certificate", None) and ini.get("webserver", "ssl_private_key", None)),
        "tables": sorted({model._meta.db_table for model in models if model._meta.managed and not model._meta.proxy}),
        "migrations": {app.label: migrations(app) for app in apps.get_app_configs()},
        "sources": sources(ini.get("directories", "botssys")),
    }


def database(settings):
    name = str(settings["NAME"])
    if settings["ENGINE"].endswith("sqlite3"):
        # Services run in this same directory.
        name = os.path.abspath(name)
    return {
        "engine": settings["ENGINE"],
        "name": name,
        "user": settings.get("USER") or "",
        "host": settings.get("HOST") or "",
        "port": str(settings.get("PORT") or ""),
        "has_password": bool(settings.get("PASSWORD")),
    }


def migrations(app):
    folder = os.path.join(app.path, "migrations")
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return sorted(name[:-3] for name in names if name.endswith(".py") and name[0] not in "_~")


def sources(botssys):
    """Files that were imported or read from outside the installed Python: the settings may depend on them."""
    places = (sys.prefix, sys.base_prefix, os.path.dirname(os.__file__), botssys, "/dev", "/proc", "/sys")
    inside = tuple({os.path.realpath(path) + os.sep for path in places})
    files = {getattr(module, "__file__", None) for module in list(sys.modules.values())} | opened
    files = {path for path in files if path and "__pycache__" not in path and os.path.isfile(path)}
    return sorted(path for path in files if not os.path.realpath(path).startswith(inside))


def fault(error, config_dir):
    """Where it went wrong, as the user would look for it: in their own files if any of them took part."""
    if isinstance(error, SyntaxError) and error.filename:
        place = (error.filename, error.lineno or 0)
    else:
        frames = [(f.filename, f.lineno) for f in traceback.extract_tb(error.__traceback__)]
        own = [frame for frame in frames if frame[0].startswith(os.path.dirname(config_dir))]
        place = (own or frames or [("", 0)])[-1]
    text = " ".join(traceback.format_exception_only(type(error), error)[-1].split())
    return {"text": text, "file": place[0], "line": place[1], "traceback": "".join(
        traceback.format_exception(type(error), error, error.__traceback__))}


def settings_alone(config_dir):
    """For a check that has found faults in bots.ini, which Bots would stumble over before it sees the settings."""
    import importlib

    importlib.import_module(os.path.basename(config_dir) + ".settings")
    return {}


def main(config_dir, question):
    try:
        found = question(config_dir)
    except (Exception, SystemExit) as error:
        found = {"fault": fault(error, config_dir)}
    json.dump(found, answer)
    answer.close()
    # Without the interpreter's clean-up, which takes as long as everything Django loaded.
    os._exit(0)


main(sys.argv[1], settings_alone if sys.argv[2:] == ["settings"] else facts)
