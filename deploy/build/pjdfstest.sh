#!/usr/bin/env bash
# The C suite of pjdfstest, whole, on a bucket of a grid of its own.
#
# usage: NEXUSGRID=program pjdfstest.sh CHECKOUT
#
# The suite is not part of this repository: give a checkout of github.com/pjd/pjdfstest. It is built in
# a copy. Needs root and /dev/fuse. Prints how many assertions were made, and those that failed, by file.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
source "$here/install.sh"

suite=$(realpath "${1:?"usage: NEXUSGRID=program pjdfstest.sh CHECKOUT"}")
nexusgrid=$(realpath "${NEXUSGRID:?"NEXUSGRID must name the program"}")
port=${PORT:-19000}
# Whoever makes fewer has left something out.
least=8700

[ "$(id -u)" -eq 0 ] || { echo "pjdfstest.sh: needs root" >&2; exit 2; }
[ -f "$suite/tests/misc.sh" ] || { echo "pjdfstest.sh: $suite is no checkout of pjdfstest" >&2; exit 2; }
apt_install autoconf automake build-essential perl openssl

copy="${XDG_CACHE_HOME:-$HOME/.cache}/nexusgrid/pjdfstest"
rm -rf "$copy"
mkdir -p "$copy"
tar -C "$suite" --exclude=.git -c . | tar -C "$copy" -x
if ! (cd "$copy" && autoreconf -ifs && ./configure && make -B pjdfstest) >"$copy/build.log" 2>&1; then
    cat "$copy/build.log" >&2
    exit 2
fi
# The suite asks less of a file system that it does not know.
echo 'fs=EXT4' >>"$copy/tests/conf"

work=$(mktemp -d)
# Sessions of their own: what interrupts this must not take the grid from under the mount.
grid= mount= run=
end() { # SESSION
    [ -z "$1" ] || { kill -KILL -- "-$1" && wait "$1"; } 2>/dev/null || true
}
finish() {
    local status=$?
    trap - EXIT
    trap '' INT TERM HUP
    cd /
    end "$run"
    if mountpoint -q "$work/mount"; then
        "$nexusgrid" umount "$work/mount" || umount -l "$work/mount" || true
    fi
    # Not asked: a grid that is only coming up does not listen.
    end "$mount"
    end "$grid"
    # Never into what is still mounted.
    rm -rf --one-file-system "$work"
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

setsid "$nexusgrid" demo --nodes 3 --dir "$work/grid" --source "$here" \
    --s3 "127.0.0.1:$port" --rpc-port $((port + 100)) >"$work/demo.out" 2>"$work/demo.log" &
grid=$!
until grep -q '^ready ' "$work/demo.out"; do
    if ! kill -0 "$grid" 2>/dev/null; then
        tail -n 5 "$work/demo.log" "$work"/grid/n*/agent.log >&2 || true
        exit 2
    fi
    sleep 0.2
done
export NEXUSGRID_DIR="$work/grid/n1"
"$nexusgrid" bucket create pjdfstest >&2
mkdir "$work/mount"
setsid "$nexusgrid" mount pjdfstest "$work/mount" -o suid,dev --foreground >"$work/mount.log" 2>&1 &
mount=$!
until mountpoint -q "$work/mount"; do
    kill -0 "$mount" 2>/dev/null || { cat "$work/mount.log" >&2; exit 2; }
    sleep 0.2
done
cd "$work/mount"

passed=true
setsid prove --nocolor -rv "$copy/tests" >"$copy/run.log" 2>&1 &
run=$!
# A signal ends this wait, and is heard at once.
wait "$run" || passed=false
run=

read -r files assertions < <(sed -nE 's/^Files=([0-9]+), Tests=([0-9]+),.*/\1 \2/p' "$copy/run.log") || true
failed=$(awk -v tests="$copy/tests/" '
    / \.\.+ *$/ && index($0, tests) == 1 { file = substr($1, length(tests) + 1) }
    /^not ok/ && !/# TODO/ { print file ": " $0 }' "$copy/run.log")
echo "${assertions:-0} assertions in ${files:-0} files, $(grep -c . <<<"$failed" || true) failed"
if ! $passed || [ -n "$failed" ]; then
    [ -z "$failed" ] || echo "$failed"
    # Files that ended early are only here.
    sed -n '/^Test Summary Report/,$p' "$copy/run.log"
    echo "all that was said: $copy/run.log" >&2
    exit 1
fi
if [ "${assertions:-0}" -lt "$least" ]; then
    echo "pjdfstest.sh: fewer than $least assertions: see $copy/run.log" >&2
    exit 1
fi
