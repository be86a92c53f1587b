"""What Bots and Django are configured with. Bots's own start-up code is used, so that it is what the services get."""

import os
import re
import sys
import traceback

# What is opened while the settings are made: they may depend on it. None once they are.
opened = set()


def record_open(event, arguments):
    if opened is not None and event == "open" and isinstance(arguments[0], str):
        opened.add(os.path.abspath(arguments[0]))


def facts(config_dir, is_check=False):
    global opened
    unknown = list(check_charsets(config_dir)) if is_check else []
    if unknown:
        return {"faults": unknown}
    from bots import botsglobal, botsinit

    sys.addaudithook(record_open)
    botsinit.generalinit(config_dir)
    import django
    from django.apps import apps
    from django.conf import settings

    ini = botsglobal.ini
    models = apps.get_models(include_auto_created=True)
    found = {
        "bots_version": str(botsglobal.version),
        "django_version": django.get_version(),
        "python_version": sys.version.split()[0],
        "database": database(default_database(settings.DATABASES)),
        "directories": {
            "config": ini.get("directories", "config"),
            "botssys": ini.get("directories", "botssys"),
            "usersys": os.path.abspath(ini.get("directories", "usersysabs")),
        },
        "time_zone": settings.TIME_ZONE,
        "warnings": warnings_about_key(settings.SECRET_KEY, config_dir),
        "static_url": settings.STATIC_URL,
        "login": {"host": known_host(settings.ALLOWED_HOSTS), "path": str(settings.LOGIN_URL)},
        "web_port": ini.getint("webserver", "port", 8080),
        "web_https": bool(ini.get("webserver", "ssl_certificate", None) and ini.get("webserver", "ssl_private_key", None)),
        "tables": {model._meta.db_table: table(model) for model in models if is_managed(model)},
        "migrations": {app.label: migrations(app) for app in apps.get_app_configs()},
        "faults": check_all(config_dir) if is_check else [],
    }
    found["sources"] = sources(ini.get("directories", "botssys"))
    opened = None
    return found


def known_host(allowed):
    """One that Django answers."""
    return ([host.lstrip(".") for host in allowed if host != "*"] or ["localhost"])[0]


def default_database(databases):
    if "default" not in databases:
        raise ValueError("DATABASES has no entry default")
    return databases["default"]


# Words of keys in examples and of those that Django's startproject makes.
EXAMPLES = ("secret-key", "secret_key", "insecure", "example", "changeme", "change-me", "change_me", "generatedkey", "your-")


def warnings_about_key(key, config_dir):
    """A key that can be read elsewhere, where it is and what it opens."""
    import bots

    key = str(key)
    template = lines(os.path.join(os.path.dirname(os.path.abspath(bots.__file__)), "install", "settings.py"))
    if not key or not (any(key in line for line in template) or any(word in key.lower() for word in EXAMPLES)):
        return []
    path = os.path.join(config_dir, "settings.py")
    place = next(("%s:%d" % (path, number) for number, line in enumerate(lines(path), 1) if key in line), path)
    if os.environ.get("DJANGO_SECRET_KEY") == key:
        place = "DJANGO_SECRET_KEY"
    return [place + ": this SECRET_KEY is public or an example, and with it a client can forge the session of any user: "
            "set a random one with DJANGO_SECRET_KEY or DJANGO_SECRET_KEY_FILE"]


def lines(path):
    with open(path, encoding="utf-8", errors="replace") as source:
        return source.read().splitlines()


def database(settings):
    name = str(settings["NAME"])
    if settings["ENGINE"].endswith("sqlite3"):
        # Services run in this same directory.
        name = os.path.abspath(name)
    options = plain(settings.get("OPTIONS") or {})
    # The drivers' other names for it.
    hidden = [options.pop(key, None) for key in ("password", "passwd", "sslpassword")]
    return {
        "engine": settings["ENGINE"],
        "name": name,
        "user": settings.get("USER") or "",
        "host": settings.get("HOST") or "",
        "port": str(settings.get("PORT") or ""),
        "password": str(settings.get("PASSWORD") or hidden[0] or hidden[1] or ""),
        "options": options,
    }


