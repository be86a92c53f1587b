"""MariaDB and MySQL cannot take back what a migration has begun: a run that was cut off is completed by the next one.

A statement that fails because what it makes is there already is compared with what is there. The same: it counts as
done. Not provably the same: nothing is changed, and the error contains the statement, so that the administrator can
decide.
"""

import re

SHADOW = "botsctl_shadow"
# Made by bots-ctl: Django's own would lack the defaults.
UNMANAGED = {"ta", "mutex", "persist", "uniek"}
# Table, column, index, key in two forms; of the general "can't create table" only that for a key that is there.
CODES_THERE = {1050, 1060, 1061, 1826, 1022}
CODE_CANNOT_CREATE = 1005
CODES_GONE = {1091}
# Of a column that is to be changed: a later statement has taken it away.
CODE_NO_COLUMN = 1054


class NotProven(Exception):
    pass


def skip_completed_statements(connection):
    editor = connection.SchemaEditorClass
    execute = editor.execute

    def repeatable(self, sql, params=()):
        from django.db import DatabaseError

        try:
            return execute(self, sql, params)
        except DatabaseError as error:
            code = error.args[0] if error.args else None
            statement = with_values(self, sql, params)
            if code in CODES_GONE and is_dropped(statement):
                return None
            is_there = code in CODES_THERE or code == CODE_CANNOT_CREATE and "errno: 121" in str(error)
            is_past = code == CODE_NO_COLUMN and statement.startswith("ALTER TABLE")
            if not is_there and not is_past:
                raise
            if is_past or not is_done(connection, statement):
                raise NotProven(
                    "%s; an earlier run was interrupted here, and the existing object may differ from that of this statement: "
                    "compare them, then execute or skip it manually: %s;" % (error.args[-1], statement)
                ) from None
            print("Already there: " + statement.split("(", 1)[0].strip())

    editor.execute = repeatable


def with_values(editor, sql, params):
    """A column's default comes beside the statement."""

    def quoted(value):
        text = editor.quote_value(value)
        # Django doubles the sign, for a statement that gets values after this.
        return (text.decode() if isinstance(text, bytes) else str(text)).replace("%%", "%")

    return str(sql) % tuple(map(quoted, params)) if params else str(sql)


def finish_tables_without_migrations(connection):
    """Their keys come after all the tables, so a table that is there says nothing of its keys."""
    from django.apps import apps
    from django.db.migrations.loader import MigrationLoader

    migrated = MigrationLoader(connection).migrated_apps
    models = [model for model in apps.get_models() if is_managed(model) and model._meta.app_label not in migrated]
    there = set(connection.introspection.table_names()) - UNMANAGED
    with connection.schema_editor() as editor:
        for model in models:
            if model._meta.db_table in there:
                editor.create_model(model)


def rows(connection, sql, *params):
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        return cursor.fetchall()


def run(connection, sql):
    with connection.cursor() as cursor:
        cursor.execute(sql)


def is_done(connection, statement):
    """Whether what this statement makes is there, just as it would make it."""
    made = re.match(r"CREATE TABLE `([^`]+)` (.*)", statement, re.S)
    if made:
        return same_table(connection, made.group(1), "CREATE TABLE `%s` %s" % (SHADOW, made.group(2)))
    added = re.match(r"ALTER TABLE `([^`]+)` (ADD COLUMN `([^`]+)` .*?)(?: ?, (ADD CONSTRAINT .*))?$", statement, re.S)
    if added:
        table, addition, column, key = added.groups()
        is_key_done = key is None or is_done(connection, "ALTER TABLE `%s` %s" % (table, key))
        return is_key_done and same_column(connection, table, addition, column)
    key = re.match(
        r"ALTER TABLE `([^`]+)` ADD CONSTRAINT `([^`]+)` (?:UNIQUE|FOREIGN KEY) \(([^)]*)\)"
        r"(?: REFERENCES `([^`]+)` ?\(([^)]*)\))?",
        statement,
    )
    if key:
        return same_constraint(connection, *key.groups())
    index = re.match(r"CREATE (?:UNIQUE )?INDEX `([^`]+)` ON `([^`]+)` ?\(([^)]*)\)", statement)
    return bool(index) and same_index(connection, *index.groups(), unique="UNIQUE" in statement)


