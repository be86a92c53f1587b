"""The configuration that Bots keeps in its database, as plain rows, and the files of plugins. bots-ctl compares and decides; this reads,
checks and writes."""

# In the order in which one refers to the other.
CONFIGURATION = ("ccodetrigger", "ccode", "channel", "partner", "chanpar", "translate", "routes", "confirmrule")

# Larger ones are no plugins.
MAX_UNPACKED = 256 * 1024 * 1024


class Refused(Exception):
    """Its text is for the user, as it is."""


class Conflict(Refused):
    """Another process was faster: with the new state the same request may succeed."""


def plugin(request):
    try:
        return PLUGIN_REQUESTS[request["plugin"]](request)
    except Refused as refused:
        return {"refused": str(refused), "conflict": isinstance(refused, Conflict)}


def bots_model(name):
    from django.apps import apps

    return apps.get_model("bots", name)


def has_group(name):
    return name == "partner"


def described_fields(model):
    """Kind, limits and default of each field."""
    kinds = {"BooleanField": "bool", "IntegerField": "integer", "PositiveIntegerField": "integer", "DateField": "date"}
    for field in model._meta.local_fields:
        if field.get_internal_type() == "AutoField" or field.name == "id":
            continue
        kind = "key" if field.remote_field else kinds.get(field.get_internal_type(), "text")
        default = field.get_default()
        yield field.name, {
            "kind": kind,
            "null": field.null,
            # Bots strips what it saves in most of its texts.
            "strip": type(field).__name__ == "StripCharField",
            "max": field.max_length if kind == "text" and field.get_internal_type() == "CharField" else None,
            "default": plain_value(default),
        }


def plain_value(value):
    return value.isoformat() if hasattr(value, "isoformat") else value


def groups_of_partners():
    through = bots_model("partner").group.through
    groups = {}
    for member, group in through.objects.values_list("from_partner_id", "to_partner_id").order_by("to_partner_id"):
        groups.setdefault(member, []).append(group)
    return groups


def rows_of(name, keys=None):
    model = bots_model(name)
    fields = [field for field in model._meta.local_fields if field.name != "id"]
    found = model._base_manager.order_by("pk")
    if keys is not None:
        found = found.filter(pk__in=keys)
    groups = groups_of_partners() if has_group(name) else None
    for values in found.values_list("pk", *[field.attname for field in fields]):
        row = {field.name: plain_value(value) for field, value in zip(fields, values[1:])}
        if groups is not None:
            row["group"] = groups.get(values[0], [])
        yield {"pk": values[0], "fields": row}


def read_configuration(_):
    from bots import botsglobal

    tables = {}
    for name in CONFIGURATION:
        fields = dict(described_fields(bots_model(name)))
        if has_group(name):
            fields["group"] = {"kind": "list", "null": False, "strip": False, "max": None, "default": []}
        tables[name] = {"fields": fields, "rows": list(rows_of(name))}
    return {"botssys": botsglobal.ini.get("directories", "botssys_org"), "tables": tables}


def write_configuration(request):
    """All changes in one transaction, with the mark by which bots-ctl knows afterwards whether it was committed."""
    from django.db import DatabaseError, connection, transaction

    if connection.vendor == "sqlite":
        # SQLite deletes its journal at the end of a transaction. After a power cut a deleted file can be back, and would undo the rows
        # of a change whose files are in their places.
        connection.cursor().execute("PRAGMA synchronous = EXTRA")
    try:
        with transaction.atomic():
            cursor = connection.cursor()
            change = "UPDATE botsctl_plugin SET change_id = %s WHERE name = 'applied' AND change_id = %s"
            cursor.execute(change, [request["id"], request["base"]])
            if cursor.rowcount != 1:
                raise Conflict("another bots-ctl has changed the configuration in the meantime: run the command again")
            expect_unchanged(request["changes"])
            changed = [change for change in request["changes"] if change["after"] is not None]
            objects = [(change, save_row(change)) for change in changed]
            for change, row in objects:
                if "group" in change["after"]:
                    row.group.set(change["after"]["group"])
            for change in reversed(request["changes"]):
                if change["after"] is None:
                    remove_row(connection, cursor, change)
    except DatabaseError as error:
        if is_unavailable(error):
            raise
        text = "%s: %s" % (type(error).__name__, " ".join(str(error).split()))
        if "oreign key" in text or "FOREIGN KEY" in text:
            text += " (a row that stays refers to one that is removed, or a row refers to one that does not exist)"
        raise Refused(text)
    return {}


def expect_unchanged(changes):
    for name in CONFIGURATION:
        expected = {change["pk"]: change for change in changes if change["table"] == name and change["pk"] is not None}
        keys = list(expected)
        # SQLite allows no more than 999 values in a statement.
        for begin in range(0, len(keys), 500):
            part = keys[begin:begin + 500]
            found = {row["pk"]: row["fields"] for row in rows_of(name, part)}
            for key in part:
                if found.get(key) != expected[key]["before"]:
                    raise Conflict("%s has changed in the meantime: run the command again" % expected[key]["name"])


def save_row(change):
    """Past the save of Bots's own models, which has ideas of its own about groups of partners."""
    from django.db import models

    model = bots_model(change["table"])
    row = model() if change["pk"] is None else model._base_manager.get(pk=change["pk"])
    for field in model._meta.local_fields:
        if field.name in change["after"]:
            value = change["after"][field.name]
            setattr(row, field.attname, field.to_python(value) if not field.remote_field else value)
    models.Model.save(row, force_insert=change["pk"] is None, force_update=change["pk"] is not None)
    return row


