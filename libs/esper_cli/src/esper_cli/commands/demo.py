"""The demo command: everything from nothing, in one go."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from esper_cli.demo.plan import FULL, SHORT
from esper_cli.demo.report import accuracy_text, parameters_text, write_report
from esper_cli.demo.results import DemoResults
from esper_cli.demo.runner import Watcher, run_demo
from esper_cli.options import Json
from esper_cli.output import ERR, OUT, print_json, print_table, say
from esper_cli.stack_client import StackClient
from esper_cli.stack_control import start_keeper, take_down, wait_until_healthy
from esper_cli.stopping import StopRequest
from esper_core.stack import StackPaths


def demo(
    short: Annotated[
        bool, typer.Option("--short", help="A small budget that only shows that everything works.")
    ] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Paired seeds of each arm.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder for the report, and for the stack's state while it runs.")] = Path(
        "esper-demo"
    ),
    parallel: Annotated[int, typer.Option(min=1, help="Trainings at a time.")] = 2,
    as_json: Json = False,
) -> None:
    """Start a stack, train a small, a tuned big and a growing network on Letter, and write a report."""
    folder = out.expanduser().absolute()
    paths = StackPaths(folder / "state")
    with StopRequest() as stop, _own_stack(paths, stop) as stack, _watching(stop) as watcher:
        results = run_demo(stack, SHORT if short else FULL, seeds, parallel, machine(), watcher)
    page, data = write_report(results, folder)
    if as_json:
        print_json(results.as_json())
        return
    _print(results)
    say(f"Report: {page} and {data}")


@contextmanager
def _own_stack(paths: StackPaths, stop: StopRequest) -> Iterator[StackClient]:
    keeper = start_keeper(paths)
    try:
        with ERR.status("Starting nine services and an embedded Valkey"):
            wait_until_healthy(paths, keeper, 120.0, lambda _: None, stop)
        say("All services are healthy.")
        yield StackClient.of(paths.root)
    finally:
        with ERR.status("Stopping the stack"):
            take_down(paths)


@contextmanager
def _watching(stop: StopRequest) -> Iterator[Watcher]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=ERR, disable=not ERR.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def progressed(label: str, fraction: float) -> None:
            if label not in tasks:
                tasks[label] = bar.add_task(label, total=1.0)
            bar.update(tasks[label], completed=fraction)

        yield Watcher(lambda line: bar.console.print(line, markup=False), progressed, stop)


def _print(results: DemoResults) -> None:
    rows = (
        (
            row["arm"],
            accuracy_text(row["accuracy"], row["accuracy_sd"]),
            parameters_text(row["parameters_initial"], row["parameters_final"]),
            f"{row['flops']:.3g}",
            f"{row['inference_flops_per_example']:,.0f}",
            f"{row['wall_s']:.1f} s",
        )
        for row in results.table()
    )
    print_table("", ("arm", "accuracy", "parameters", "training FLOPs", "inference FLOPs", "wall"), rows)
    for run in (run for run in results.runs if run.timeline):
        steps = (
            (
                f"{step.fraction:.0%}",
                step.step,
                step.seed_id.split("/", 1)[-1],
                step.blueprint_id,
                step.stage.lower(),
                step.reason,
            )
            for step in run.timeline
        )
        print_table(
            f"\nseeds of {run.arm}, seed {run.seed}", ("budget", "step", "seed", "blueprint", "stage", "why"), steps
        )
    OUT.print(f"\n{results.claim()}", markup=False)


def machine() -> dict[str, Any]:
    """Return what a reader must know about the machine that measured."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
