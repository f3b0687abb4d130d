#!/bin/sh
# Get all that tests/deploy needs: an engine that runs, `docker compose`, and the base images.
#
#   get_docker.sh
#
# Debian, as root. The images are pulled. On a machine that cannot pull images, stand-ins are made for them: Debian by
# debootstrap with its Python and this machine's CA certificates and pip settings, tagged as python, and the same with
# this machine's Go, and with the Consul of get_consul.sh. Docker Compose is built with Go where no package has it.
# What is already there is left alone. These are test tools: never committed, never shipped.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
tools=$root/.tools
base=$tools/docker/base.tar
work=$(mktemp -d)
container=
trap 'rm -rf "$work"; [ -z "$container" ] || docker rm -f "$container" >/dev/null 2>&1 || true' EXIT

fail() {
    echo "get_docker.sh: $*" >&2
    exit 1
}

# Run quietly; on failure say what was tried and the last line of what it said.
try() {
    what=$1
    shift
    "$@" >"$work/log" 2>&1 || fail "$what: $(tail -n 1 "$work/log")"
}

install() {
    [ "$(id -u)" = 0 ] || fail "$1 is not here, and only root can install it"
    command -v apt-get >/dev/null || fail "$1 is not here, and this is no Debian to install it from"
    echo "installing $1"
    [ -n "${lists_read:-}" ] || try "cannot read Debian's package lists" apt-get update
    lists_read=1
    try "cannot install $1" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
}

is_there() {
    echo "$* is there"
}

get_engine() {
    command -v dockerd >/dev/null || docker info >/dev/null 2>&1 || install docker.io iptables
    command -v docker >/dev/null || install docker-cli
    if ! docker info >/dev/null 2>&1; then
        [ "$(id -u)" = 0 ] || fail "no engine answers, and only root can start one"
        echo "starting dockerd, which logs to $tools/docker/dockerd.log; stop it with: kill \$(cat /var/run/docker.pid)"
        mkdir -p "$tools/docker"
        setsid dockerd >"$tools/docker/dockerd.log" 2>&1 </dev/null &
        for _ in $(seq 60); do
            docker info >/dev/null 2>&1 && break
            sleep 1
        done
    fi
    docker info >/dev/null 2>&1 || fail "dockerd does not answer: $(tail -n 1 "$tools/docker/dockerd.log")"
    is_there "engine $(docker info --format '{{.ServerVersion}}')"
}

get_compose() {
    if ! docker compose version >/dev/null 2>&1; then
        for package in docker-compose-plugin docker-compose-v2; do
            if apt-cache show $package >/dev/null 2>&1; then
                install $package
                break
            fi
        done
    fi
    if ! docker compose version >/dev/null 2>&1; then
        version=$(sed -n 's/^.*github.com\/docker\/compose\/v2 \(v[0-9.]*\).*$/\1/p' "$here/compose-build/go.mod")
        binary=$tools/docker/compose-$version
        if [ ! -x "$binary" ]; then
            command -v go >/dev/null || fail "no package has Docker Compose 2, it is built with Go, and go is not here"
            echo "building Docker Compose $version, about two minutes on two cores"
            mkdir -p "$tools/docker"
            (
                cd "$here/compose-build"
                try "cannot build Docker Compose $version" nice go build -buildvcs=false -trimpath \
                    -ldflags "-s -w -X github.com/docker/compose/v2/internal.Version=$version" \
                    -o "$work/docker-compose" github.com/docker/compose/v2/cmd
            )
            mv "$work/docker-compose" "$binary"
        fi
        [ "$(id -u)" = 0 ] || fail "only root can make $binary a plugin of docker"
        mkdir -p /usr/local/lib/docker/cli-plugins
        cp "$binary" /usr/local/lib/docker/cli-plugins/docker-compose
    fi
    docker compose version >/dev/null 2>&1 || fail "docker compose does not run"
    is_there "docker compose $(docker compose version --short)"
}