def remove_row(connection, cursor, change):
    """Without Django's collector, which would silently empty the columns of rows that refer to it."""
    model, quote = bots_model(change["table"]), connection.ops.quote_name
    if has_group(change["table"]):
        through = model.group.through._meta
        column = through.get_field("from_partner").column
        cursor.execute("DELETE FROM %s WHERE %s = %%s" % (quote(through.db_table), quote(column)), [change["pk"]])
    statement = "DELETE FROM %s WHERE %s = %%s" % (quote(model._meta.db_table), quote(model._meta.pk.column))
    cursor.execute(statement, [change["pk"]])


def check_scripts(request):
    """Compiles scripts and has Bots read the grammars, in a copy of usersys with the files of the plugin in it."""
    import ast
    import importlib
    import logging
    import warnings

    from bots import botsglobal, grammar

    parent, faults = request["directory"], []
    package = botsglobal.usersysimportpath.split(".")[-1]
    root = os.path.join(parent, package)
    botsglobal.logger = botsglobal.logger or logging.getLogger("bots")
    warnings.simplefilter("ignore")
    trees = {}
    for name in request["files"]:
        path = os.path.join(root, name)
        try:
            with open(path, "rb") as source:
                text = source.read()
            compile(text, path, "exec", dont_inherit=True)
            trees[name] = ast.parse(text, path)
        except (SyntaxError, ValueError) as error:
            faults.append({"file": name, "line": getattr(error, "lineno", None) or 0, "text": getattr(error, "msg", None) or str(error)})
    if faults:
        return {"faults": faults}
    for module in [name for name in sys.modules if name == package or name.startswith(package + ".")]:
        del sys.modules[module]
    sys.path.insert(0, parent)
    importlib.invalidate_caches()
    botsglobal.usersysimportpath = package
    botsglobal.ini.set("directories", "usersysabs", root)
    for name, tree in sorted(trees.items()):
        parts = name.split("/")
        if len(parts) == 3 and parts[0] == "grammars" and "structure" in names_in(tree):
            try:
                grammar.grammarread(parts[1], parts[2][:-3], typeofgrammarfile="grammars")
            except Exception as error:
                fault = grammar_fault(name, error, root)
                faults.append(dict(fault, text=fault["text"].replace(parent + os.sep, "")))
    return {"faults": faults}


def names_in(tree):
    """What a module defines, as far as it can be seen without running it."""
    import ast

    for node in tree.body:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    yield target.id
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield alias.asname or alias.name


def grammar_fault(name, error, root):
    """The last line of the plugin that took part; that of the name the grammar's error is about is not known."""
    import traceback

    chain = error
    while chain is not None:
        if isinstance(chain, SyntaxError) and chain.filename and is_below(chain.filename, root):
            return {"file": os.path.relpath(chain.filename, root), "line": chain.lineno or 0, "text": chain.msg}
        for frame in reversed(traceback.extract_tb(chain.__traceback__)):
            if is_below(frame.filename, root):
                text = traceback.format_exception_only(type(chain), chain)[-1].strip()
                return {"file": os.path.relpath(frame.filename, root), "line": frame.lineno, "text": text}
        chain = chain.__context__
    return {"file": name, "line": 0, "text": " ".join(str(error).split())}


def read_python_index(request):
    """The list in a botsindex.py, without running it: it is data."""
    import ast

    with open(request["file"], "rb") as source:
        text = source.read()
    try:
        tree = ast.parse(text)
        values = [node.value for node in tree.body if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "plugins"]
        if not values:
            raise Refused("it has no list named `plugins`")
        return {"plugins": as_json(ast.literal_eval(plain_dates().visit(values[-1])))}
    except SyntaxError as error:
        raise Refused("line %s: %s" % (error.lineno, error.msg))
    except (ValueError, TypeError) as error:
        raise Refused("its list `plugins` is not plain data: %s" % error)


def as_json(value):
    """The value as JSON has it, which knows neither infinite numbers nor halves of characters."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False)
    text.encode()
    return json.loads(text)


def plain_dates():
    """The only calls that Bots writes into an index."""
    import ast
    import datetime

    class Dates(ast.NodeTransformer):
        def visit_Call(self, node):
            name = getattr(node.func, "attr", "")
            if name not in ("date", "datetime"):
                return node
            moment = getattr(datetime, name)(*[ast.literal_eval(argument) for argument in node.args])
            return ast.copy_location(ast.Constant(moment.isoformat()), node)

    return Dates()


def unpack_files(request):
    import zipfile

    try:
        with zipfile.ZipFile(request["file"]) as archive:
            entries = [entry for entry in archive.infolist() if not entry.filename.endswith("/")]
            if sum(entry.file_size for entry in entries) > MAX_UNPACKED:
                raise Refused("its files have more than %d MiB" % (MAX_UNPACKED // 1024 // 1024))
            for entry in entries:
                parts = entry.filename.lstrip("/").split("/")
                if ".." in parts or "" in parts:
                    raise Refused("it has a file with the name %s" % entry.filename)
                path = os.path.join(request["directory"], *parts)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "wb") as target:
                    target.write(archive.read(entry))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise Refused(str(error))
    return {}


def pack_files(request):
    """Without times and without compression, whose result depends on the version of a library."""
    import zipfile

    root = request["directory"]
    found = [os.path.join(place, name) for place, _, names in os.walk(root) for name in names]
    with zipfile.ZipFile(request["file"], "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(found):
            entry = zipfile.ZipInfo(os.path.relpath(path, root), (1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            with open(path, "rb") as source:
                archive.writestr(entry, source.read())
    return {}


PLUGIN_REQUESTS = {
    "read": read_configuration,
    "write": write_configuration,
    "check": check_scripts,
    "index": read_python_index,
    "unpack": unpack_files,
    "pack": pack_files,
}
