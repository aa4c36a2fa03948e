#!/usr/bin/env bash
# Builds RocksDB's static library once and keeps it outside the clone.
#
# RocksDB's C++ takes about 45 minutes of CPU, and cargo would build it again for
# every profile, flag set and target directory. A kept librocksdb.a links in seconds.
# Prints the directory that holds it; `make` hands that to cargo as ROCKSDB_LIB_DIR.
set -euo pipefail

# Must be the librocksdb-sys that Cargo.lock names: checked below.
sys_version="0.19.0+11.8.1"
here=$(cd "$(dirname "$0")" && pwd)
lock="$here/../../Cargo.lock"
if [ -f "$lock" ] && ! grep -A1 -F 'name = "librocksdb-sys"' "$lock" | grep -qF "\"$sys_version\""; then
    echo "rocksdb.sh: Cargo.lock names another librocksdb-sys than $sys_version; update sys_version" >&2
    exit 1
fi

cache="${XDG_CACHE_HOME:-$HOME/.cache}/nexusgrid/rocksdb-${sys_version/+/-}-$(uname -m)"
if [ -s "$cache/librocksdb.a" ]; then
    echo "$cache"
    exit 0
fi
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
if [ -s "$cache/librocksdb.a" ]; then
    echo "$cache"
    exit 0
fi

work="$cache/build"
mkdir -p "$work/src"
cat >"$work/Cargo.toml" <<TOML
[package]
name = "rocksdb-cache"
version = "0.0.0"
edition = "2021"
publish = false
[dependencies]
librocksdb-sys = { version = "=$sys_version", default-features = false, features = ["bindgen-runtime", "lz4"] }
[profile.release]
opt-level = 3
debug = false
[workspace]
TOML
echo 'extern crate librocksdb_sys;' >"$work/src/lib.rs"
echo "rocksdb.sh: building RocksDB once (about 25 minutes on two cores) into $cache" >&2
start=$(date +%s)
# Flags of the surrounding workspace are for Rust code; they must not reach this build.
(cd "$work" && env -u ROCKSDB_LIB_DIR -u ROCKSDB_STATIC RUSTFLAGS= CARGO_TARGET_DIR="$work/target" \
    cargo build --release --quiet >&2)
library=$(find "$work/target/release/build" -name librocksdb.a -size +1M | head -n 1)
[ -n "$library" ] || { echo "rocksdb.sh: the build left no librocksdb.a" >&2; exit 1; }
cp "$library" "$cache/librocksdb.a.new"
sync -f "$cache/librocksdb.a.new"
mv "$cache/librocksdb.a.new" "$cache/librocksdb.a"
rm -rf "$work"
echo "rocksdb.sh: built in $(( $(date +%s) - start )) s" >&2
echo "$cache"
