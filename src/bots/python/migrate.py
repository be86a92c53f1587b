"""What only Django can do to the database: `migrate`, and web users."""


def migrate(finish):
    """`finish`: an earlier run may have been cut off, on a server that cannot take back what it has begun."""
    from django.core.management import call_command
    from django.db import connection

    if connection.vendor == "mysql":
        let_statements_repeat(connection)
        if finish:
            finish_tables_without_migrations(connection)
    # run_syncdb makes the tables of apps without migrations, which is all of Bots up to 3.3.1. Where there are such
    # tables already, the first migration of a newer Bots is as good as applied; on MySQL each statement is compared.
    call_command("migrate", interactive=False, run_syncdb=True, fake_initial=connection.vendor != "mysql", verbosity=1)


def first_user(user):
    from django.contrib.auth import get_user_model

    model = get_user_model()
    if model.objects.exists():
        return "kept"
    model.objects.create_superuser(user["username"], user["email"], user["password"])
    return "made"


def superuser(user):
    """Makes the user, or brings what is there to what is asked for."""
    from django.contrib.auth import get_user_model

    model = get_user_model()
    found = model.objects.filter(**{model.USERNAME_FIELD: user["username"]}).first()
    if found is None:
        model.objects.create_superuser(user["username"], user["email"], user["password"])
        return "made"
    wanted = {"is_active": True, "is_staff": True, "is_superuser": True}
    if user["email"]:
        wanted["email"] = user["email"]
    changed = [name for name, value in wanted.items() if getattr(found, name) != value]
    for name in changed:
        setattr(found, name, wanted[name])
    if not found.check_password(user["password"]):
        found.set_password(user["password"])
        changed.append("password")
    if not changed:
        return "kept"
    found.save()
    return "changed"
