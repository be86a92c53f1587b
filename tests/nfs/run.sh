#!/usr/bin/env bash
# Runs bots-ctl on real NFS 3, NFS 4 and CIFS, in a virtual machine that is Debian's User Mode Linux, and prints what was seen.
#   tests/nfs/run.sh [KIND...]    KIND: nfs3, nfs4 or cifs; all of them by default
# Needs root, gcc and the package mmdebstrap. BOTS_CTL_BIN names another binary than target/debug/bots-ctl. All files are below
# target/nfs. The first run makes the image, in some minutes; each kind takes five more.
set -euo pipefail
cd "$(dirname "$0")/../.."

work=target/nfs
root=$work/root
log=$work/image.log
console=$work/console.log
# For the whole life of the virtual machine.
limit=60m
packages=user-mode-linux,nfs-kernel-server,samba,cifs-utils,iproute2,kmod,ca-certificates,python3,python3-venv

fail() {
    echo "tests/nfs/run.sh: $1" >&2
    exit 64
}

in_image() {
    env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin PIP_CERT=/etc/ssl/certs/ca-certificates.crt BOTS_CTL_INSTALL_DIR=/opt/bots \
        unshare --mount sh -c 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"' "$root" "$@"
}

# Debian, its servers and clients of shares, and Bots.
make_root() {
    local mirror
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' | head -n 1)
    mmdebstrap --mode=root --variant=minbase --dpkgopt=force-unsafe-io --include="$packages" bookworm "$root" \
        "${mirror:?apt knows no mirror of Debian bookworm}"
    # What this machine needs to reach its package registries.
    cp /etc/resolv.conf /etc/hosts "$root/etc/"
    cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
    [ ! -e /etc/pip.conf ] || cp /etc/pip.conf "$root/etc/"
    install "$binary" "$root/usr/bin/bots-ctl"
    in_image bots-ctl install
    rm "$root/usr/bin/bots-ctl"
    ln -s uml/modules "$root/lib/modules"
    # The first program of the virtual machine. All that differs between runs is in a directory of this machine.
    printf '#!/bin/sh\nmount -t hostfs -o ro none /mnt\nexec /mnt/inside.sh\n' | install -m 755 /dev/stdin "$root/sbin/inside"
}

make_image() {
    rm -rf "$root"
    make_root
    cp "$root/usr/bin/linux.uml" "$work/"
    rm -f "$work/root.img"
    truncate -s 4G "$work/root.img"
    mkfs.ext4 -q -F -d "$root" "$work/root.img"
    rm -rf "$root"
}

[ "$(id -u)" -eq 0 ] || fail 'the image can be made by root alone: sudo tests/nfs/run.sh'
for command in cc mmdebstrap mkfs.ext4; do
    command -v "$command" >/dev/null || fail "cannot find $command: apt-get install gcc mmdebstrap e2fsprogs"
done
binary=${BOTS_CTL_BIN:-target/debug/bots-ctl}
[ -x "$binary" ] || fail "cannot find $binary: run cargo build"
kinds=${*:-nfs3 nfs4 cifs}
for kind in $kinds; do
    case $kind in nfs3 | nfs4 | cifs) ;; *) fail "$kind is no kind of share: nfs3, nfs4 or cifs" ;; esac
done

mkdir -p "$work"
stamp=$({ declare -f make_image make_root in_image; echo "$packages"; } | sha256sum)
if [ "$(cat "$work/complete" 2>/dev/null)" != "$stamp" ]; then
    rm -f "$work/complete"
    echo "making the image"
    # In the background, since errexit has no effect in what is left of `||`.
    make_image >"$log" 2>&1 &
    wait "$!" || fail "cannot make the image: see $log"
    echo "$stamp" > "$work/complete"
fi

rm -rf "$work/run" "$work/root.cow"
mkdir "$work/run"
cp -r tests/nfs/inside.sh tests/nfs/shares.py tests/fixtures/demo "$work/run/"
cp -r src/plugin/demo/usersys "$work/run/demo/"
strip -o "$work/run/bots-ctl" "$binary"
cc -O2 -shared -fPIC -o "$work/xstate.so" tests/nfs/xstate.c

# What the virtual machine writes to its disk goes into root.cow. Its memory is a file, which is slow on a disk.
: > "$console"
memory=/dev/shm
[ "$(df --output=avail -B1M "$memory" 2>/dev/null | tail -n 1)" -ge 2048 ] || memory=$work
TMPDIR=$memory LD_PRELOAD=$PWD/$work/xstate.so timeout "$limit" "$work/linux.uml" mem=2G "uml_dir=$PWD/$work/uml" \
    "ubd0=$work/root.cow,$work/root.img" root=/dev/ubda rw "hostfs=$PWD/$work/run" con0=null,fd:1 con=null ssl=null quiet \
    init=/sbin/inside "kinds=${kinds// /,}" >>"$console" 2>&1 </dev/null &
machine=$!
trap 'kill "$machine" 2>/dev/null' EXIT
tail -f --pid="$machine" "$console"
wait "$machine" || fail "the virtual machine did not end by itself: see $console"
trap - EXIT
tr -d '\r' < "$console" | grep -qx 'tests/nfs: all is as it should be' || {
    echo "tests/nfs/run.sh: not all is as it should be: see $console" >&2
    exit 1
}
