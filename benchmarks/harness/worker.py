"""A real training worker in this process, whose turns a scenario times one by one."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeAlias

from benchmarks.harness.figures import Steps
from esper_core import leyline
from esper_core.errors import RunHaltedError, to_exit_code
from esper_core.ids import new_run_id
from tolaria.rundir import RunDirectory, RunRequest
from tolaria.settings import WorkerSettings
from tolaria.training.loop import TrainingLoop
from tolaria.training.orders import Ending
from tolaria.worker.run import work
from tolaria.worker.start import let_the_mediator_in

Script: TypeAlias = Callable[[TrainingLoop, RunDirectory], None]
NEVER: Final = 10_000_000
TASK: Final = "Task letter, an MLP of two hidden layers of 256, batch 128, Adam, one thread on the CPU"


def letter_spec(policy: str) -> leyline.RunSpec:
    """Return a run that goes on until it is told to stop; nothing but steps takes its time."""
    parameters = [leyline.TaskParameter(name="width", integer=256), leyline.TaskParameter(name="depth", integer=2)]
    return leyline.RunSpec(
        version=1,
        task="letter",
        batch_size=128,
        max_steps=NEVER,
        validation_interval_steps=NEVER,
        parameters=parameters,
        growth=leyline.GrowthSpec(policy=policy, max_seeds=1),
        random_seed=1,
    )


def drive(spec: leyline.RunSpec, script: Script, settings: Mapping[str, Any]) -> None:
    """Open a run as a worker does, with mediator, journal, snapshots and checkpoints, and let a script turn it.

    Raises
    ------
    RuntimeError
        If the worker fails.
    """
    let_the_mediator_in()
    with tempfile.TemporaryDirectory(prefix="esper-bench-harness-") as folder:
        run = RunDirectory(Path(folder) / "run")
        run.write_request(RunRequest(new_run_id(), spec, datetime.now(UTC)))

        def train(loop: TrainingLoop) -> Ending:
            script(loop, run)
            return Ending("halted", "Everything was measured.")

        code = work(run, WorkerSettings(**settings), train)
    if code != to_exit_code(RunHaltedError("")):
        raise RuntimeError(f"The worker ended with {code}.")


def steps_until(loop: TrainingLoop, enough: Callable[[], bool], what: str, patience_s: float = 60.0) -> Steps:
    """Train until enough was seen and time each step.

    Raises
    ------
    RuntimeError
        If the run ends, or patience does.
    """
    gives_up_at = time.monotonic() + patience_s
    steps = Steps()
    while not enough():
        processor, began = time.thread_time_ns(), time.perf_counter_ns()
        ending = loop.turn()
        steps.wall_ms.append((time.perf_counter_ns() - began) / 1e6)
        steps.processor_ms.append((time.thread_time_ns() - processor) / 1e6)
        if ending is not None:
            raise RuntimeError(f"The run ended while it was measured: {ending.reason}")
        if time.monotonic() > gives_up_at:
            raise RuntimeError(f"Waited {patience_s:.0f} s in vain for {what}.")
    return steps


def steps_for(loop: TrainingLoop, seconds: float) -> Steps:
    """Train for some time and time each step."""
    until = time.monotonic() + seconds
    return steps_until(loop, lambda: time.monotonic() >= until, "the time to pass", seconds + 60.0)
