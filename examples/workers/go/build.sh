#!/bin/sh
# Leaves OUT/tour and OUT/handle. Usage: build.sh [OUT]   (default: build)
set -eu
out=${1:-build}
cd "$(dirname "$0")"
go generate .
go build -o "$out/tour" .
go build -o "$out/handle" ./handle
