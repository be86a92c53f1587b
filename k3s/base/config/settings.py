"""Settings of Django for Bots 3.3.1 and 4.x: the template of the Bots in the image, then what differs here.

bots-ctl completes this file at every start, from the last line on: database, keys, host names, time zone and directories
come from the variables in its docs/configuration.md. Here is only what they do not cover.
"""

import os

import bots

_template = os.path.join(os.path.dirname(os.path.abspath(bots.__file__)), "install", "settings.py")
with open(_template, encoding="utf-8") as _source:
    exec(compile(_source.read(), _template, "exec"))

# Error reports by mail, where [settings] sendreportiferror in bots.ini is True.
if os.environ.get("ADMIN_EMAIL"):
    MANAGERS = (("admin", os.environ["ADMIN_EMAIL"]),)
    SERVER_EMAIL = os.environ.get("SERVER_EMAIL") or os.environ["ADMIN_EMAIL"]
if os.environ.get("EMAIL_HOST"):
    EMAIL_HOST = os.environ["EMAIL_HOST"]
    EMAIL_PORT = int(os.environ.get("EMAIL_PORT") or 25)
    EMAIL_USE_TLS = os.environ.get("EMAIL_USE_TLS", "").lower() == "true"
    EMAIL_HOST_USER = os.environ.get("EMAIL_HOST_USER", "")

# >>> bots-ctl: made anew at every start; changes below this line are lost >>>
