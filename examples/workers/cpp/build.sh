#!/bin/sh
# Leaves OUT/tour and OUT/handle, in the folder of CMake's own build.
# Usage: build.sh [OUT]   (default: build)
set -eu
out=${1:-build}
cd "$(dirname "$0")"
cmake -S . -B "$out"
cmake --build "$out" --parallel 2
