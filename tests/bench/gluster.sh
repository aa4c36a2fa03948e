#!/usr/bin/env bash
# A GlusterFS volume of the same shape as our grid, 4+2 fragments, on this machine, to measure our mount beside it:
#
#   tests/bench/gluster.sh up DIR       installs GlusterFS from Debian, makes the volume and mounts it at DIR
#   make bench ARGS="--only mount --also-mounted gluster=DIR"
#   tests/bench/gluster.sh down DIR     unmounts it, ends its processes, removes the volume with its bricks, and DIR
#
# Both can be repeated; both need root.
# Settings are those of the package: GlusterFS is measured as it comes.
# Only its logs and sockets are not in a directory of its own: they are in /var/log/glusterfs and /run/gluster.
set -euo pipefail

base=/var/lib/nexusgrid-gluster
volume=beside

gluster() { command gluster --mode=script "$@"; }

mounted() { findmnt --noheadings --mountpoint "$dir" >/dev/null; }

# Ours are those that a pid file of ours names: glusterd, the six bricks and the daemon that heals.
# A pid file may be older than this boot, so the process must name our directory too.
processes() {
    local file pid
    for file in "$base"/run/*.pid "$base"/run/*/*/*.pid; do
        if [ -s "$file" ] && pid=$(<"$file") && grep -qsF "$base/" "/proc/$pid/cmdline"; then echo "$pid"; fi
    done
}
ended() { [ -z "$(processes)" ]; }

answers() { gluster pool list >/dev/null 2>&1; }
exists() { gluster volume info "$volume" >/dev/null 2>&1; }
# Six bricks and the daemon that heals.
serves() { [ "$(gluster volume status "$volume" --xml | grep -c '<status>1</status>')" = 7 ]; }

wait_until() { # COMMAND
    local _
    for _ in {1..150}; do
        if "$1"; then return 0; fi
        sleep 0.2
    done
    echo "not within 30 s: $1" >&2
    return 1
}

up() {
    local host bricks
    source "$(dirname "$0")/../../deploy/build/install.sh"
    apt_install glusterfs-server glusterfs-client
    mounted || mkdir -p "$dir"
    mkdir -p "$base"/{state,run} "$base"/bricks/{1..6}
    if ! answers; then
        sed "s|option working-directory .*|option working-directory $base/state\n    option run-directory $base/run|" \
            /etc/glusterfs/glusterd.vol >"$base/glusterd.vol"
        glusterd --volfile="$base/glusterd.vol" --pid-file="$base/run/glusterd.pid"
    elif ended; then
        echo "another glusterd runs on this machine, and there can be only one" >&2
        return 1
    fi
    wait_until answers
    # An address, since glusterd refuses loopback and a machine's own name may resolve to that.
    read -r host _ < <(hostname -I)
    if ! exists; then
        bricks=("$host:$base/bricks/"{1..6})
        # Forced, for bricks on the root file system and all on one machine.
        gluster volume create "$volume" disperse 6 redundancy 2 "${bricks[@]}" force
    fi
    # Forced, for a volume that was started before: then what has died is started.
    gluster volume start "$volume" force
    wait_until serves
    # A mount whose process has died only answers with an error.
    if mounted && ! df "$dir" >/dev/null 2>&1; then umount "$dir"; fi
    mounted || mount -t glusterfs "$host:/$volume" "$dir"
    df -h "$dir"
}

down() {
    local pids
    if mounted; then umount "$dir"; fi
    if ! ended && answers && exists; then
        gluster volume stop "$volume" force
        gluster volume delete "$volume"
    fi
    mapfile -t pids < <(processes)
    # Some of them may have ended meanwhile.
    [ ${#pids[@]} -eq 0 ] || kill "${pids[@]}" 2>/dev/null || true
    wait_until ended
    rm -rf "$base"
    # Without DIR the bench cannot take the local disk for the volume.
    if [ -d "$dir" ]; then rmdir "$dir"; fi
}

case "${1:-}:${2:+dir}" in
up:dir | down:dir)
    dir=$(realpath -m "$2")
    "$1"
    ;;
*)
    echo "usage: gluster.sh up|down DIR" >&2
    exit 2
    ;;
esac
