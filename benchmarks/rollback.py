"""Going back: from memory and from disk, against the deadlines and against the bare copy and read; checkpoint stall.

    python -m benchmarks rollback [--quick] [--size SIZE ...] [--json]

Each size is a real session of the letter task with a wide MLP and Adam. Restores alternate with a plain copy of the
same tensors and a plain read of the same file.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from benchmarks.rollback_report import report
from esper_core import leyline
from esper_core.ids import new_run_id
from esper_runtime.snapshot import Snapshot
from esper_tasks.letter import LetterTask
from esper_tasks.parameters import IntParameter, Parameter
from tolaria.reporting.board import StatusBoard
from tolaria.reporting.events import EventLog
from tolaria.reporting.reporter import Reporter
from tolaria.rundir import RunDirectory, RunRequest
from tolaria.settings import WorkerSettings
from tolaria.state.capture import capture_session
from tolaria.state.checkpoints import CheckpointStore
from tolaria.state.keeper import Rhythm, StateKeeper
from tolaria.state.ring import SnapshotRing
from tolaria.state.rollback import Deadlines, Rollback
from tolaria.training.budget import Budget
from tolaria.training.opening import open_session
from tolaria.training.plan import OptimizerPlan, RunPlan
from tolaria.training.queues import LatestSlot
from tolaria.training.session import Session
from tolaria.training.step import training_step

NEVER: Final = 10**9
EXPLOSION: Final = 1e9
PATIENCE: Final = 10.0


@dataclass(frozen=True, slots=True)
class Size:
    """A model, and how often it is measured."""

    name: str
    width: int
    repeats: int
    steps: int


SIZES: Final = (Size("1 M", 577, 15, 40), Size("10 M", 1826, 9, 20), Size("100 M", 5774, 3, 4))
QUICK: Final = Size("quick", 128, 2, 4)


class WideLetter(LetterTask):
    """Letter with hidden layers as wide as a measurement wants them."""

    def parameters(self) -> Sequence[Parameter]:
        """Return the task's own, with another limit to the width."""
        return tuple(
            replace(known, high=8192) if isinstance(known, IntParameter) and known.name == "width" else known
            for known in super().parameters()
        )


class Subject:
    """A session with both tiers of its state, in a folder of its own."""

    def __init__(self, size: Size, folder: Path) -> None:
        settings = WorkerSettings()
        plan = RunPlan(
            run_id=new_run_id(),
            task="letter",
            batch_size=128,
            budget=Budget(NEVER),
            optimizer=OptimizerPlan("adam", 1e-3),
            parameters={"width": size.width, "depth": 4},
        )
        self.session: Session = open_session(plan, WideLetter())
        self.ring, self.store = SnapshotRing(1), CheckpointStore(folder / "checkpoints", 2)
        self.deadlines = Deadlines(settings.fast_rollback_deadline_ms / 1000, settings.full_rollback_deadline_s)
        # Restores that miss the deadline are measured as well, so the rollback itself gets more time.
        patient = Deadlines(self.deadlines.fast_s * PATIENCE, self.deadlines.full_s * PATIENCE)
        self.rollback = Rollback(self.session, self.ring, self.store, patient, lambda bad: None)
        board = StatusBoard(RunRequest(plan.run_id, leyline.RunSpec(), datetime.now(UTC)), os.getpid())
        self.events = EventLog(RunDirectory(folder).events_path, plan.run_id)
        self.reporter = Reporter(self.session, board, self.events, LatestSlot(), lambda: None)

    def keeper(self) -> StateKeeper:
        """Return a keeper that writes a checkpoint at every call."""
        rhythm = Rhythm(snapshot_steps=NEVER, checkpoint_steps=1, longest_s=1e9, spacing_s=0.0)
        return StateKeeper(self.session, self.ring, self.store, rhythm, self.reporter)

    def step(self) -> float:
        """Make a step and return its seconds."""
        return timed(lambda: training_step(self.session, EXPLOSION))

    @property
    def tensor_file(self) -> Path:
        """Tensors of the newest checkpoint."""
        return self.store.records()[0].path / "tensors.safetensors"


