"""The figures of one run: medians, ratios, floors and aims."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

Samples = Mapping[str, Mapping[str, list[float]]]  # system -> shape -> figures; requests/s, or seconds for "lone"


@dataclass(frozen=True)
class Floor:
    """What three workers must reach. `at_least`: more is better."""

    title: str
    value: float | None
    floor: float
    aim: float
    at_least: bool = True

    @property
    def verdict(self) -> str:
        if self.value is None:
            return "not measured"
        sign = 1 if self.at_least else -1
        if sign * self.value >= sign * self.aim:
            return "aim reached"
        return "floor kept" if sign * self.value >= sign * self.floor else "MISSED"


def _ratio(samples: Samples, shape: str, system: str, base: str) -> float | None:
    """Median of the ratios round by round, so that the machine's drift cancels out."""
    ours, theirs = samples.get(system, {}).get(shape, []), samples.get(base, {}).get(shape, [])
    ratios = [one / other for one, other in zip(ours, theirs, strict=False)]
    return median(ratios) if ratios else None


def floors(samples: Samples, session_kib: float | None) -> list[Floor]:
    return [
        Floor("200 x 1, of raw echo", _ratio(samples, "200x1", "gatecrew3", "raw"), 0.50, 0.70),
        Floor("200 x 1, against ZeroMQ", _ratio(samples, "200x1", "gatecrew3", "zmq3"), 1.2, 1.6),
        Floor("50 x 1, against ZeroMQ", _ratio(samples, "50x1", "gatecrew3", "zmq3"), 0.9, 1.3),
        Floor("50 x 32, against ZeroMQ", _ratio(samples, "50x32", "gatecrew3", "zmq3"), 1.5, 2.5),
        Floor(
            "lone client's median round trip, of raw echo's", _ratio(samples, "lone", "gatecrew3", "raw"), 7, 4.5, False
        ),
        Floor("KiB of an idle session in the gateway", session_kib, 6, 3, False),
    ]


def of_languages(samples: Samples) -> list[Floor]:
    """Compiled workers must be at least as fast as Python's: where workers are what limits, and where they are not."""
    return [
        Floor(f"{shape.replace('x', ' x ')}, {language} workers of Python's", ratio, 1.0, 1.2)
        for language in ("go", "java", "rust", "cpp")
        for shape in ("200x1", "50x32")
        if (ratio := _ratio(samples, shape, language, "python")) is not None
    ]


def table(samples: Samples, titles: Mapping[str, str], shapes: list[str]) -> str:
    """Requests per second of every system and shape, and how they compare with raw echo and ZeroMQ."""
    width = max(map(len, titles.values()))
    lines = [
        f"{'requests/s, 64-byte bodies':{width}}" + "".join(f"{shape.replace('x', ' x '):>24}" for shape in shapes)
    ]
    for system, title in titles.items():
        line = f"{title:{width}}"
        for shape in shapes:
            figures = samples.get(system, {}).get(shape)
            if not figures:
                line += f"{'-':>24}"
                continue
            figure = f"{median(figures) * 1e6:.0f} us" if shape == "lone" else f"{median(figures) / 1000:.1f}k"
            ratios = [_ratio(samples, shape, system, base) for base in ("raw", "zmq3")]
            said = " / ".join("-" if ratio is None else f"{ratio:.2f}" for ratio in ratios)
            line += f"{f'{figure} ({said})':>24}"
        lines.append(line)
    lines.append("in brackets: of raw echo / of ZeroMQ, in the same rounds; `lone` is one client's median round trip")
    return "\n".join(lines)


def verdicts(found: list[Floor]) -> str:
    width = max(len(floor.title) for floor in found)
    lines = [f"{'three workers':{width}} {'measured':>10} {'floor':>8} {'aim':>8}"]
    for floor in found:
        value = "-" if floor.value is None else f"{floor.value:.2f}"
        sign = ">=" if floor.at_least else "<="
        lines.append(f"{floor.title:{width}} {value:>10} {sign}{floor.floor:>6} {sign}{floor.aim:>6}  {floor.verdict}")
    return "\n".join(lines)
