# Installs what the recipes need and the machine misses. Sourced by run.sh; every function is quick
# when nothing is missing.

apt_install() { # PACKAGE...
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    echo "installing ${missing[*]}" >&2
    local as_root=()
    [ "$(id -u)" -eq 0 ] || as_root=(sudo)
    "${as_root[@]}" apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# A C++ compiler and libclang for RocksDB; Rust itself.
install_build() {
    apt_install build-essential clang libclang-dev ca-certificates git
    if ! command -v cargo >/dev/null; then
        apt_install rustup
        rustup default stable
    fi
}

# What `verify` and the test runner need.
install_checks() {
    command -v cargo-nextest >/dev/null || cargo install --quiet --locked --debug cargo-nextest
    command -v cargo-deny >/dev/null || cargo install --quiet --locked --debug cargo-deny
    command -v pjdfstest >/dev/null || cargo install --quiet --locked --debug pjdfstest --version 0.2.2
    command -v fsx >/dev/null || cargo install --quiet --locked --debug fsx --version 0.3.2
    rustup component add clippy rustfmt 2>/dev/null >&2 || true
}

# Real S3 clients, and programs that work on a mount. Debian's AWS CLI and boto3 are too old for modern checksums.
client_env="${XDG_CACHE_HOME:-$HOME/.cache}/nexusgrid/clients"
install_clients() {
    apt_install restic rclone python3-venv s3cmd nats-server curl iproute2 rsync acl
    if [ ! -x "$client_env/bin/aws" ] || [ ! -x "$client_env/bin/pytest" ]; then
        python3 -m venv "$client_env"
        "$client_env/bin/pip" install --quiet awscli 'boto3[crt]' pytest
    fi
    # An OpenID Connect provider to log in at.
    if [ ! -d "$client_env/node_modules/oidc-provider" ]; then
        command -v npm >/dev/null || apt_install nodejs npm
        npm install --silent --no-audit --no-fund --prefix "$client_env" oidc-provider@8
    fi
}

# What only long forms need.
install_soak() {
    apt_install postgresql
}
