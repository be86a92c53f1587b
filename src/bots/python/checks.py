"""Whether the programs of Bots could work with these settings: what Django itself checks, the certificate of the web UI, the character
sets, and the login page. Made in a copy of the environment, with a database in memory, so that it depends on no server."""


def problem(text, section="", key="", file="", line=None, trace=""):
    return {"text": text, "section": section, "key": key, "file": file, "line": line, "traceback": trace}


def check_all(config_dir):
    from bots import botsglobal

    settings_file = os.path.join(config_dir, "settings.py")
    of_ini = list(check_certificate(botsglobal.ini))
    of_django = list(check_django(settings_file, config_dir))
    return of_ini + (of_django or list(check_pages(settings_file, config_dir)))


def check_charsets(config_dir):
    """Before Bots starts, which fails at one that it does not know without a word of it. It has some of its own."""
    import codecs
    import configparser

    ini = configparser.RawConfigParser()
    ini.read(os.path.join(config_dir, "bots.ini"), encoding="utf-8")
    own = os.path.join(os.path.dirname(config_dir), "usersys", "charsets")
    for key, name in ini.items("charsets"):
        try:
            codecs.lookup(name)
        except LookupError:
            if not os.path.exists(os.path.join(own, name + ".py")):
                yield problem("unknown character set", "charsets", key)


def check_certificate(ini):
    import ssl

    names = ("ssl_certificate", "ssl_private_key")
    certificate, key = [ini.get("webserver", name, None) for name in names]
    if not certificate and not key:
        return
    if not certificate or not key:
        yield problem(
            "the web UI would serve plain HTTP without %s" % names[0 if key else 1], "webserver", names[1 if key else 0]
        )
        return
    for name, path in zip(names, (certificate, key)):
        if opened is not None:
            opened.add(os.path.abspath(path))
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            yield problem("cannot read it: %s" % error.strerror, "webserver", name)
            return
    try:
        # Without a password OpenSSL would ask for one at the terminal.
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error)
        yield problem("cannot load the certificate with its private key: %s" % reason, "webserver", names[0])


def check_django(settings_file, config_dir):
    from django.core import checks

    try:
        messages = checks.run_checks()
    except Exception as error:
        yield located(error, settings_file, config_dir, "")
        return
    for message in messages:
        if message.is_serious() and not message.is_silenced():
            hint = "; %s" % message.hint if message.hint else ""
            yield problem("%s (%s)%s" % (" ".join(str(message.msg).split()), message.id, hint), file=settings_file)


def check_pages(settings_file, config_dir):
    from django.conf import settings
    from django.db import Error as DatabaseError
    from django.urls import Resolver404, resolve

    try:
        for path in (settings.LOGIN_URL, "/home"):
            resolve(path)
        use_memory()
        code, error = page(settings.LOGIN_URL)
    except Resolver404:
        text = "ROOT_URLCONF = %r has no page %s: set ROOT_URLCONF = 'bots.urls'"
        yield problem(text % (settings.ROOT_URLCONF, path), file=settings_file)
        return
    except Exception as raised:
        code, error = 500, raised
    if isinstance(error, DatabaseError):
        return
    if error is not None:
        yield located(error, settings_file, config_dir, "the login page would fail: ")
    elif code == 400:
        text = "ALLOWED_HOSTS = %r rejects every request: set the host names of the web UI"
        yield problem(text % (settings.ALLOWED_HOSTS,), file=settings_file)
    elif code >= 404:
        yield problem("the login page %s would return HTTP %d" % (settings.LOGIN_URL, code), file=settings_file)


def use_memory():
    """The page reads the routes, perhaps."""
    from django.apps import apps
    from django.db import connections
    from django.db.backends.sqlite3.base import DatabaseWrapper

    for alias in list(connections.databases):
        memory = dict(connections.databases[alias], ENGINE="django.db.backends.sqlite3", NAME=":memory:", OPTIONS={})
        connections[alias] = DatabaseWrapper(memory, alias)
    with connections["default"].schema_editor() as editor:
        for model in apps.get_models():
            if is_managed(model):
                editor.create_model(model)


def page(path):
    """The status of a page, and the error that was raised on the way."""
    import io
    import logging

    from bots import botsglobal
    from django.conf import settings
    from django.core.handlers.wsgi import WSGIHandler
    from django.core.signals import got_request_exception

    errors, lines = [], []
    # Bots's page for errors writes to it.
    botsglobal.logger = botsglobal.logger or logging.getLogger("bots")
    got_request_exception.connect(lambda **_: errors.append(sys.exc_info()[1]), weak=False)
    host = known_host(settings.ALLOWED_HOSTS)
    request = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": str(path),
        "QUERY_STRING": "",
        "SERVER_NAME": host,
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": host,
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
    }
    try:
        for _ in WSGIHandler()(request, lambda line, headers: lines.append(line)):
            pass
    except Exception as error:
        # Perhaps of the page for errors.
        errors.append(error)
    return int(lines[0].split()[0]) if lines else 500, errors[0] if errors else None


def located(error, settings_file, config_dir, prefix):
    """In the user's own file, where one took part; else it is a setting."""
    found = fault(error, config_dir, is_setting=True)
    if not is_below(found["file"], os.path.dirname(config_dir)):
        found["file"], found["line"] = settings_file, None
    return problem(prefix + found["text"], file=found["file"], line=found["line"], trace=found["traceback"])
