"""Step time with everything on, against the bare PyTorch loop on the same model.

    python -m benchmarks step-overhead [--quick] [--size SIZE ...] [--part PART ...] [--json]

Each measurement is a real worker process of its own, connected to a whole local stack, in which blocks of the worker's
turns alternate with blocks of a bare loop on a copy of its model.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.local_stack import local_stack, worker_environment
from benchmarks.paired import Pairs, summary
from benchmarks.paired_worker import Plan
from benchmarks.report import Report, Table
from esper_core import leyline
from esper_core.ids import new_run_id
from esper_core.stack import StackPaths
from tolaria.rundir import RunDirectory, RunRequest

NEVER: Final = 10_000_000
PARTS: Final = ("static", "control", "growth")
STRETCHED: Final = {
    "KASMINA_TRAINING_FRACTION": "0.12",
    "KASMINA_BLENDING_FRACTION": "0.12",
    "KASMINA_SHADOWING_FRACTION": "0.08",
    "KASMINA_PROBATIONARY_FRACTION": "0.08",
}
"""Stages long enough to be measured in a short run; what a step does in them stays the same."""
HALF_THE_TIME: Final = {"TOLARIA_CHECKPOINT_INTERVAL_S": "20", "TOLARIA_CHECKPOINT_SPACING_S": "4"}
"""Checkpoints go by wall time, of which a managed loop gets only half here."""


@dataclass(frozen=True, slots=True)
class Size:
    """A model of the letter task, its batch, and how long it is measured.

    Attributes
    ----------
    name : str
        Time of a bare step, roughly.
    steps_per_block, pairs : int
        For the dormant states.
    growth_steps : int
        Optimizer steps of the run in which a seed grows; 0 leaves that run out.
    """

    name: str
    width: int
    depth: int
    batch_size: int
    steps_per_block: int
    pairs: int
    growth_steps: int


SIZES: Final = (
    Size("0.2 ms", 24, 1, 128, 1000, 30, 40_000),
    Size("1 ms", 256, 2, 128, 400, 30, 12_000),
    Size("5 ms", 384, 3, 256, 100, 30, 3000),
    Size("20 ms", 512, 4, 320, 25, 40, 1000),
)
METHOD: Final = (
    "Task letter, an MLP whose width, depth and batch size were chosen for the step time; Adam (fused); one thread "
    "(OMP_NUM_THREADS=1) on the CPU.",
    "Managed: the training worker itself (`tolaria.worker.run.work`) with mediator thread, event journal, snapshots "
    "every 50 steps, checkpoints on disk and evidence every 20 steps. Its peers are a whole local stack as `esper up` "
    "starts it: Tamiyo evaluates up to 50 times a second, Kasmina hears of every boundary; Urza, Oona, Tolaria, Nissa, "
    "Simic and Weatherlight are there.",
    "Bare: batch, zero_grad, forward, cross entropy, backward, optimizer step on a deep copy of the model with the "
    "same optimizer, data and batch size; no logging, no schedule, no look at the loss. A grown model is rendered into "
    "plain modules (h + alpha * s(h)), with the host frozen where the worker froze it.",
    "Blocks of both alternate in one process, the order changing from pair to pair; every step is timed by itself. "
    "'p50 of pairs' is the median, with quartiles, of the ratio of the two block medians of each pair.",
    "Validation passes are left out of the dormant runs (validation_interval_steps), because the bare loop makes none; "
    "the growing runs validate at every epoch. Probes of a seed's worth are part of p99 and mean there.",
    "Checkpoint intervals are doubled, because only half of the wall time is managed.",
    "dormant, static run: policy none, no peers. dormant, controller alive: policy schedule long before its first "
    "seed. dormant, controller dead: the same run after SIGKILL to Tamiyo and Kasmina, their supervisors held still; "
    "the breakers are open and the run is CONSERVATIVE.",
    "growing: policy schedule, one seed; Kasmina's dwells are stretched so that every stage can be measured. Pairs in "
    "which the topology changed are not counted.",
    "processor: the same for the processor time of the training thread. It hardly feels other processes on the "
    "machine, which wall time does, but neither waiting for the interpreter lock, which is real.",
)


def measure(size: Size, part: str, stack: StackPaths | None) -> dict[str, Any]:
    """Measure one size in one part and return the figures of every state that was met.

    Raises
    ------
    RuntimeError
        If the worker fails.
    """
    with tempfile.TemporaryDirectory(prefix="esper-bench-run-") as scratch:
        request = RunRequest(new_run_id(), _spec(size, part), datetime.now(UTC))
        # In Tolaria's own folder the run is one that somebody started by hand, and Tolaria takes it on.
        runs = stack.data("tolaria") / "runs" if stack else Path(scratch)
        run = RunDirectory(runs / request.run_id)
        run.write_request(request)
        measured = _run_worker(run, _plan(size, part), Path(scratch), stack)
    return {state: summary(Pairs.from_json(data)) for state, data in measured.items()}


def _run_worker(run: RunDirectory, plan: Plan, scratch: Path, stack: StackPaths | None) -> dict[str, Any]:
    plan_path, out = scratch / "plan.json", scratch / "measured.json"
    plan_path.write_text(json.dumps(asdict(plan)))
    command = [sys.executable, "-m", "benchmarks.paired_worker", "--run-dir", str(run.path)]
    command += ["--plan", str(plan_path), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **HALF_THE_TIME}
    if stack is not None:
        command += ["--state-dir", str(stack.root)]
        environment = {**environment, **worker_environment(stack), **HALF_THE_TIME}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"The worker ended with {done.returncode}: {done.stderr[-3000:]}")
    measured: dict[str, Any] = json.loads(out.read_text())
    return measured


def _plan(size: Size, part: str) -> Plan:
    if part == "growth":
        return Plan(max(5, size.steps_per_block // 4), 0)
    return Plan(size.steps_per_block, size.pairs, alive=part == "control", dead=part == "control")


def _spec(size: Size, part: str) -> leyline.RunSpec:
    parameters = [
        leyline.TaskParameter(name="width", integer=size.width),
        leyline.TaskParameter(name="depth", integer=size.depth),
    ]
    policy = "none" if part == "static" else "schedule"
    return leyline.RunSpec(
        version=1,
        task="letter",
        batch_size=size.batch_size,
        max_steps=size.growth_steps if part == "growth" else NEVER,
        validation_interval_steps=0 if part == "growth" else NEVER,
        parameters=parameters,
        growth=leyline.GrowthSpec(policy=policy, max_seeds=1),
        random_seed=1,
    )


def measure_all(sizes: Sequence[Size], parts: Sequence[str]) -> dict[str, Any]:
    """Measure every size in every part; one stack serves all runs that have peers."""
    figures: dict[str, Any] = {size.name: {} for size in sizes}
    if "static" in parts:
        for size in sizes:
            figures[size.name].update(_told(size, "static", None))
    peers = [part for part in parts if part != "static"]
    if peers:
        with local_stack(STRETCHED) as stack:
            for size, part in ((size, part) for part in reversed(peers) for size in sizes):
                figures[size.name].update(_told(size, part, stack))
    return figures


def _told(size: Size, part: str, stack: StackPaths | None) -> dict[str, Any]:
    print(f"{size.name}, {part} ...", file=sys.stderr, flush=True)
    found = measure(size, part, stack)
    if part == "growth":
        found = {f"growing, {state}": figures for state, figures in found.items()}
    for state, figures in found.items():
        wall, processor = figures["wall_pairs"]["ratio"]["median"], figures["processor_pairs"]["ratio"]["median"]
        p99 = figures["wall"]["ratio"]["p99"]
        told = f"  {state}: p50 ×{wall:.3f}, p99 ×{p99:.2f}; of processor time ×{processor:.3f}"
        print(told, file=sys.stderr, flush=True)
    return found


_HEADER: Final = (
    "state",
    "pairs",
    "bare p50",
    "managed p50",
    "p50 of pairs",
    "added",
    "bare p99",
    "managed p99",
    "p99",
    "mean",
    "processor p50 of pairs",
    "processor added",
)


def report(figures: Mapping[str, Any]) -> Report:
    """Put the figures into a report."""
    tables = [Table(f"Steps of {size}", _HEADER, list(_rows(states))) for size, states in figures.items()]
    return Report("step_overhead", "What a managed step costs", list(_findings(figures)), METHOD, figures, tables)


def _rows(states: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    for state, found in states.items():
        wall, pairs, processor = found["wall"], found["wall_pairs"], found["processor_pairs"]
        bare, managed = wall["bare_ms"], wall["managed_ms"]
        yield (
            state,
            str(found["pairs"]),
            f"{bare['p50']:.3f} ms",
            f"{managed['p50']:.3f} ms",
            _spread(pairs["ratio"]),
            f"{pairs['added_us']['median']:.0f} µs",
            f"{bare['p99']:.3f} ms",
            f"{managed['p99']:.3f} ms",
            f"×{wall['ratio']['p99']:.2f}",
            f"×{wall['ratio']['mean']:.3f}",
            _spread(processor["ratio"]),
            f"{processor['added_us']['median']:.0f} µs",
        )


def _spread(quartiles: Mapping[str, float]) -> str:
    return f"×{quartiles['median']:.3f} ({quartiles['low']:.3f} to {quartiles['high']:.3f})"


def _findings(figures: Mapping[str, Any]) -> Iterator[str]:
    for size, states in figures.items():
        told = (f"{state} ×{found['wall_pairs']['ratio']['median']:.3f}" for state, found in states.items())
        yield f"{size} a step, median: " + "; ".join(told) + "."


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks step-overhead",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [size.name for size in SIZES]
    parser.add_argument("--size", nargs="+", choices=names, default=names, help="step sizes to measure")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS, help="what to measure them in")
    parser.add_argument("--quick", action="store_true", help="few pairs: shows that it works, measures badly")
    parser.add_argument("--out", type=Path, help="folder of the report; the folder benchmarks when left out")
    parser.add_argument("--json", action="store_true", help="print the report as JSON on stdout")
    chosen = parser.parse_args(arguments)
    sizes = [size for size in SIZES if size.name in chosen.size]
    if chosen.quick:
        sizes = [replace(size, pairs=4, growth_steps=size.growth_steps // 4) for size in sizes]
    made = report(measure_all(sizes, chosen.part))
    page = made.write(chosen.out) if chosen.out else made.write()
    print(json.dumps(made.as_json()) if chosen.json else f"Report: {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
