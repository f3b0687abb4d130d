#!/bin/sh
# Generate the Python code of the contract beside its protos, with the dependency group `proto` of pyproject.toml, which
# has a venv of its own.
# Usage: generate.sh [OUTPUT_DIR]   (default: beside the protos)
set -eu
cd "$(dirname "$0")/.."
out=${1:-protos}
tools=.tools/grpcio-tools-1.76.0
[ -x "$tools/bin/python" ] || python3 -m venv "$tools"
if ! "$tools/bin/python" -c 'import grpc_tools, mypy_protobuf' 2>/dev/null; then
    "$tools/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1" # knows groups
    "$tools/bin/python" -m pip install --quiet --group proto
fi
PATH="$PWD/$tools/bin:$PATH" "$tools/bin/python" -m grpc_tools.protoc -I protos \
    --python_out="$out" --grpc_python_out="$out" --mypy_out="$out" --mypy_grpc_out="$out" \
    gatecrew/v1/worker.proto gatecrew/v1/gateway.proto
