#!/usr/bin/env bash
# Builds bots-ctl and runs its tests. With --help it says how.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'USAGE'
Usage: tests/run.sh [--all [--yes] | --image [--yes] | --unit] [FILTER...] [--skip FILTER] [--exact]

Without an option: the unit tests, and each integration test that this machine allows, on SQLite with a real Bots.
Needs Rust, gcc, Python and venv, installs no package, and changes nothing outside of this checkout.

  --unit     The unit tests alone
  --all      Every test but those of the image, on MariaDB and PostgreSQL too; needs root, and asks before it installs
             the Debian packages that are missing
  --image    As --all, and the tests of the container image, which it builds
  --yes      Install without asking
  FILTER     Tests whose names contain it: tests/run.sh health:: --skip browser
  --list, --slowest, --test-threads N
             Print the names, or the ten slowest tests; run N tests at once at the most
USAGE
}

fail() {
    echo "tests/run.sh: $1" >&2
    exit 64
}

scope=default
yes=
arguments=()
for argument in "$@"; do
    case $argument in
        --help | -h) usage; exit 0 ;;
        --unit) scope=unit ;;
        --all | --image) scope=${argument#--}; arguments+=("$argument") ;;
        --yes) yes=1 ;;
        --skip | --skip=* | --exact | --list | --slowest | --test-threads | --test-threads=*) arguments+=("$argument") ;;
        -*) fail "unknown option $argument: tests/run.sh --help lists them" ;;
        *) arguments+=("$argument") ;;
    esac
done

command -v cargo >/dev/null || fail 'cannot find cargo: install Rust, see https://rustup.rs'
command -v cc >/dev/null || fail 'cannot find a C compiler: apt-get install gcc'
has_venv() { python3 -c 'import ensurepip, venv' >/dev/null 2>&1; }

# The Debian packages of --all that are missing.
missing_packages() {
    need() { command -v "$1" >/dev/null 2>&1 || echo "$2"; }
    has_venv || echo python3-venv
    need chromium chromium
    need chromedriver chromium-driver
    need openssl openssl
    need curl curl
    need git git
    need ip iproute2
    need strace strace
    need valgrind valgrind
    need /usr/sbin/pgbouncer pgbouncer
    need bindfs bindfs
    need fusermount3 fuse3
    need /usr/sbin/mariadbd mariadb-server-core
    need mariadb-dump mariadb-client
    ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || echo postgresql
    need psql postgresql-client
    need prometheus prometheus
    # The driver for MariaDB has no wheel and is compiled.
    need mariadb_config libmariadb-dev
    need pkg-config pkg-config
    local headers='import os, sysconfig; exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))'
    python3 -c "$headers" >/dev/null 2>&1 || echo python3-dev
    [ "$scope" = image ] || return 0
    need podman podman
    python3 -c 'import fusepy' 2>/dev/null || echo python3-fusepy
    need runc runc
    need catatonit catatonit
    need debootstrap debootstrap
    need iptables iptables
    [ -x /usr/lib/podman/netavark ] || echo netavark
    [ -x /usr/lib/podman/aardvark-dns ] || echo aardvark-dns
}

# Everything that makes a service start with the machine.
enabled_services() {
    find /etc/systemd /etc/rc?.d -type l 2>/dev/null | sort
}

# Installs packages without starting or enabling a service: the tests start servers of their own.
install_packages() {
    echo "apt-get install --no-install-recommends $*"
    echo "installs the servers, the browser and the tools that the tests use; no service is started or enabled."
    if [ -z "$yes" ]; then
        [ -t 0 ] || fail 'cannot ask whether to install them: standard input is no terminal; add --yes'
        read -r -p 'Install them? [y/N] ' answer
        [ "$answer" = y ] || [ "$answer" = Y ] || fail 'not installed, as you wish; nothing was run'
    fi
    local before
    # Not local: the trap may run after this function.
    policy=/usr/sbin/policy-rc.d
    before=$(enabled_services)
    if [ ! -e "$policy" ]; then
        # invoke-rc.d(8): with 101 no script of a package starts its service.
        printf '#!/bin/sh\nexit 101\n' | install -m 755 /dev/stdin "$policy"
        trap 'rm -f "$policy"' EXIT
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
    comm -13 <(echo "$before") <(enabled_services) | xargs -r rm -f
    [ -z "$(trap -p EXIT)" ] || { rm -f "$policy"; trap - EXIT; }
}

if [ "$scope" = all ] || [ "$scope" = image ]; then
    [ "$(id -u)" -eq 0 ] || fail "--$scope needs root, for packages and namespaces: sudo env \"PATH=\$PATH\" tests/run.sh --$scope"
    mapfile -t packages < <(missing_packages)
    [ "${#packages[@]}" -eq 0 ] || install_packages "${packages[@]}"
    # Files that root makes belong to the owner of the checkout, except the layers of images, which the next run uses again.
    owner=$(stat -c %u:%g .)
    trap 'find target -path target/tmp/podman -prune -o -exec chown -h "$owner" {} +' EXIT
fi

has_venv || fail 'cannot find Python with venv: apt-get install python3-venv'

# What nohup and background jobs have ignored is what some tests send.
run() { env --default-signal cargo test --locked "$@"; }

case " ${arguments[*]-} " in
    *' --list '*) run --quiet --test it -- "${arguments[@]}"; exit ;;
esac
filters=()
for argument in ${arguments[@]+"${arguments[@]}"}; do
    case $argument in --all | --image | --slowest) ;; *) filters+=("$argument") ;; esac
done
targets=(--lib --test it)
[ "$scope" != unit ] || targets=(--lib)
run --no-run "${targets[@]}"
units=$(mktemp)
run --quiet --lib -- ${filters[@]+"${filters[@]}"} | tee "$units" || { rm "$units"; exit 101; }
passed=$(sed -nE 's/^test result: ok\. ([0-9]+) passed.*/\1/p' "$units")
rm "$units"
[ "$scope" != unit ] || exit 0
run --quiet --test it -- --passed-before "$passed" ${arguments[@]+"${arguments[@]}"}
