"""Run it all, print the table with its ratios, write bench/results/latest.json."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from statistics import median

from . import memory, report, slow_work
from .language import program
from .systems import LANGUAGES, SYSTEMS, running

SHAPES = {"50x1": (50, 1), "200x1": (200, 1), "1000x1": (1000, 1), "50x32": (50, 32), "lone": (1, 1)}
RESULTS = Path(__file__).parent / "results" / "latest.json"


def measure(address: str, shape: str, seconds: float, warmup: float) -> dict[str, float]:
    clients, open_requests = SHAPES[shape]
    command = [sys.executable, "-m", "bench.load", address, f"--clients={clients}", f"--open={open_requests}"]
    command += [f"--seconds={seconds}", f"--warmup={warmup}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"bench: the load on {address} failed at {shape}")
    result: dict[str, float] = json.loads(done.stdout)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="every system once a round; the median counts (3)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of measuring, for each figure (3)")
    parser.add_argument("--quick", action="store_true", help="one round of one second")
    parser.add_argument("--systems", default=",".join(system.key for system in SYSTEMS), help="(all)")
    parser.add_argument("--shapes", default=",".join(SHAPES), help="(all)")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a floor is missed")
    args = parser.parse_args()
    rounds, seconds, warmup = (1, 1.0, 0.5) if args.quick else (args.rounds, args.seconds, 1.0)
    for option, asked, known in (
        ("--systems", args.systems, {system.key for system in SYSTEMS}),
        ("--shapes", args.shapes, set(SHAPES)),
    ):
        if unknown := set(asked.split(",")) - known:
            parser.error(f"{option}: no {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}")
    chosen = [system for system in SYSTEMS if system.key in args.systems.split(",")]
    for system in [each for each in chosen if each.key in LANGUAGES and not program(each.key).exists()]:
        print(f"NOT MEASURED: {system.title}; `make workers` builds them where their toolchain is", file=sys.stderr)
        chosen.remove(system)
    shapes = [shape for shape in SHAPES if shape in args.shapes.split(",")]
    details: dict[str, dict[str, list[dict[str, float]]]] = {s.key: {shape: [] for shape in shapes} for s in chosen}
    session_kib: list[float] = []
    for number in range(1, rounds + 1):
        for system in chosen:
            with running(system) as up:
                for shape in shapes:
                    print(f"round {number}/{rounds}: {system.title}, {shape}", file=sys.stderr, flush=True)
                    details[system.key][shape].append(measure(up.address, shape, seconds, warmup))
                if system.key == "gatecrew3" and number == 1:
                    # Last: ten thousand sockets that close keep the kernel busy for seconds.
                    session_kib.append(memory.of_idle_session(up.address, up.pid))
    samples = {
        system: {
            shape: [one["p50_us"] / 1e6 if shape == "lone" else one["per_second"] for one in runs]
            for shape, runs in by_shape.items()
        }
        for system, by_shape in details.items()
    }
    found = report.floors(samples, median(session_kib) if session_kib else None) + report.of_languages(samples)
    if any(system.key == "gatecrew3" for system in chosen):
        found += slow_work.measure()
    print(report.table(samples, {system.key: system.title for system in chosen}, shapes))
    print()
    print(report.verdicts(found))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(
        json.dumps(
            {
                "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "kernel": platform.release()},
                "versions": {name: version(name) for name in ("gatecrew", "grpcio", "protobuf", "uvloop", "pyzmq")},
                "rounds": rounds,
                "seconds": seconds,
                "figures": details,
                "idle_session_kib": session_kib,
                "floors": [
                    {"title": f.title, "value": f.value, "floor": f.floor, "aim": f.aim, "verdict": f.verdict}
                    for f in found
                ],
            },
            indent=1,
        )
        + "\n"
    )
    print(f"\nwritten to {RESULTS}", file=sys.stderr)
    if args.check and any(floor.verdict in ("MISSED", "not measured") for floor in found):
        sys.exit(1)


if __name__ == "__main__":
    main()
