"""Migrations that are not recorded although what they make is there: rows of `django_migrations` that were lost, or
that were never written. Django refuses the first and fails on the second.

What is there is compared column by column with the models as all migrations together make them. Indexes are not looked
at: bots-ctl compares and mends those itself.
"""

# What shows in tables and columns, and what shows in nothing that could be missed.
MAKING = {"CreateModel", "AddField"}
TAKING = {"RemoveField", "DeleteModel"}
SILENT = {"AlterModelOptions", "AlterModelManagers", "AlterUniqueTogether", "AlterIndexTogether", "AddIndex", "AlterOrderWithRespectTo"}


def record_forgotten(connection, by_columns):
    """`by_columns`: where nothing builds on a migration yet, columns and keys are proof enough. Returns
    whether any was recorded."""
    from django.db.migrations.loader import MigrationLoader

    there = Columns(connection)
    if not there.tables:
        return False
    loader = MigrationLoader(connection)
    recorded = set(loader.applied_migrations)
    order = [key for leaf in sorted(loader.graph.leaf_nodes()) for key in loader.graph.forwards_plan(leaf)]
    missing = [key for key in dict.fromkeys(order) if key not in recorded]
    if not missing:
        return False
    needed = {key for leaf in recorded & set(loader.graph.nodes) for key in loader.graph.forwards_plan(leaf)}
    models, found, lost = loader.project_state().apps, [], set()
    for key in missing:
        migration = loader.graph.nodes[key]
        if key in needed:
            if not is_applied(loader, migration, models, there):
                raise NotProven(
                    "migration %s.%s is not recorded in django_migrations, although migrations that depend on it are, and "
                    "its tables and columns could not be confirmed: compare them, then restore the database or record "
                    "the migration: INSERT INTO django_migrations (app, name, applied) VALUES ('%s', '%s', CURRENT_TIMESTAMP);"
                    % (key + key)
                )
        elif not (by_columns and is_lost(migration, recorded, lost) and is_applied(loader, migration, models, there)):
            continue
        lost.add(key[0])
        recorded.add(key)
        found.append(key)
    record(connection, found)
    return bool(found)


def record(connection, found):
    """All or none: a part of them would be no proof for the next run that the rest is there."""
    from django.db import transaction
    from django.db.migrations.recorder import MigrationRecorder

    if not found:
        return
    recorder = MigrationRecorder(connection)
    recorder.ensure_schema()
    with transaction.atomic(using=connection.alias):
        for key in found:
            recorder.record_applied(*key)
    for key in found:
        print("Already applied, recorded again: %s.%s" % key)


def is_lost(migration, recorded, lost):
    """What only alters shows nothing for certain, unless the record of an earlier one of its app was lost as well."""
    kinds = {type(operation).__name__ for operation in migration.operations}
    is_ready = all(parent in recorded for parent in migration.dependencies if not parent[1].startswith("__"))
    return is_ready and (kinds & (MAKING | TAKING) or migration.app_label in lost)


def is_applied(loader, migration, models, there):
    return all(is_operation_done(loader, migration, operation, models, there) for operation in migration.operations)


def is_operation_done(loader, migration, operation, models, there):
    kind = type(operation).__name__
    if kind == "RunPython":
        # Django's own only fill its books, which it does again after each migrate.
        return migration.__module__.startswith("django.contrib.")
    if kind in SILENT:
        return True
    if kind in TAKING:
        return is_gone(loader.project_state((migration.app_label, migration.name), at_end=False).apps, migration, operation, there)
    if kind == "CreateModel":
        model = model_of(models, migration.app_label, operation.name)
        if model is None or not is_managed(model):
            return True
        names = [name for name, _ in operation.fields]
        fields = [field for field in model._meta.local_fields + model._meta.local_many_to_many if field.name in names]
        return model._meta.db_table in there.tables and all(there.has(field) for field in fields)
    if kind in ("AddField", "AlterField"):
        field = field_of(models, migration, operation)
        return field is None or there.has(field) and (kind == "AddField" or there.fits(field, migration))
    return False


def is_gone(models, migration, operation, there):
    """`models`: as they were before this migration."""
    if type(operation).__name__ == "DeleteModel":
        model = model_of(models, migration.app_label, operation.name)
        return bool(model) and model._meta.db_table not in there.tables
    field = field_of(models, migration, operation)
    return bool(field) and not there.has(field)


def field_of(models, migration, operation):
    """None for one that a later migration has taken away again, and for those that Django does not manage."""
    model = model_of(models, migration.app_label, operation.model_name)
    if model is None or not is_managed(model):
        return None
    fields = model._meta.local_fields + model._meta.local_many_to_many
    return next((field for field in fields if field.name == operation.name), None)


def model_of(models, app, name):
    """None for one that a later migration has taken away again."""
    try:
        return models.get_model(app, name)
    except LookupError:
        return None


class Columns:
    """The database's columns and foreign keys, read as they are asked for."""

    def __init__(self, connection):
        self.connection = connection
        self.tables = set(connection.introspection.table_names())
        self.known = {}

    def has(self, field):
        if field.many_to_many:
            through = field.remote_field.through._meta
            return through.db_table in self.tables and all(self.has(key) for key in through.local_fields)
        columns, keys = self.of(field.model._meta.db_table)
        # A column without its key is what MySQL keeps of an interrupted statement.
        is_bare = field.remote_field and field.db_constraint and self.connection.vendor == "mysql"
        return field.column in columns and (not is_bare or field.column in keys)

    def fits(self, field, migration):
        """What a text may hold and whether NULL is allowed; of other types Django's own do not change."""
        if field.many_to_many:
            return False
        column = self.of(field.model._meta.db_table)[0][field.column]
        if (field.db_type(self.connection) or "").startswith("varchar"):
            sizes = [size for size in (column.display_size, column.internal_size) if isinstance(size, int)]
            is_type_right = max(sizes, default=0) >= (getattr(field, "max_length", None) or 1 << 31)
        else:
            is_type_right = migration.__module__.startswith("django.contrib.")
        return is_type_right and bool(column.null_ok) == field.null

    def of(self, table):
        if table not in self.tables:
            return {}, {}
        if table not in self.known:
            introspection = self.connection.introspection
            with self.connection.cursor() as cursor:
                columns = {column.name: column for column in introspection.get_table_description(cursor, table)}
                self.known[table] = columns, introspection.get_relations(cursor, table)
        return self.known[table]
