#!/bin/sh
# Builds the reference workers: all whose toolchain is there, or those that are named, and then it must be there.
# Leaves .build/workers/LANGUAGE/tour and .../handle in the repository.
# Usage: build.sh [LANGUAGE...]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=$(cd "$here/../.." && pwd)/.build/workers

tool() {
    case $1 in
    python) echo "${PYTHON:-python3}" ;;
    go) echo go ;;
    java) echo mvn ;;
    node) echo npm ;;
    rust) echo cargo ;;
    cpp) echo grpc_cpp_plugin ;;
    *)
        echo "build.sh: no language $1: there are python, go, java, node, rust, cpp" >&2
        exit 2
        ;;
    esac
}

build() {
    echo "== $1"
    "$here/$1/build.sh" "$out/$1"
}

if [ $# -gt 0 ]; then
    for language; do
        needed=$(tool "$language")
        command -v "$needed" >/dev/null || {
            echo "build.sh: $language needs $needed, which is not there" >&2
            exit 1
        }
        build "$language"
    done
else
    for language in python go java node rust cpp; do
        needed=$(tool "$language")
        if command -v "$needed" >/dev/null; then build "$language"; else echo "== $language: SKIPPED, no $needed"; fi
    done
fi
