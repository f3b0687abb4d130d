#!/bin/sh
# Leaves OUT/tour and OUT/handle, which start what is in OUT/lib. Usage: build.sh [OUT]   (default: build)
set -eu
out=${1:-build}
cd "$(dirname "$0")"
mvn --batch-mode --quiet package
mkdir -p "$out/lib"
cp target/lib/*.jar target/worker.jar "$out/lib"
launcher() { # file, class
    cat >"$out/$1" <<END
#!/bin/sh
exec java -XX:+UseSerialGC -Xmx256m -cp "\$(dirname "\$0")/lib/*" $2
END
    chmod +x "$out/$1"
}
launcher tour worker.Main
launcher handle worker.Handle
