"""Measure Esper; without a name, everything in turn.

    python -m benchmarks                     everything: about half an hour on an otherwise idle machine
    python -m benchmarks step-overhead       a managed step against a bare loop
    python -m benchmarks rollback            going back from memory and from disk, and checkpoint stall
    python -m benchmarks service-memory      memory and processor time of the services
    python -m benchmarks prefetch            the way to a kernel against the bare fetch
    python -m benchmarks demo-wall           the main job from a fresh clone
    python -m benchmarks harness             the four standing scenarios, as JSON and CSV
    python -m benchmarks growth              does growing pay, at equal training FLOPs

Each takes --help. Reports go to benchmarks/NAME.md and NAME.json, with machine, commit and method.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from benchmarks import demo_wall, prefetch, rollback, service_memory, step_overhead
from benchmarks.growth import command as growth
from benchmarks.harness import command as harness

MEASUREMENTS: Final[Mapping[str, Callable[[Sequence[str]], int]]] = {
    "step-overhead": step_overhead.main,
    "rollback": rollback.main,
    "service-memory": service_memory.main,
    "prefetch": prefetch.main,
    "demo-wall": demo_wall.main,
    "harness": harness.main,
    "growth": growth.main,
}


def main(arguments: Sequence[str]) -> int:
    """Run the measurement that is named, or all of them."""
    if not arguments:
        return max(measure([]) for measure in MEASUREMENTS.values())
    name, *rest = arguments
    if name in ("-h", "--help"):
        print(__doc__)
        return 0
    if name not in MEASUREMENTS:
        print(f"There is no measurement {name!r}. There are: {', '.join(MEASUREMENTS)}.", file=sys.stderr)
        return 2
    return MEASUREMENTS[name](rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
