#!/usr/bin/env bash
# Runs bots-ctl on real NFS 3, NFS 4 and CIFS, in a virtual machine with Debian's kernel, and prints what was seen.
#   tests/nfs/run.sh [KIND...]    KIND: nfs3, nfs4 or cifs; all of them by default
# Needs root and the packages qemu-system-x86 and mmdebstrap. BOTS_CTL_BIN names another binary than target/debug/bots-ctl. All
# files are below target/nfs. The first run makes the image, in some minutes; the processor is emulated, so each kind takes five more.
set -euo pipefail
cd "$(dirname "$0")/../.."

work=target/nfs
root=$work/root
log=$work/image.log
serial=$work/serial.log
# For the whole life of the virtual machine.
limit=90m
packages=linux-image-cloud-amd64,nfs-kernel-server,samba,cifs-utils,iproute2,kmod,ca-certificates,python3,python3-venv

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
    # The first program of the virtual machine. All that differs between runs is on the second disk.
    printf '#!/bin/sh\nmount -t devtmpfs devtmpfs /dev\nmount -o ro /dev/nvme1n1 /mnt\nexec /mnt/inside.sh\n' |
        install -m 755 /dev/stdin "$root/sbin/inside"
}

make_disk() {
    local directory=$1 image=$2 size=$3
    rm -f "$image"
    truncate -s "$size" "$image"
    mkfs.ext4 -q -F -d "$directory" "$image"
}

make_image() {
    rm -rf "$root"
    make_root
    cp "$root"/boot/vmlinuz-* "$work/vmlinuz"
    make_disk "$root" "$work/root.img" 4G
    rm -rf "$root"
}

[ "$(id -u)" -eq 0 ] || fail 'the image can be made by root alone: sudo tests/nfs/run.sh'
for command in qemu-system-x86_64 mmdebstrap mkfs.ext4; do
    command -v "$command" >/dev/null || fail "cannot find $command: apt-get install qemu-system-x86 mmdebstrap e2fsprogs"
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

rm -rf "$work/second"
mkdir "$work/second"
cp -r tests/nfs/inside.sh tests/nfs/shares.py tests/fixtures/demo "$work/second/"
strip -o "$work/second/bots-ctl" "$binary"
make_disk "$work/second" "$work/second.img" 256M

# Debian's cloud kernel has NVMe and ext4 built in, so it needs no initial RAM disk. Its check of timers fails where the emulated
# ones are late. What the virtual machine writes is dropped.
: > "$serial"
TMPDIR=$work timeout "$limit" qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 2G -nodefaults -display none -no-reboot \
    -kernel "$work/vmlinuz" \
    -append "root=/dev/nvme0n1 rw console=ttyS0 quiet panic=-1 no_timer_check init=/sbin/inside kinds=${kinds// /,}" \
    -drive "file=$work/root.img,format=raw,if=none,id=root,snapshot=on" -device nvme,drive=root,serial=root \
    -drive "file=$work/second.img,format=raw,if=none,id=second,snapshot=on" -device nvme,drive=second,serial=second \
    -serial "file:$serial" &
machine=$!
trap 'kill "$machine" 2>/dev/null' EXIT
tail -f --pid="$machine" "$serial"
wait "$machine" || fail "the virtual machine did not end by itself: see $serial"
trap - EXIT
tr -d '\r' < "$serial" | grep -qx 'tests/nfs: all is as it should be' || {
    echo "tests/nfs/run.sh: not all is as it should be: see $serial" >&2
    exit 1
}