def measure(size: Size) -> dict[str, Any]:
    """Measure one size.

    Raises
    ------
    RuntimeError
        If a rollback does not restore.
    """
    with tempfile.TemporaryDirectory(prefix="esper-bench-rollback-") as scratch:
        subject = Subject(size, Path(scratch))
        steps = [subject.step() for _ in range(size.steps + 1)][1:]
        stall = [_stall(subject, statistics.median(steps)) for _ in range(min(3, size.repeats))]
        snapshot = capture_session(subject.session, 0.0)
        subject.ring.put(snapshot)
        fast, copies = _alternating(size, lambda: _restore(subject, full=False), _plain_copy(snapshot))
        full, reads = _alternating(size, lambda: _restore(subject, full=True), _plain_read(subject.tensor_file))
        subject.events.close()
    return {
        "parameters": subject.session.host.parameter_count(),
        "state_mib": snapshot.nbytes / 2**20,
        "step_ms": statistics.median(steps) * 1000,
        "fast": _tier(fast, copies, subject.deadlines.fast_s),
        "full": _tier(full, reads, subject.deadlines.full_s),
        "stall": {key: statistics.median(found[key] for found in stall) for key in stall[0]},
    }


def timed(action: Callable[[], object]) -> float:
    """Return how many seconds an action took."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def _alternating(size: Size, one: Callable[[], float], other: Callable[[], float]) -> tuple[list[float], list[float]]:
    """Measure both in turn; the first pair warms up and is not counted."""
    pairs = [(one(), other()) for _ in range(size.repeats + 1)][1:]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def _restore(subject: Subject, *, full: bool) -> float:
    subject.step()
    if full:
        _drop_from_cache(subject.tensor_file)
    done = subject.rollback.go_back("benchmark", full=full)
    if not done.restored or done.full != full:
        raise RuntimeError(f"The rollback did not do what was measured: {done.message}")
    return done.latency_s


def _plain_copy(snapshot: Snapshot) -> Callable[[], float]:
    sources: list[Tensor] = [*snapshot.parameters.values(), *snapshot.buffers.values()]
    assert snapshot.optimizer is not None
    sources += [tensor for kept in snapshot.optimizer.tensors.values() for tensor in kept.values()]
    targets = [torch.empty_like(tensor) for tensor in sources]

    def copy() -> None:
        for target, source in zip(targets, sources, strict=True):
            target.copy_(source)

    return lambda: timed(copy)


def _plain_read(path: Path) -> Callable[[], float]:
    buffer = bytearray(path.stat().st_size)

    def read() -> None:
        with path.open("rb", buffering=0) as file:
            view, at = memoryview(buffer), 0
            while at < len(buffer):
                at += file.readinto(view[at:])

    def measured() -> float:
        _drop_from_cache(path)
        return timed(read)

    return measured


def _drop_from_cache(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _stall(subject: Subject, step_s: float) -> dict[str, float]:
    """Begin a checkpoint and train on until it is on disk."""
    keeper = subject.keeper()
    before = {record.path for record in subject.store.records()}
    subject.step()
    blocked_s = timed(keeper.keep)
    beside = []
    while {record.path for record in subject.store.records()} <= before:
        beside.append(subject.step())
    keeper.close()
    whole_s = blocked_s + sum(beside) - len(beside) * step_s
    return {
        "blocked_ms": blocked_s * 1000,
        "blocked_steps": blocked_s / step_s,
        "whole_steps": whole_s / step_s,
        "steps_beside": float(len(beside)),
    }


def _tier(restores: list[float], plain: list[float], deadline_s: float) -> dict[str, float]:
    median = statistics.median(restores)
    return {
        "median_ms": median * 1000,
        "longest_ms": max(restores) * 1000,
        "share_of_deadline": median / deadline_s,
        "longest_share": max(restores) / deadline_s,
        "plain_ms": statistics.median(plain) * 1000,
        "ratio": statistics.median(plain) / median,
        "repeats": float(len(restores)),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks rollback",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [size.name for size in SIZES]
    parser.add_argument("--size", nargs="+", choices=names, default=names, help="sizes to measure")
    parser.add_argument("--quick", action="store_true", help="one small model: shows that it works, measures badly")
    parser.add_argument("--out", type=Path, help="folder of the report; the folder benchmarks when left out")
    parser.add_argument("--json", action="store_true", help="print the report as JSON on stdout")
    chosen = parser.parse_args(arguments)
    figures: dict[str, Any] = {}
    for size in [QUICK] if chosen.quick else [size for size in SIZES if size.name in chosen.size]:
        print(f"{size.name} ...", file=sys.stderr, flush=True)
        figures[size.name] = measure(size)
    made = report(figures)
    page = made.write(chosen.out) if chosen.out else made.write()
    print(json.dumps(made.as_json()) if chosen.json else f"Report: {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