# All images that are not built here, as the Dockerfile and the compose file name them.
images() {
    sed -n 's/^FROM \([a-z/]*:[^ ]*\).*$/\1/p' "$root/Dockerfile"
    sed -n 's/^ *image: \(.*\)$/\1/p' "$root/docker-compose.yml" | grep -v ':local$'
}

get_image() {
    if ! docker image inspect "$1" >/dev/null 2>&1; then
        echo "pulling $1"
        if ! timeout 600 docker pull "$1" >"$work/log" 2>&1; then
            echo "cannot pull $1, making a stand-in"
            make_stand_in "$1"
        fi
    fi
    is_there "image $1"
}

make_stand_in() {
    case $1 in
    python:*)
        make_base
        try "cannot import $1" docker import --change 'LABEL gatecrew.stand-in=true' "$base" "$1"
        ;;
    golang:*)
        command -v go >/dev/null || fail "the stand-in for $1 has this machine's Go, and go is not here"
        goroot=$(go env GOROOT)
        put_on_base "$goroot/." /usr/local/go "$1" \
            --change 'ENV PATH=/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
            --change "ENV GOPROXY=$(go env GOPROXY) GOSUMDB=$(go env GOSUMDB) GOTOOLCHAIN=local"
        ;;
    hashicorp/consul:*)
        binary=$tools/consul-${1#*:}/consul
        "$here/get_consul.sh" current
        [ -x "$binary" ] || fail "the stand-in for $1 is made from $binary, which get_consul.sh does not build"
        put_on_base "$binary" /usr/local/bin/consul "$1"
        ;;
    *) fail "nothing can stand in for $1" ;;
    esac
}

# A file or a directory's contents on the base, as an image. Without a builder, which may want to pull something itself.
put_on_base() {
    from=$1 to=$2 image=$3
    shift 3
    name=gatecrew-base:stand-in
    if ! docker image inspect $name >/dev/null 2>&1; then
        make_base
        try "cannot import $name" docker import "$base" $name
    fi
    container=$(docker create $name true) || fail "cannot make a container of $name"
    try "cannot copy $from" docker cp -q "$from" "$container:$to"
    try "cannot make $image" docker commit --change 'LABEL gatecrew.stand-in=true' "$@" "$container" "$image"
    try "cannot remove a container" docker rm "$container"
    container=
}

make_base() {
    [ ! -f "$base" ] || return 0
    command -v debootstrap >/dev/null || install debootstrap
    [ "$(id -u)" = 0 ] || fail "only root can make a stand-in with debootstrap"
    echo "making a base of Debian, about a minute"
    tree=$work/base
    try "cannot make a base of Debian" debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates \
        bookworm "$tree" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}"
    rm -rf "$tree"/var/cache/apt/* "$tree"/var/lib/apt/lists/* "$tree"/usr/share/doc/* "$tree"/usr/share/man/*
    rm -rf "$tree"/usr/share/locale/* "$tree"/dev/*
    ln -s python3 "$tree/usr/bin/python"
    # As this machine reaches its package index, so must a build.
    certificates=/etc/ssl/certs/ca-certificates.crt
    [ ! -f $certificates ] || cp -L $certificates "$tree$certificates"
    {
        echo "[global]"
        python3 -m pip config list 2>/dev/null |
            sed -n "s/^\(global\.\|:env:\.\)\(index-url\|extra-index-url\|trusted-host\|proxy\|default-timeout\|timeout\|retries\)='\(.*\)'$/\2 = \3/p" |
            sort -u
        echo "cert = $certificates"
    } >"$tree/etc/pip.conf"
    mkdir -p "$tools/docker"
    try "cannot pack the base" tar -C "$tree" -cf "$work/base.tar" .
    mv "$work/base.tar" "$base"
}

get_engine
get_compose
for image in $(images | sort -u); do
    get_image "$image"
done
