"""Settings of Django for Bots 3.3.1 and 4.x: the template of the Bots in the image, then what differs here.

bots-ctl completes this file at every start, from the last line on: database, keys, host names, mail server, time zone and
directories come from the variables in its docs/configuration.md. Here is the place for what they do not cover.
"""

import os

import bots

_template = os.path.join(os.path.dirname(os.path.abspath(bots.__file__)), "install", "settings.py")
with open(_template, encoding="utf-8") as _source:
    exec(compile(_source.read(), _template, "exec"))

# >>> bots-ctl writes the lines from here to the end mark; yours stay above and below them >>>
