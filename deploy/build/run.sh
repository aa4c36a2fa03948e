#!/usr/bin/env bash
# What the Makefile's targets do. Stages print how long they took.
set -euo pipefail
cd "$(dirname "$0")/../.."
source deploy/build/install.sh

# s3s declares a newer Rust than the oldest one we support, and builds on it.
cargo_flags=(--locked --ignore-rust-version)
stages=()

# A clean clone has nothing to build upon, and never comes back.
if [ -n "${CI:-}" ]; then
    export CARGO_INCREMENTAL=0
fi

stage() { # NAME COMMAND...
    local name=$1 start end
    shift
    echo "=== $name" >&2
    start=$(date +%s)
    if ! "$@"; then
        echo "=== $name: FAILED after $(($(date +%s) - start)) s" >&2
        exit 1
    fi
    end=$(date +%s)
    stages+=("$(printf '%-28s %5d s' "$name" $((end - start)))")
}

report() {
    echo "=== minutes of each stage" >&2
    printf '%s\n' "${stages[@]}" >&2
}

# Always the whole workspace: a part of it alone would resolve other features, and build all again.
build() { cargo build "${cargo_flags[@]}" --workspace --bins; }

verify() {
    stage "format" cargo fmt --all --check
    stage "lints" cargo clippy "${cargo_flags[@]}" --workspace --all-targets -- -D warnings
    stage "licences and sources" cargo deny --log-level error check bans licenses sources
    RUSTDOCFLAGS="-D warnings" stage "documentation" \
        cargo doc "${cargo_flags[@]}" --workspace --no-deps --quiet
}

# Many seeds, some at a time: what ends early is told where to go on.
simulate() { # NUMBER FIRST
    local at count end=$(($1 + $2)) failed=()
    for ((at = $2; at < end; at += count)); do
        count=$((end - at < 100 ? end - at : 100))
        echo "=== seeds $at to $((at + count - 1)); from here on: make sim ARGS=\"$((end - at)) $at\"" >&2
        NEXUSGRID_SIM_SEED=$at NEXUSGRID_SIM_SEEDS=$count cargo nextest run "${cargo_flags[@]}" \
            --workspace -E 'test(=simulation::seeds)' --no-capture || failed+=("$at")
    done
    if [ ${#failed[@]} -gt 0 ]; then
        echo "=== FAILED: some of the seeds from ${failed[*]} on; the output above names them" >&2
        exit 1
    fi
    echo "=== seeds $2 to $((end - 1)) held" >&2
}

case "${1:-}" in
build)
    install_build
    source deploy/build/env.sh
    build
    ;;
demo)
    shift
    install_build
    source deploy/build/env.sh
    build >&2
    exec "$CARGO_TARGET_DIR/debug/nexusgrid" demo "$@"
    ;;
verify)
    install_build
    install_checks
    source deploy/build/env.sh
    verify
    report
    ;;
test)
    stage "install" install_build
    stage "install test tools" install_checks
    stage "install clients" install_clients
    stage "RocksDB" deploy/build/rocksdb.sh >/dev/null
    source deploy/build/env.sh
    verify
    stage "build" cargo build "${cargo_flags[@]}" --workspace --all-targets
    stage "documentation tests" cargo test "${cargo_flags[@]}" --workspace --doc --quiet
    stage "tests" cargo nextest run "${cargo_flags[@]}" --workspace --no-fail-fast --final-status-level flaky
    report
    echo "=== seconds of each test binary, two at a time; the slowest tests" >&2
    # nextest keeps its reports in the clone, wherever cargo builds.
    report=target/nextest/default/junit.xml
    if [ -f "$report" ]; then python3 tests/times.py "$report" >&2; fi
    ;;
sim)
    install_build
    install_checks
    source deploy/build/env.sh
    simulate "${2:-10000}" "${3:-1}"
    ;;
soak)
    install_build
    install_checks
    install_clients
    install_soak
    source deploy/build/env.sh
    NEXUSGRID_SOAK_ROUNDS="${2:-200}" cargo nextest run "${cargo_flags[@]}" --workspace --ignore-default-filter -E 'test(/::soak_/)' --no-capture
    ;;
bench)
    install_build
    source deploy/build/env.sh
    shift
    cargo build "${cargo_flags[@]}" --workspace --all-targets >&2
    # Limits of this machine, codec and transport first; then a whole grid.
    for limit in aead_bench coding_bench transport_bench; do
        "$CARGO_TARGET_DIR/debug/examples/$limit"
    done
    exec "$CARGO_TARGET_DIR/debug/nexusgrid-bench" "$@"
    ;;
bench-bucket)
    install_build
    source deploy/build/env.sh
    cargo build "${cargo_flags[@]}" --workspace --bins >&2
    exec "$CARGO_TARGET_DIR/debug/nexusgrid-bench" --only bucket --objects "${2:-1000000}"
    ;;
bench-compare)
    old=$(git rev-parse --verify "${2:?"make bench-compare OLD=a commit"}^{commit}")
    shift 2
    install_build
    source deploy/build/env.sh
    cargo build "${cargo_flags[@]}" --workspace --bins >&2
    # The other commit has a tree and a target directory of its own; what is not ours is not built again.
    target=$CARGO_TARGET_DIR place=$(dirname "$CARGO_TARGET_DIR")/compare
    mkdir -p "$place/target/debug/deps" "$place/old" "$place/new"
    [ -d "$place/tree" ] || git clone --quiet --shared --no-checkout . "$place/tree"
    git -C "$place/tree" checkout --quiet --force "$old"
    for dir in build .fingerprint; do
        cp -r --no-clobber --preserve=timestamps "$target/debug/$dir" "$place/target/debug/"
    done
    find "$target/debug/deps" -maxdepth 1 -type f ! -name '*nexusgrid*' \
        \( -name '*.rlib' -o -name '*.rmeta' -o -name '*.so' -o -name '*.d' \) \
        -exec cp --no-clobber --preserve=timestamps -t "$place/target/debug/deps" {} +
    (cd "$place/tree" && CARGO_TARGET_DIR=$place/target cargo build "${cargo_flags[@]}" --workspace --bins) >&2
    cp "$place/target/debug/nexusgrid" "$place/old/"
    cp "$target/debug/nexusgrid" "$place/new/"
    for build in old new; do
        cp "$target"/debug/{nexusgrid-bench,faultdisk} "$place/$build/"
    done
    exec python3 tests/bench/compare.py "$place/old" "$place/new" "$@"
    ;;
conformance)
    suite=${2:?"make conformance ARGS=/path/to/a/checkout/of/ceph/s3-tests"}
    install_build
    source deploy/build/env.sh
    build >&2
    exec python3 tests/conformance/run.py --suite "$suite" --report docs/s3-conformance.md \
        --nexusgrid "$CARGO_TARGET_DIR/debug/nexusgrid"
    ;;
pjdfstest)
    suite=${2:?"make pjdfstest ARGS=/path/to/a/checkout/of/pjd/pjdfstest"}
    install_build
    source deploy/build/env.sh
    build >&2
    export NEXUSGRID="$CARGO_TARGET_DIR/debug/nexusgrid"
    exec deploy/build/pjdfstest.sh "$suite"
    ;;
fix)
    install_build
    source deploy/build/env.sh
    cargo clippy "${cargo_flags[@]}" --workspace --all-targets --fix --allow-dirty --allow-staged
    cargo fmt --all
    ;;
*)
    echo "usage: run.sh build|demo|test|verify|sim|soak|bench|bench-bucket|bench-compare|conformance|pjdfstest|fix" >&2
    exit 2
    ;;
esac
