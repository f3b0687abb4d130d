#!/bin/sh
# Leaves OUT/tour and OUT/handle. Usage: build.sh [OUT]   (default: build)
set -eu
out=${1:-build}
cd "$(dirname "$0")"
cargo build --release --locked --quiet
mkdir -p "$out"
# Beside and then over: a worker that runs from there goes on.
for program in tour handle; do
    cp "target/release/$program" "$out/$program.new"
    mv "$out/$program.new" "$out/$program"
done
