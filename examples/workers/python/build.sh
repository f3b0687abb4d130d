#!/bin/sh
# Leaves OUT/tour and OUT/handle. Nothing is compiled: they run on the Python that has Gatecrew, $PYTHON or python3.
# Usage: build.sh [OUT]   (default: build)
set -eu
out=${1:-build}
python=$("${PYTHON:-python3}" -c 'import sys, gatecrew_worker; print(sys.executable)' 2>/dev/null) || {
    echo "build.sh: ${PYTHON:-python3} has no Gatecrew: install it there, or say with PYTHON which one has it" >&2
    exit 1
}
cd "$(dirname "$0")"
mkdir -p "$out"
cp app.py handle.py "$out"
cat >"$out/tour" <<END
#!/bin/sh
cd "\$(dirname "\$0")" && exec "$python" -m gatecrew_cli worker app:worker --no-register
END
cat >"$out/handle" <<END
#!/bin/sh
exec "$python" "\$(dirname "\$0")/handle.py"
END
chmod +x "$out/tour" "$out/handle"
