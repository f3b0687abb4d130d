#!/bin/sh
# Get the real Consuls that tests/registry runs against, into .tools/consul-<version>/consul.
#
#   get_consul.sh debian    1.8.7, from Debian's bullseye (amd64): one package, unpacked, not installed; seconds
#   get_consul.sh current   built with Go from the module that consul-build/go.mod names; minutes
#   get_consul.sh all       both
#
# What is already there is left alone. These are test tools: never committed, never shipped.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
tools=$(cd "$here/../.." && pwd)/.tools
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
    echo "get_consul.sh: $*" >&2
    exit 1
}

is_there() {
    if "$tools/consul-$1/consul" version >/dev/null 2>&1; then
        echo "$tools/consul-$1/consul is there"
    else
        return 1
    fi
}

# Run quietly; on failure say what was tried and the last line of what it said.
try() {
    what=$1
    shift
    "$@" >"$work/log" 2>&1 || fail "$what: $(tail -n 1 "$work/log")"
}

put_in_place() {
    mkdir -p "$tools/consul-$2"
    mv "$1" "$tools/consul-$2/consul"
    is_there "$2" || fail "$tools/consul-$2/consul does not run on this machine"
}

get_debian() {
    is_there 1.8.7 && return
    for needed in apt-get dpkg; do
        command -v $needed >/dev/null || fail "Consul 1.8.7 is a Debian package and $needed is not here"
    done
    # A package state of its own: the machine's sources, lists and packages stay as they are.
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/root"
    : >"$work/status"
    echo "deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]" \
        "${DEBIAN_MIRROR:-http://deb.debian.org/debian} bullseye main" >"$work/sources.list"
    cat >"$work/apt.conf" <<EOF
Dir::Etc::SourceList "$work/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::State "$work";
Dir::State::Lists "$work/lists";
Dir::State::status "$work/status";
Dir::Cache "$work/cache";
APT::Architecture "amd64";
APT::Sandbox::User "";
EOF
    export APT_CONFIG="$work/apt.conf"
    cd "$work"
    try "cannot read Debian's package lists" apt-get update --error-on=any
    try "cannot download Debian's package consul" apt-get download consul
    try "cannot unpack Debian's package consul" dpkg -x consul_*.deb root
    put_in_place root/usr/bin/consul 1.8.7
}

get_current() {
    version=$(sed -n 's/^.*github.com\/hashicorp\/consul v\([0-9.]*\).*$/\1/p' "$here/consul-build/go.mod")
    is_there "$version" && return
    command -v go >/dev/null || fail "Consul $version is built with Go and go is not here"
    cd "$here/consul-build"
    echo "building Consul $version, about five minutes on two cores"
    try "cannot build Consul $version" \
        nice go build -buildvcs=false -trimpath -ldflags "-s -w" -o "$work/consul" github.com/hashicorp/consul
    put_in_place "$work/consul" "$version"
}

case ${1:-} in
    debian) get_debian ;;
    current) get_current ;;
    all)
        get_debian
        get_current
        ;;
    *) fail "say which: debian, current or all" ;;
esac
