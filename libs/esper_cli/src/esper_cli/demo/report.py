"""report.json and report.html: everything that was measured, in one file each, with nothing fetched from elsewhere.

The pictures of the page lie beside it as files too, for whoever wants to show them elsewhere.
"""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Final

from esper_cli.demo.pictures import curves, timeline
from esper_cli.demo.plan import GROWN
from esper_cli.demo.results import ArmRun, DemoResults
from esper_core.files import atomic_write_bytes, ensure_directory

_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Esper: a network that grew</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
table {{ border-collapse: collapse; width: 100%; margin: 1rem 0; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: right; padding: .3rem .6rem; border-bottom: 1px solid #ddd; }}
th:first-child, td:first-child, td.text {{ text-align: left; }}
svg {{ width: 100%; height: auto; }}
figure {{ margin: 1.5rem 0; }} figcaption, .small {{ color: #555; font-size: .9rem; }}
</style></head><body>
<h1>A network that grew</h1>
<p>{claim}</p>
{table}
<figure>{curves}<figcaption>Validation accuracy. Dotted: a seed begins to blend into the grown network.</figcaption>
</figure>
{timelines}
<h2>How this was measured</h2>
<p class="small">Task letter (Letter Recognition, D. J. Slate, UCI Machine Learning Repository, CC BY 4.0). Every run
may spend {flops:,} training FLOPs as counted by torch, with Adam and a cosine schedule. Learning rates: {rates}.
{searched} Accuracy is that of the test split, looked at once, at the end. Machine: {machine}. All trainings together
took {wall:.0f} s.</p>
</body></html>
"""


def write_report(results: DemoResults, folder: Path) -> tuple[Path, Path]:
    """Write report.html, report.json and the pictures, and return the paths of the first two.

    Raises
    ------
    StorageError
        If they cannot be written.
    """
    ensure_directory(folder)
    page, data = folder / "report.html", folder / "report.json"
    atomic_write_bytes(data, (json.dumps(results.as_json(), indent=2) + "\n").encode())
    atomic_write_bytes(page, render(results).encode())
    for name, picture in pictures(results).items():
        atomic_write_bytes(folder / name, picture.encode())
    return page, data


def pictures(results: DemoResults) -> dict[str, str]:
    """Return the pictures by file name: the curves, and the seeds of each run that germinated some."""
    seeds = {f"seeds-{run.seed}.svg": timeline(run) for run in results.of(GROWN) if run.timeline}
    return {"curves.svg": curves(results), **seeds}


def render(results: DemoResults) -> str:
    """Return the page."""
    machine = ", ".join(f"{name} {value}" for name, value in results.machine.items())
    return _PAGE.format(
        claim=html.escape(results.claim()),
        table=_table(results),
        curves=curves(results),
        timelines="".join(_timeline(run) for run in results.of(GROWN)),
        flops=results.budget.flops,
        rates=html.escape(_rates(results)),
        searched=html.escape(_searched(results)),
        machine=html.escape(machine),
        wall=results.wall_s,
    )


def _rates(results: DemoResults) -> str:
    rates = {**results.search.chosen, GROWN: results.budget.grown_learning_rate}
    return ", ".join(f"{arm} {rate:g}" for arm, rate in rates.items())


def _searched(results: DemoResults) -> str:
    if not results.search.losses:
        return "Nothing was searched in this short form; docs/notes/letter-sizing.md tells where the rates come from."
    tried = ", ".join(f"{rate:g}" for rate in results.budget.learning_rates)
    return (
        f"Those of the static networks are the best of {tried} on validation data, each tried with "
        f"{results.budget.search_flops:,} FLOPs and another seed; that of the grown one was measured beforehand "
        "(docs/notes/letter-sizing.md)."
    )


def _table(results: DemoResults) -> str:
    head = ("arm", "accuracy", "parameters", "training FLOPs", "inference FLOPs", "steps", "seconds")
    rows = "".join(
        "<tr>"
        f"<td>{html.escape(row['arm'])}</td><td>{accuracy_text(row['accuracy'], row['accuracy_sd'])}</td>"
        f"<td>{parameters_text(row['parameters_initial'], row['parameters_final'])}</td><td>{row['flops']:.3g}</td>"
        f"<td>{row['inference_flops_per_example']:,.0f}</td><td>{row['steps']:,.0f}</td><td>{row['wall_s']:.1f}</td>"
        "</tr>"
        for row in results.table()
    )
    return f"<table><tr>{''.join(f'<th>{name}</th>' for name in head)}</tr>{rows}</table>"


def _timeline(run: ArmRun) -> str:
    if not run.timeline:
        return f"<p>Seed {run.seed}: nothing was germinated.</p>"
    rows = "".join(
        f"<tr><td>{step.step}</td><td class=text>{html.escape(step.seed_id.split('/', 1)[-1])}</td>"
        f"<td class=text>{html.escape(step.blueprint_id)}</td><td class=text>{step.stage.lower()}</td>"
        f"<td class=text>{html.escape(step.reason)}</td></tr>"
        for step in run.timeline
    )
    head = "<tr><th>step</th><th>seed</th><th>blueprint</th><th>stage</th><th>why</th></tr>"
    return (
        f"<h2>The seeds of run {run.seed}</h2><figure>{timeline(run)}</figure>"
        f"<details><summary>Every step of them</summary><table>{head}{rows}</table></details>"
    )


def accuracy_text(mean: float, deviation: float | None) -> str:
    """Return an accuracy in percent, with its standard deviation where there is one."""
    return f"{100 * mean:.2f} %" if deviation is None else f"{100 * mean:.2f} ± {100 * deviation:.2f} %"


def parameters_text(initial: float, final: float) -> str:
    """Return a size, or how it grew."""
    return f"{initial:,.0f}" if initial == final else f"{initial:,.0f} → {final:,.0f}"
