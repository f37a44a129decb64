"""The four standing scenarios, each with real parts, as a page, as JSON and as CSV.

python -m benchmarks harness [--scenario NAME ...] [--quick] [--json] [--out FOLDER]

steady_train            a worker that has nothing to do but train
rollback_deadline       both tiers of the rollback against their deadlines
tamiyo_timeout          what training feels when Tamiyo is stopped in the middle of it
kasmina_prefetch_burst  many kernels asked for at once
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from benchmarks.harness.figures import Figure, Measured, write_csv
from benchmarks.harness.scenarios import kasmina_prefetch_burst, rollback_deadline, steady_train
from benchmarks.harness.tamiyo_timeout import tamiyo_timeout
from benchmarks.report import FOLDER, Report, Table
from esper_core.logs import configure_logging

SCENARIOS: Final[Mapping[str, Callable[[bool], Measured]]] = {
    "steady_train": steady_train,
    "rollback_deadline": rollback_deadline,
    "tamiyo_timeout": tamiyo_timeout,
    "kasmina_prefetch_burst": kasmina_prefetch_burst,
}
_HEADER: Final = ("phase", "metric", "value", "of")


def report(scenarios: Mapping[str, Measured]) -> Report:
    """Put the scenarios into a report."""
    tables = [Table(name, _HEADER, [_row(each) for each in measured.figures]) for name, measured in scenarios.items()]
    method = [f"{name}: {measured.method}" for name, measured in scenarios.items()]
    findings = [f"{name}: {_FINDINGS[name](measured)}" for name, measured in scenarios.items()]
    figures = {name: [asdict(each) for each in measured.figures] for name, measured in scenarios.items()}
    return Report("harness", "The standing scenarios", findings, method, figures, tables)


def _row(figure: Figure) -> Sequence[str]:
    unit = "" if figure.unit == "1" else f" {figure.unit}"
    return (figure.phase, figure.metric, f"{figure.value:.4g}{unit}", str(figure.count))


def _steady(found: Measured) -> str:
    rate, median, p99 = (found.value("training", name) for name in ("steps_per_s", "step_p50", "step_p99"))
    return f"{rate:.0f} steps a second, p50 {median:.2f} ms, p99 {p99:.2f} ms."


def _rollback(found: Measured) -> str:
    worst = max((each for each in found.figures if each.unit == "1"), key=lambda each: each.value)
    return f"at worst {worst.value:.1%} of the deadline ({worst.phase})."


def _timeout(found: Measured) -> str:
    with_it, without = (found.value(phase, "step_p50") for phase in ("alive", "timing out"))
    longest, lost_s = found.value("timing out", "step_longest"), found.value("all", "told_lost_after")
    back_s = found.value("all", "told_back_after")
    return (
        f"the median step takes {with_it:.2f} ms with Tamiyo and {without:.2f} ms while its answers do not come, the "
        f"longest then {longest:.1f} ms. It is told as lost after {lost_s:.1f} s, and as back {back_s:.1f} s after it "
        "could answer again."
    )


def _burst(found: Measured) -> str:
    rate, p99 = (found.value("prefetched", name) for name in ("requests_per_s", "request_p99"))
    bare = found.value("bare fetch", "requests_per_s")
    return f"{rate:.0f} kernels a second through the bus, p99 {p99:.1f} ms; the bare fetch {bare:.0f} a second."


_FINDINGS: Final[Mapping[str, Callable[[Measured], str]]] = {
    "steady_train": _steady,
    "rollback_deadline": _rollback,
    "tamiyo_timeout": _timeout,
    "kasmina_prefetch_burst": _burst,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the reports."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks harness", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = list(SCENARIOS)
    parser.add_argument("--scenario", nargs="+", choices=names, default=names, metavar="NAME", help="which to measure")
    parser.add_argument("--quick", action="store_true", help="a few seconds each: shows that it works, measures badly")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the reports")
    parser.add_argument("--json", action="store_true", help="print the report as JSON on stdout")
    chosen = parser.parse_args(arguments)
    configure_logging("benchmarks", level="CRITICAL")
    measured: dict[str, Measured] = {}
    for name in chosen.scenario:
        print(f"{name} ...", file=sys.stderr, flush=True)
        measured[name] = SCENARIOS[name](chosen.quick)
    made = report(measured)
    page = made.write(chosen.out)
    write_csv(page.with_suffix(".csv"), made, measured)
    print(json.dumps(made.as_json()) if chosen.json else f"Report: {page}")
    return 0
