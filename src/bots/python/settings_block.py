def _bots_ctl(settings):
    import configparser
    import json
    import os

    import bots
    import django

    def value(name):
        """The variable, or the content of the file that NAME_FILE names."""
        path = os.environ.get(name + "_FILE")
        if os.environ.get(name) or not path:
            return os.environ.get(name) or ""
        with open(path, encoding="utf-8") as source:
            return source.read().rstrip("\r\n")

    def items(name):
        return [item.strip() for item in value(name).split(",") if item.strip()]

    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    ini = configparser.RawConfigParser()
    ini.read(os.path.join(root, os.path.basename(os.path.dirname(os.path.abspath(__file__))), "bots.ini"))
    botssys = os.path.join(root, ini.get("directories", "botssys", fallback="") or "botssys")
    settings["STATIC_ROOT"] = os.path.join(botssys, "static")

    package = os.path.dirname(os.path.abspath(bots.__file__))

    def sqlite():
        database = settings["DATABASES"]["default"]
        if value("DB_ENGINE") and not database["ENGINE"].endswith("sqlite3"):
            database = settings["DATABASES"]["default"] = {"ENGINE": "django.db.backends.sqlite3", "NAME": ""}
        if not database["ENGINE"].endswith("sqlite3"):
            return
        # What is set above stays, unless it is inside the installed Bots, where the template of 3.3.1 puts it.
        path = os.path.abspath(database["NAME"] or package)
        inside = path == package or path.startswith(package + os.sep)
        if value("DB_NAME") or inside:
            database["NAME"] = os.path.join(botssys, "sqlitedb", value("DB_NAME") or "botsdb")
        if django.VERSION < (5, 1):
            for name in ("init_command", "transaction_mode"):
                database.get("OPTIONS", {}).pop(name, None)

    options = json.loads(value("DB_OPTIONS") or "{}")

    def server(engine, defaults):
        host = value("DB_HOST")
        if "mysql" in engine:
            if host.startswith("/"):
                # Django takes that for a socket, the engine of Bots for the name of a host.
                options.setdefault("unix_socket", host)
                host = "localhost"
            # The client takes them in one group.
            keys = [key for key in options if key in ("ssl_ca", "ssl_cert", "ssl_key", "ssl_capath", "ssl_cipher")]
            group = {key[len("ssl_") :]: options.pop(key) for key in keys}
            if group:
                options["ssl"] = dict(options.get("ssl") or {}, **group)
        settings["DATABASES"] = {
            "default": {
                "ENGINE": engine,
                "NAME": value("DB_NAME"),
                "USER": value("DB_USER"),
                "PASSWORD": value("DB_PASSWORD"),
                "HOST": host,
                "PORT": int(value("DB_PORT") or (3306 if "mysql" in engine else 5432)),
                "OPTIONS": dict(defaults, **options),
            }
        }

    engine = value("DB_ENGINE").lower().rpartition(".")[2]
    if engine in ("sqlite", "sqlite3") or not (engine or value("DB_HOST") or value("DB_USER")):
        sqlite()
    elif engine in ("mysql", "mariadb"):
        server("django.db.backends.mysql", {"charset": "utf8mb4"})
    elif engine in ("postgres", "postgresql", "postgresql_psycopg2"):
        # The engine of Bots 3.3.1, which runs on Django 2.2, knows PostgreSQL under its old name only.
        old = django.VERSION < (3,)
        server("django.db.backends.postgresql" + ("_psycopg2" if old else ""), {})
    elif engine:
        raise ValueError("DB_ENGINE is %r: use sqlite, mysql or postgresql" % value("DB_ENGINE"))
    else:
        raise ValueError("DB_HOST or DB_USER is set, but DB_ENGINE is not: set it to mysql or postgresql")

    with open(os.path.join(package, "install", "settings.py"), encoding="utf-8") as source:
        key_is_public = settings.get("SECRET_KEY", "") in source.read()
    if value("DJANGO_SECRET_KEY"):
        settings["SECRET_KEY"] = value("DJANGO_SECRET_KEY")
    elif key_is_public:
        with open(os.path.join(root, "secret-key"), encoding="utf-8") as source:
            settings["SECRET_KEY"] = source.read().strip()
    if items("ALLOWED_HOSTS"):
        settings["ALLOWED_HOSTS"] = items("ALLOWED_HOSTS")
    if items("CSRF_TRUSTED_ORIGINS"):
        origins = items("CSRF_TRUSTED_ORIGINS")
        # Before Django 4 they are hosts.
        hosts = [origin.rpartition("://")[2] for origin in origins]
        settings["CSRF_TRUSTED_ORIGINS"] = hosts if django.VERSION < (4,) else origins
    if value("TZ"):
        settings["TIME_ZONE"] = value("TZ").lstrip(":")
    for name in ("DEBUG", "USE_TZ", "EMAIL_USE_TLS", "EMAIL_USE_SSL"):
        if value(name):
            settings[name] = value(name).lower() in ("true", "yes", "on", "1")
    managers = items("ADMIN_EMAIL")
    if managers:
        settings["MANAGERS"] = tuple(("admin", address) for address in managers)
        settings["SERVER_EMAIL"] = managers[0]
    for name in ("EMAIL_HOST", "EMAIL_HOST_USER", "EMAIL_HOST_PASSWORD", "SERVER_EMAIL"):
        if value(name):
            settings[name] = value(name)
    if value("EMAIL_PORT"):
        settings["EMAIL_PORT"] = int(value("EMAIL_PORT"))


_bots_ctl(globals())
del _bots_ctl
