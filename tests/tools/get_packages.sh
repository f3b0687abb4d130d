#!/bin/sh
# Install what tests need beside what a developer's machine has (python3, make, git, curl, openssl, and the toolchains
# go, java with mvn, node with npm, cargo). Debian, as root.
#
#   get_packages.sh
set -eu

# gRPC for C++; a browser for the Consul UI; hosts made of network namespaces.
cpp="cmake g++ libgrpc++-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc"
browser="chromium chromium-driver"
hosts="iproute2 iptables"

missing=
for package in $cpp $browser $hosts; do
    dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
[ "$(id -u)" = 0 ] || {
    echo "get_packages.sh: only root can install:$missing" >&2
    exit 1
}
echo "installing$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086  # a list of words
apt-get install -y -qq --no-install-recommends $missing >/dev/null
