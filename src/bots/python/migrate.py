"""What only Django can do to the database: `migrate`, and web users."""

import threading


def migrate(finish):
    """`finish`: an earlier run may have been cut off, on a server that cannot take back what it has begun. Then each
    statement is compared when it is run, and only after that whole columns."""
    from django.core.management import call_command
    from django.db import connection

    is_mysql = connection.vendor == "mysql"
    was_begun = bool(connection.introspection.table_names())
    record_forgotten(connection, by_columns=not finish)
    if is_mysql:
        skip_completed_statements(connection)
        if finish:
            finish_tables_without_migrations(connection)
    # run_syncdb makes the tables of apps without migrations, which is all of Bots up to 3.3.1. Where there are such
    # tables already, the first migration of a newer Bots is as good as applied; on MySQL each statement is compared.
    def run():
        call_command("migrate", interactive=False, run_syncdb=True, fake_initial=not is_mysql, verbosity=1)

    try:
        run()
    except NotProven:
        # A later migration may have changed what this one has made; nothing of that is recorded.
        if not record_forgotten(connection, by_columns=True):
            raise
        run()
    if is_mysql and was_begun:
        add_lost_keys(connection)


class Hash(threading.Thread):
    """A password's hash takes as long as a small migration, and is made beside it."""

    def __init__(self, password):
        super().__init__(daemon=True)
        self.password = password
        self.made = None
        self.start()

    def run(self):
        from django.contrib.auth.hashers import make_password

        self.made = make_password(self.password)

    def wait(self):
        self.join()
        if self.made is None:
            raise RuntimeError("cannot hash the password")
        return self.made


def make_user(user, password):
    from django.contrib.auth import get_user_model
    from django.db import transaction

    hashed = password.wait()
    with transaction.atomic():
        made = get_user_model().objects.create_superuser(user["username"], user["email"], None)
        made.password = hashed
        made.save()
    return "created"


def first_user(user, password):
    from django.contrib.auth import get_user_model

    return "kept" if get_user_model().objects.exists() else make_user(user, password)


def superuser(user, password):
    """Makes the user, or brings what is there to what is asked for."""
    from django.contrib.auth import get_user_model

    model = get_user_model()
    found = model.objects.filter(**{model.USERNAME_FIELD: user["username"]}).first()
    if found is None:
        return make_user(user, password)
    wanted = {"is_active": True, "is_staff": True, "is_superuser": True}
    if user["email"]:
        wanted["email"] = user["email"]
    changed = [name for name, value in wanted.items() if getattr(found, name) != value]
    for name in changed:
        setattr(found, name, wanted[name])
    if not found.check_password(user["password"]):
        found.password = password.wait()
        changed.append("password")
    if not changed:
        return "kept"
    found.save()
    return "updated"
