#!/bin/sh
# Measures bots-ctl beside what it replaces or stands before, and prints one Markdown table. Takes about four minutes.
#
# Needs a Bots: that of BOTS_BIN_DIR, else the one in ~/.bots/venv, which the README's first command installs. Works in
# a temporary directory and on free ports, and leaves nothing behind. Compares with tini, dumb-init, wrk and ab where
# they are installed. BOTS_CTL_BIN names a binary to be measured instead of the one cargo makes; ROUNDS the number of
# starts (10).
set -eu
cd "$(dirname "$0")/../.."

bots="${BOTS_BIN_DIR:-$HOME/.bots/venv/bin}"
if [ ! -x "$bots/bots-webserver" ]; then
    echo "there is no bots-webserver in $bots: run 'cargo run --release -- install', or set BOTS_BIN_DIR" >&2
    exit 1
fi
if [ -z "${BOTS_CTL_BIN:-}" ]; then
    cargo build --release --locked
    BOTS_CTL_BIN="${CARGO_TARGET_DIR:-target}/release/bots-ctl"
fi
exec python3 -B tests/bench/bench.py --bots "$bots" --rounds "${ROUNDS:-10}" "$BOTS_CTL_BIN"
