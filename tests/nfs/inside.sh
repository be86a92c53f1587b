#!/bin/bash
# The first program of the virtual machine of run.sh: serves a directory by NFS and CIFS, mounts it twice, as two machines would,
# runs shares.py on it, and switches the virtual machine off.
set -u
exec </dev/null >/dev/console 2>&1
trap 'sync; echo o >/proc/sysrq-trigger; sleep 60' EXIT
export HOME=/root LC_ALL=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

# NFS and Samba export /srv/share, ours is mounted at /client, that of the other machine at /other.
mkdir -p /srv/share /client /other

other_machine() { nsenter --net=/run/netns/other --uts=/run/other-name "$@"; }

# With another network and host name the kernel is another client of the server: it shares no cache and no lock with ours.
make_other_machine() {
    ip link set lo up
    ip netns add other
    ip link add to-other type veth peer name to-server netns other
    ip addr add 10.77.0.1/24 dev to-other
    ip link set to-other up
    ip netns exec other ip link set lo up
    ip netns exec other ip addr add 10.77.0.2/24 dev to-server
    ip netns exec other ip link set to-server up
    touch /run/other-name
    unshare --uts=/run/other-name hostname other
}

serve_nfs() {
    # Servers that have just been started need not wait for clients that had locks before. All networks share the socket of one
    # rpcbind, in which the lock daemon of the other machine would replace ours: with one port for all that does not matter.
    modprobe lockd nlm_grace_period=1 nlm_tcpport=4045 nlm_udpport=4045
    modprobe -a nfsd nfsv3 nfsv4
    mkdir -p /run/rpc_pipefs /var/lib/nfs/v4recovery
    mount -t rpc_pipefs rpc_pipefs /run/rpc_pipefs
    mount -t nfsd nfsd /proc/fs/nfsd
    echo '/srv/share *(rw,sync,no_subtree_check,no_root_squash)' >/etc/exports
    rpcbind -w
    rpc.statd
    exportfs -a
    rpc.nfsd 4
    rpc.mountd
    echo Y >/proc/fs/nfsd/v4_end_grace
    # Locks of NFS 3 need a status daemon at each client.
    other_machine unshare --mount sh -c 'mkdir -p /tmp/nfs/sm /tmp/nfs/sm.bak && chown -R statd /tmp/nfs &&
        mount -t tmpfs tmpfs /run && rpcbind -w && rpc.statd -P /tmp/nfs'
}

serve_cifs() {
    modprobe cifs
    mkdir -p /run/samba
    printf '[global]\nserver role = standalone server\n[share]\npath = /srv/share\nread only = no\n' >/etc/samba/smb.conf
    printf 'bots\nbots\n' | smbpasswd -s -a root >/dev/null
    smbd -D
}

until_done() {
    for _ in 1 2 3 4 5; do
        "$@" && return
    done
    return 1
}

mount_shares() {
    case $1 in
        nfs3 | nfs4)
            mount -t nfs -o "vers=${1#nfs}" 127.0.0.1:/srv/share /client &&
                other_machine mount -t nfs -o "vers=${1#nfs}" 10.77.0.1:/srv/share /other
            ;;
        cifs)
            # On a busy machine Samba may answer too late.
            until_done mount -t cifs -o username=root,password=bots //127.0.0.1/share /client &&
                until_done other_machine mount -t cifs -o username=root,password=bots //10.77.0.1/share /other
            ;;
    esac
}

mountpoint -q /proc || mount -t proc proc /proc
mountpoint -q /sys || mount -t sysfs sysfs /sys
mountpoint -q /run || mount -t tmpfs tmpfs /run
mountpoint -q /dev/shm || { mkdir -p /dev/shm && mount -t tmpfs tmpfs /dev/shm; }
mount -t tmpfs tmpfs /tmp
hostname server
make_other_machine
serve_nfs
serve_cifs
echo "kernel $(uname -r), $(dpkg-query -W -f '${Package} ${Version}  ' nfs-kernel-server samba), $(/mnt/bots-ctl --version)"

kinds=$(sed -E 's/.*kinds=([^ ]*).*/\1/; s/,/ /g' /proc/cmdline)
failed=
for kind in $kinds; do
    rm -rf /srv/share/* /srv/share/.[!.]*
    chmod 777 /srv/share
    if mount_shares "$kind"; then
        sed -nE "s#^[^ ]+ (/client|/other) ([^ ]+) ([^ ]+) .*#$kind: mounted \1: \2 \3#p" /proc/mounts
        python3 -u /mnt/shares.py "$kind" || failed="$failed $kind"
    else
        failed="$failed $kind"
    fi
    umount /client /other
done
if [ -z "$failed" ]; then echo 'tests/nfs: all is as it should be'; else echo "tests/nfs: failed:$failed"; fi
