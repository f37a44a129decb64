"""Does growing pay? Small, big, grown on a schedule, by the controller and at random, at equal training FLOPs.

    python -m benchmarks growth                      everything, in minutes
    python -m benchmarks growth --case "letter cold" one case; the others keep their last figures in the report
    python -m benchmarks growth --short              Letter with fewer seeds and no tuning, about a minute

Reports go to growth.md and growth.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from benchmarks.growth.cases import FORMS, FULL, Case, Form
from benchmarks.growth.compare import Comparison
from benchmarks.growth.pages import report
from benchmarks.growth.toxic import measure_toxic
from benchmarks.growth.trained import Runs
from benchmarks.report import FOLDER, Report, describe_commit

TOXIC: Final = "letter toxic"
TOXIC_RATE: Final = 0.01
_PLACES: Final = {"full": FOLDER, "short": FOLDER / "results" / "short", "quick": FOLDER / "results" / "quick"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the report."""
    chosen = _parser().parse_args(arguments)
    form: Form = "quick" if chosen.quick else "short" if chosen.short else "full"
    folder: Path = chosen.out or _PLACES[form]
    figures = _former(folder) if form == "full" else {}
    wanted = chosen.case or [*(case.name for case in FORMS[form]), TOXIC]
    with tempfile.TemporaryDirectory() as hosts:
        runs = Runs(Path(hosts))
        for case in (case for case in FORMS[form] if case.name in wanted):
            figures[case.name] = _stamped(Comparison(_with_seeds(case, chosen.seeds), runs).measure())
            _written(figures, form, folder)
    if TOXIC in wanted:
        case = _with_seeds(FORMS[form][0], chosen.seeds)
        figures[TOXIC] = _stamped(measure_toxic(case, TOXIC_RATE))
    made, page = _written(figures, form, folder)
    print(json.dumps(made.as_json()) if chosen.json else f"Report: {page}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks growth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--short", action="store_true", help="Letter with three seeds and no tuning")
    form.add_argument("--quick", action="store_true", help="only see that everything works; the figures mean nothing")
    names = [*(case.name for case in FULL), TOXIC]
    parser.add_argument("--case", choices=names, action="append", help="measure only this one; may come again")
    parser.add_argument("--seeds", type=int, help="runs of each arm instead of the form's number")
    parser.add_argument("--out", type=Path, help="folder of the report; benchmarks for the full form when left out")
    parser.add_argument("--json", action="store_true", help="print the report as JSON on stdout")
    return parser


def _with_seeds(case: Case, seeds: int | None) -> Case:
    return case if seeds is None else replace(case, seeds=seeds)


def _former(folder: Path) -> dict[str, Any]:
    """Return the figures of earlier full measurements, so that cases can be measured one by one."""
    path = folder / "growth.json"
    return dict(json.loads(path.read_text())["figures"]) if path.exists() else {}


def _stamped(figures: dict[str, Any]) -> dict[str, Any]:
    return {**figures, "commit": describe_commit()}


def _written(figures: dict[str, Any], form: Form, folder: Path) -> tuple[Report, Path]:
    made = report(figures, form)
    return made, made.write(folder)
