#!/bin/sh
# Leaves OUT/tour and OUT/handle, which start what is in OUT/lib. Usage: build.sh [OUT]   (default: build)
set -eu
out=${1:-build}
cd "$(dirname "$0")"
mvn --batch-mode --quiet package
mkdir -p "$out/lib"
cp target/lib/*.jar target/worker.jar "$out/lib"
# C1 alone: the worker is fast from the start, and C2's compiler threads take no core from it for a minute. Leave that
# out for handlers that compute much.
launcher() { # file, class
    cat >"$out/$1" <<END
#!/bin/sh
exec java -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xmx256m -cp "\$(dirname "\$0")/lib/*" $2
END
    chmod +x "$out/$1"
}
launcher tour worker.Main
launcher handle worker.Handle
