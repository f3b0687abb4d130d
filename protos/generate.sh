#!/bin/sh
# Generate the Python code of the contract beside its protos. The oldest grpcio-tools that we support makes it, because
# generated code sets the users' minimum version; it wants an older protobuf than we run on, so it has its own venv.
# Usage: generate.sh [OUTPUT_DIR]   (default: beside the protos)
set -eu
cd "$(dirname "$0")/.."
out=${1:-protos}
tools=.tools/grpcio-tools-1.76.0
[ -x "$tools/bin/python" ] || python3 -m venv "$tools"
"$tools/bin/python" -c 'import grpc_tools, mypy_protobuf' 2>/dev/null ||
    "$tools/bin/pip" install --quiet --disable-pip-version-check grpcio-tools==1.76.0 mypy-protobuf==3.7.0 setuptools
PATH="$PWD/$tools/bin:$PATH" "$tools/bin/python" -m grpc_tools.protoc -I protos \
    --python_out="$out" --grpc_python_out="$out" --mypy_out="$out" --mypy_grpc_out="$out" \
    gatecrew/v1/worker.proto gatecrew/v1/gateway.proto
