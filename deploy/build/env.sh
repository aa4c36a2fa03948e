# Sourced by the Makefile's recipes and by developers' shells: where build output lives.
# Usage: . deploy/build/env.sh
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/nexusgrid/target}"
ROCKSDB_LIB_DIR="$("$(dirname "${BASH_SOURCE[0]}")/rocksdb.sh")"
export ROCKSDB_LIB_DIR ROCKSDB_STATIC=1
