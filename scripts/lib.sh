# shellcheck shell=bash
# What the scripts share: places, messages, system packages, a file's lock. Sourced, not run.

set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Everything that is fetched or built and can be made again lives here, outside of the clone.
export TIDELAKE_CACHE=${TIDELAKE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tidelake}
# One target folder for all scripts, so that a demo after a test does not start from nothing.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$TIDELAKE_CACHE/target}
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto}

mkdir -p "$TIDELAKE_CACHE"
# rustup installs cargo here; a shell that has not been restarted does not know yet.
if ! command -v cargo >/dev/null && [ -x "$HOME/.cargo/bin/cargo" ]; then
    PATH=$HOME/.cargo/bin:$PATH
fi

say() { printf '\033[1m==> %s\033[0m\n' "$*" | plain >&2; }
warn() { printf '\033[33m!!  %s\033[0m\n' "$*" | plain >&2; }
die() {
    printf '\033[31merror: %s\033[0m\n' "$*" | plain >&2
    exit 1
}
# Colors are for terminals.
plain() {
    if [ -t 2 ] && [ -z "${NO_COLOR:-}" ]; then cat; else sed 's/\x1b\[[0-9;]*m//g'; fi
}

# need_packages PACKAGE…: installs the Debian packages that are missing, or says the line that does.
need_packages() {
    local missing=() package
    command -v dpkg-query >/dev/null || {
        warn "not Debian or Ubuntu: make sure of $* yourself"
        return 0
    }
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
            missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    local sudo=()
    if [ "$(id -u)" -ne 0 ]; then
        if command -v sudo >/dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
            sudo=(sudo)
        else
            die "missing packages; run: sudo apt-get update && sudo apt-get install -y ${missing[*]}"
        fi
    fi
    say "installing ${missing[*]}"
    # An old list finds nothing; a failed refresh is only a failure if the installation then is.
    "${sudo[@]}" apt-get update -qq >&2 || warn "apt-get update failed; trying with the list there is"
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2 </dev/null ||
        die "could not install; run: apt-get update && apt-get install -y ${missing[*]}"
}

# What building takes: a C toolchain and OpenSSL's headers for librdkafka.
need_build_tools() {
    command -v cargo >/dev/null || die "cargo is missing: install Rust with rustup"
    need_packages build-essential pkg-config libssl-dev
}

# quietly WHAT COMMAND…: keeps the output to itself unless the command fails.
quietly() {
    local what=$1 log status=0
    shift
    log=$(mktemp)
    "$@" >"$log" 2>&1 </dev/null || status=$?
    if [ $status -ne 0 ]; then
        tail -n 40 "$log" >&2
        rm -f "$log"
        die "$what failed (exit $status)"
    fi
    rm -f "$log"
}
