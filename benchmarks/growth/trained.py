"""Runs that were made already: cases share hosts, and the host of a warm case is the small arm of a cold one."""

from __future__ import annotations

from pathlib import Path

from benchmarks.growth.arms import SMALL, Arm, course_of, spec_of
from benchmarks.growth.run import Trained, train


class Runs:
    """Makes runs, each of them once.

    Parameters
    ----------
    folder : Path
        Where checkpoints of hosts are kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[tuple[object, ...], Trained] = {}

    def run(self, arm: Arm, task: str, flops: int, rate: float, seed: int, host: Path | None = None) -> Trained:
        """Return the run of an arm, from the checkpoint of a host where the arm begins with one."""
        key = (arm, task, flops, rate, seed, host if arm.warm else None)
        if key not in self._known:
            keep = self._place(task, flops, rate, seed) if arm == SMALL else None
            self._known[key] = train(spec_of(arm, task, flops, rate, seed, host), course_of(arm, seed), keep=keep)
        return self._known[key]

    def host(self, task: str, flops: int, rate: float, seed: int) -> Path:
        """Return the last checkpoint of a small net."""
        self.run(SMALL, task, flops, rate, seed)
        return max(path for path in self._place(task, flops, rate, seed).iterdir() if path.is_dir())

    def _place(self, task: str, flops: int, rate: float, seed: int) -> Path:
        return self._folder / f"{task}-{flops}-{rate:g}-{seed}"