def plain(value):
    """What JSON can say of an option; the rest is for Django alone."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)


def is_managed(model):
    return model._meta.managed and not model._meta.proxy


def table(model):
    """Columns as name, length and whether NULL is allowed; and the keys."""
    fields = [field for field in model._meta.local_fields if field.column]
    return {
        "columns": [[field.column, getattr(field, "max_length", None), field.null] for field in fields],
        "keys": [dict(zip(("name", "columns", "unique", "operators"), key)) for key in keys(model, fields)],
    }


def keys(model, fields):
    """Every index but that of the primary key, as Django's schema editor names it; its own list wants a connection,
    and so does MySQL's for the type of a column."""
    from django.db import connection

    meta = model._meta
    editor = connection.SchemaEditorClass(connection, collect_sql=True)

    def key(columns, unique, suffix="", operators=None):
        return (editor._create_index_name(meta.db_table, columns, suffix=suffix), columns, unique, operators)

    for field in fields:
        columns = [field.column]
        if field.unique and not field.primary_key:
            yield (name_of_unique(connection.vendor, meta.db_table, field.column), columns, True, None)
        elif field.db_index and not field.primary_key and not has_index_anyway(connection.vendor, field):
            yield key(columns, False)
        # For LIKE, where the collation is not that of C.
        if connection.vendor == "postgresql" and (field.db_index or field.unique):
            kind = (field.db_type(connection) or "").partition("(")[0]
            if kind in ("varchar", "text"):
                yield key(columns, False, "_like", kind + "_pattern_ops")
    for names in meta.unique_together:
        yield key([meta.get_field(name).column for name in names], True, "_uniq")
    for index in meta.indexes:
        if index.fields:
            yield (index.name, [meta.get_field(name.lstrip("-")).column for name in index.fields], False, None)


def name_of_unique(vendor, table, column):
    """Declared with the column, so that the database gives the name; SQLite's are no names to use."""
    return {"mysql": column, "postgresql": "%s_%s_key" % (table, column)}.get(vendor, "")


def has_index_anyway(vendor, field):
    """On MySQL: that of the foreign key's constraint; and a long text has none."""
    is_foreign = field.many_to_one and field.db_constraint
    return vendor == "mysql" and (is_foreign or field.get_internal_type() in ("TextField", "BinaryField", "JSONField"))


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


def fault(error, config_dir, is_setting):
    """Where it went wrong, as the user would look for it: in their own files if any of them took part."""
    if isinstance(error, SyntaxError) and error.filename:
        place = (error.filename, error.lineno)
    else:
        frames = [(f.filename, f.lineno) for f in traceback.extract_tb(error.__traceback__)]
        root = os.path.dirname(config_dir)
        own = [frame for frame in frames if is_below(frame[0], root) and "/.bots-ctl-bin/" not in frame[0]]
        others = named_settings(error, config_dir) or frames if is_setting else []
        place = (own or others or [("", None)])[-1]
        if place[0] == "<string>":
            # Of this script, at a value that it does not expect.
            place = (os.path.join(config_dir, "settings.py"), None)
    if isinstance(error, NotProven):
        # Its text is complete without a location.
        return {"text": str(error), "file": "", "line": None, "traceback": ""}
    text = traceback.format_exception_only(type(error), error)[-1]
    text = " ".join(": ".join([text.strip()] + [str(cause) for cause in causes(error)]).split())
    return {"text": text, "file": place[0], "line": place[1], "traceback": "".join(
        traceback.format_exception(type(error), error, error.__traceback__))}


# Of MySQL: too many connections, shutdown, lock wait, deadlock, killed.
CODES_TRANSIENT = {1040, 1053, 1205, 1213, 1927}


def is_unavailable(error):
    """Whether the database is out of reach or locked, so that a repetition can succeed."""
    from django.db import InterfaceError, OperationalError, connection

    if not isinstance(error, (InterfaceError, OperationalError)):
        return False
    if connection.connection is None or not connection.is_usable():
        return True
    # The others of PostgreSQL lack a resource of the server; MySQL and SQLite also have wrong statements here.
    is_transient = bool(error.args) and error.args[0] in CODES_TRANSIENT
    return connection.vendor == "postgresql" or is_transient or "database is locked" in str(error)


def is_below(path, directory):
    return path.startswith(os.path.join(directory, ""))


def causes(error):
    while error.__cause__ is not None:
        error = error.__cause__
        yield error


def named_settings(error, config_dir):
    """The lines that assign what Django was working on, where it worked on one setting and says which."""
    path = os.path.join(config_dir, "settings.py")
    names = [name for frame in traceback.extract_tb(error.__traceback__) for name in re.findall(r"settings\.([A-Z_]+)", frame.line or "")]
    places = {line.split("=")[0].strip(): number for number, line in enumerate(lines(path), 1)}
    return [(path, places[name]) for name in names if name in places]
