#!/usr/bin/env bash
# Passes every test on a Debian machine with Rust and Python: installs the packages the tests use, then runs them.
# Arguments go to the test runner: tests/run.sh health:: --skip workloads::
set -euo pipefail
cd "$(dirname "$0")/.."

# A package for every program the tests use.
missing=()
need() { command -v "$1" >/dev/null 2>&1 || missing+=("$2"); }
need cc gcc
need chromium chromium
need chromedriver chromium-driver
need unshare util-linux
need openssl openssl
need curl curl
need ip iproute2
# Tells what reaches the disk, and when.
need strace strace
# Counts instructions.
need valgrind valgrind
need /usr/sbin/pgbouncer pgbouncer
need bindfs bindfs
need fusermount3 fuse3
need /usr/sbin/mariadbd mariadb-server-core
need mariadb-dump mariadb-client
ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || missing+=(postgresql)
need psql postgresql-client
# For /metrics and the alerts; no server is started that is not ours.
need prometheus prometheus
# For the image and the pods; without root the tests that need them say so.
need podman podman
need runc runc
need catatonit catatonit
need debootstrap debootstrap
need iptables iptables
[ -x /usr/lib/podman/netavark ] || missing+=(netavark)
[ -x /usr/lib/podman/aardvark-dns ] || missing+=(aardvark-dns)
python3 -c 'import ensurepip, venv' >/dev/null 2>&1 || missing+=(python3-venv)
if [ -z "${BOTS_BIN_DIR:-}" ]; then
    # To build the driver for MariaDB, which has no wheel.
    need mariadb_config libmariadb-dev
    need pkg-config pkg-config
    headers='import os, sysconfig; exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))'
    python3 -c "$headers" >/dev/null 2>&1 || missing+=(python3-dev)
fi
if [ "${#missing[@]}" -gt 0 ]; then
    echo "installing: ${missing[*]}"
    as_root=()
    [ "$(id -u)" -eq 0 ] || as_root=(sudo)
    "${as_root[@]}" apt-get update -qq
    # Tests start servers of their own: this keeps Debian's scripts from starting one.
    policy=/usr/sbin/policy-rc.d
    [ -e "$policy" ] || {
        printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" install -m 755 /dev/stdin "$policy"
        trap '"${as_root[@]}" rm -f "$policy"' EXIT
    }
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}"
    [ -z "$(trap)" ] || { "${as_root[@]}" rm -f "$policy"; trap - EXIT; }
fi

# Real processes, browsers and databases: twice as many at once as there are cores and one more, since most of the tests mostly
# wait. What nohup and background jobs have ignored is what some tests send.
exec env --default-signal cargo test --locked --lib --test it -- --test-threads "$((2 * $(nproc) + 1))" "$@"