def add_lost_keys(connection):
    """Foreign keys of recorded migrations that are not there. Django up to 3.0 records a migration before it makes its keys, so
    one that was killed in between is past for every later run."""
    import django
    from django.apps import apps
    from django.db.migrations.loader import MigrationLoader

    if django.VERSION >= (3, 1):
        return
    labels = MigrationLoader(connection).migrated_apps
    models = [model for model in apps.get_models(include_auto_created=True) if model._meta.app_label in labels]
    for model in models:
        with connection.cursor() as cursor:
            there = connection.introspection.get_relations(cursor, model._meta.db_table)
        for field in model._meta.local_fields:
            if field.remote_field and field.db_constraint and field.column not in there:
                with connection.schema_editor() as editor:
                    editor.execute(editor._create_fk_sql(model, field, "_fk_%(to_table)s_%(to_column)s"))
                print("Restored the missing foreign key: %s.%s" % (model._meta.db_table, field.column))


def is_dropped(statement):
    """What was to go is not there: the server has said so."""
    return bool(re.match(r"ALTER TABLE `[^`]+` DROP |DROP INDEX ", statement))


def columns(connection, table):
    found = rows(
        connection,
        "SELECT column_name, column_type, is_nullable, column_default, extra, column_key = 'PRI'"
        " FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = %s",
        table,
    )
    return {name: rest for name, *rest in found}


def same_table(connection, table, create_shadow):
    """Every wanted column is there as wanted; what was added later, or is wider, does not matter."""
    run(connection, "DROP TABLE IF EXISTS `%s`" % SHADOW)
    run(connection, create_shadow)
    try:
        wanted, found = columns(connection, SHADOW), columns(connection, table)
    finally:
        run(connection, "DROP TABLE `%s`" % SHADOW)
    return all(name in found and fits(column, found[name]) for name, column in wanted.items())


def same_column(connection, table, addition, column):
    run(connection, "DROP TABLE IF EXISTS `%s`" % SHADOW)
    run(connection, "CREATE TABLE `%s` (`botsctl` integer)" % SHADOW)
    try:
        run(connection, "ALTER TABLE `%s` %s" % (SHADOW, addition))
        wanted, found = columns(connection, SHADOW), columns(connection, table)
    finally:
        run(connection, "DROP TABLE `%s`" % SHADOW)
    # A default that the next statement takes away again may be gone already.
    return fits(wanted[column], found[column])


def fits(wanted, found):
    length = re.compile(r"varchar\((\d+)\)$")
    ours, theirs = length.match(wanted[0]), length.match(found[0])
    if ours and theirs:
        same_type = int(ours.group(1)) <= int(theirs.group(1))
    else:
        same_type = wanted[0] == found[0]
    # Where NULL is allowed nothing that is wanted can fail.
    return same_type and (wanted[1] == found[1] or found[1] == "YES") and wanted[3:] == found[3:]


def names(text):
    return re.findall(r"`([^`]+)`", text or "")


def same_constraint(connection, table, name, cols, other, other_cols):
    found = rows(
        connection,
        "SELECT column_name, referenced_table_name, referenced_column_name FROM information_schema.key_column_usage"
        " WHERE table_schema = DATABASE() AND table_name = %s AND constraint_name = %s ORDER BY ordinal_position",
        table,
        name,
    )
    others = names(other_cols) or [None] * len(names(cols))
    return list(found) == [(column, other, target) for column, target in zip(names(cols), others)]


def same_index(connection, name, table, cols, unique):
    found = rows(
        connection,
        "SELECT column_name, non_unique FROM information_schema.statistics"
        " WHERE table_schema = DATABASE() AND table_name = %s AND index_name = %s ORDER BY seq_in_index",
        table,
        name,
    )
    return [(column, bool(flag)) for column, flag in found] == [(column, not unique) for column in names(cols)]
