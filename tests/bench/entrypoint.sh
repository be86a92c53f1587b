#!/usr/bin/env bash
# What a shell script has to do before Bots's web UI can start in a container, for a comparison: directories, mounted
# configuration, a database that answers and has all tables; then the program takes the script's place.
# Called with the directory of Bots's programs, the configuration directory, and the options of Django's migrate.
set -euo pipefail
bots=$1 config=$2
shift 2
root=$(dirname "$config")
mkdir -p "$root/config" "$root/botssys" "$root/usersys"
for name in settings.py bots.ini; do
    if [ -e "/config/$name" ]; then cp "/config/$name" "$root/config/$name"; fi
done

export PYTHONPATH="$root" DJANGO_SETTINGS_MODULE=config.settings
prepare='
import sys, time
import django
from django.core.management import call_command
from django.db import OperationalError, connection
django.setup()
for attempt in range(30):
    try:
        connection.ensure_connection()
        break
    except OperationalError:
        time.sleep(1)
else:
    sys.exit("the database does not answer")
call_command("migrate", "--noinput", "-v0", *sys.argv[1:])
missing = {"channel", "routes", "ta", "mutex", "persist", "uniek"} - set(connection.introspection.table_names())
if missing:
    sys.exit(f"there are no tables {missing}")
'
"$bots/python" -c "$prepare" "$@"
exec "$bots/bots-webserver" "-c$config"
