"""Memory and processor time of every service: idle, and while two runs grow.

    python -m benchmarks service-memory [--quick] [--json]

A stack as `esper up` starts it is watched from outside, twice a second, for a while with nothing to do and then while
two trainings run at once.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks.local_stack import local_stack
from benchmarks.report import Report, Table
from esper_core.stack import StackPaths, StackRecord

INTERVAL_S: Final = 0.5
RUNS: Final = 2
WORKER: Final = "training worker"
METHOD: Final = (
    "A local stack with default settings, started by `esper up --detach`; each figure is one process.",
    "RSS counts pages shared with other processes in full (Python, the libraries); PSS gives each process its share of "
    "them, so that the sum of PSS is what the stack takes from the machine.",
    "Read from /proc every half second; the highest reading counts. Idle: after the stack became healthy. Busy: while "
    f"{RUNS} letter runs with policy schedule train at the same time, from submission to the end of the last.",
    "Processor: time used while busy, divided by the wall time; 100 % is one core.",
)


@dataclass(slots=True)
class Usage:
    """What a process was seen to use.

    Attributes
    ----------
    rss_mib, pss_mib : float
        Highest reading.
    processor_s : float
        Processor time from the first to the last reading.
    """

    rss_mib: float = 0.0
    pss_mib: float = 0.0
    processor_s: float = 0.0
    _first: dict[int, float] = field(default_factory=dict)

    def read(self, process: psutil.Process) -> None:
        """Take a reading."""
        memory, times = process.memory_full_info(), process.cpu_times()
        self.rss_mib = max(self.rss_mib, memory.rss / 2**20)
        self.pss_mib = max(self.pss_mib, memory.pss / 2**20)
        used = times.user + times.system
        self.processor_s = max(self.processor_s, used - self._first.setdefault(process.pid, used))

    def as_json(self) -> dict[str, float]:
        """Return plain data."""
        return {
            "rss_mib": round(self.rss_mib, 1),
            "pss_mib": round(self.pss_mib, 1),
            "processor_s": round(self.processor_s, 2),
        }


Usages = dict[str, Usage]


def measure(*, idle_s: float, flops: float) -> dict[str, Any]:
    """Watch a stack idle and busy; returns the usage of each service in both phases."""
    with local_stack() as stack:
        idle: Usages = {}
        until = time.monotonic() + idle_s
        while time.monotonic() < until:
            _look(stack, idle)
        busy: Usages = {}
        began = time.monotonic()
        runs = [_submit(stack, flops, seed) for seed in range(RUNS)]
        while any(run.poll() is None for run in runs):
            _look(stack, busy)
        busy_s = time.monotonic() - began
    failed = [run.returncode for run in runs if run.returncode]
    if failed:
        raise RuntimeError(f"A run ended with exit status {failed[0]}")
    return {"idle": _plain(idle), "busy": _plain(busy), "idle_s": round(idle_s, 1), "busy_s": round(busy_s, 1)}


def _submit(stack: StackPaths, flops: float, seed: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "esper_cli", "run", "submit", "letter", "--flops", str(flops), "--follow"]
    command += ["--policy", "schedule", "--seed", str(seed), "--json", "--state-dir", str(stack.root)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})


def _look(stack: StackPaths, usages: Usages) -> None:
    for name, pid in _processes(stack):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):  # it ended between the listing and the reading
            usages.setdefault(name, Usage()).read(psutil.Process(pid))
    time.sleep(INTERVAL_S)


def _processes(stack: StackPaths) -> Iterator[tuple[str, int]]:
    record = StackRecord.load(stack.record)
    for name, process in record.living().items():
        yield name, process.pid
        if name != "tolaria":
            continue
        for child in psutil.Process(process.pid).children(recursive=True):
            if _is_worker(child):
                yield WORKER, child.pid


def _is_worker(child: psutil.Process) -> bool:
    try:
        return "tolaria.worker" in " ".join(child.cmdline())
    except psutil.NoSuchProcess:  # of which a zombie is one: it has ended since it was listed
        return False


def _plain(usages: Usages) -> dict[str, Any]:
    return {name: usage.as_json() for name, usage in usages.items()}


def report(figures: Mapping[str, Any]) -> Report:
    """Put the figures into a report."""
    idle, busy = figures["idle"], figures["busy"]
    services = [name for name in busy if name != WORKER]
    rows = [
        (
            name,
            *(f"{idle[name][what]:.0f} MiB" if name in idle else "" for what in ("rss_mib", "pss_mib")),
            *(f"{busy[name][what]:.0f} MiB" for what in ("rss_mib", "pss_mib")),
            f"{100 * busy[name]['processor_s'] / figures['busy_s']:.1f} %",
        )
        for name in [*services, *([WORKER] if WORKER in busy else [])]
    ]
    total = [sum(phase[name]["pss_mib"] for name in services if name in phase) for phase in (idle, busy)]
    findings = [
        f"All services together take {total[0]:.0f} MiB idle and {total[1]:.0f} MiB while {RUNS} runs train (PSS, "
        "training workers not counted)."
    ]
    header = ("process", "idle RSS", "idle PSS", "busy RSS", "busy PSS", "processor while busy")
    return Report(
        "service_memory", "What the services take", findings, METHOD, figures, [Table("By process", header, rows)]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks service-memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="short runs: shows that it works, measures badly")
    parser.add_argument("--out", type=Path, help="folder of the report; the folder benchmarks when left out")
    parser.add_argument("--json", action="store_true", help="print the report as JSON on stdout")
    chosen = parser.parse_args(arguments)
    made = report(measure(idle_s=3.0, flops=5e8) if chosen.quick else measure(idle_s=20.0, flops=20e9))
    page = made.write(chosen.out) if chosen.out else made.write()
    print(json.dumps(made.as_json()) if chosen.json else f"Report: {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
