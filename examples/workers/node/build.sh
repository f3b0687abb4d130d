#!/bin/sh
# Leaves OUT/tour and OUT/handle. Usage: build.sh [OUT]   (default: build)
set -eu
out=${1:-build}
cd "$(dirname "$0")"
npm ci
npm run build -- --outDir "$out"
# What is built stands on its own: its modules, those of a worker that runs, are beside it.
cp package.json package-lock.json "$out"
(cd "$out" && npm ci --omit=dev)
cat >"$out/tour" <<'END'
#!/bin/sh
exec node "$(dirname "$0")/main.js"
END
cat >"$out/handle" <<'END'
#!/bin/sh
exec node "$(dirname "$0")/handle.js"
END
chmod +x "$out/tour" "$out/handle"
