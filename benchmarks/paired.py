"""Paired, interleaved timing: a block of bare steps, a block of managed ones, again and again in one process.

Both sides of a pair see the same moment of the machine, so that a busy neighbour or a change of clock speed falls on
both; the order changes from pair to pair, so that a drift within a pair cancels.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

Times: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Block:
    """Some steps of one side.

    Attributes
    ----------
    steps_ns : sequence of int
        Wall time of each step.
    thread_ns : sequence of int
        Processor time of the training thread in each step.
    process_ns : int
        Processor time of the whole process over the block, other threads included.
    """

    steps_ns: Sequence[int]
    thread_ns: Sequence[int]
    process_ns: int

    @property
    def median_ns(self) -> float:
        """Wall time of the median step."""
        return statistics.median(self.steps_ns)

    @property
    def thread_median_ns(self) -> float:
        """Processor time of the median step in the training thread."""
        return statistics.median(self.thread_ns)


@dataclass(slots=True)
class Pairs:
    """Pairs of blocks that were measured in the same state."""

    bare: list[Block] = field(default_factory=list)
    managed: list[Block] = field(default_factory=list)

    def add(self, bare: Block, managed: Block) -> None:
        """Add a pair."""
        self.bare.append(bare)
        self.managed.append(managed)

    def as_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {"bare": [_block_json(block) for block in self.bare], "managed": [_block_json(b) for b in self.managed]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Read what `as_json` wrote."""
        return cls([Block(**row) for row in data["bare"]], [Block(**row) for row in data["managed"]])


def timed_block(step: Callable[[], object], count: int) -> Block:
    """Time steps one by one; a step that returns something ends the block."""
    wall, processor = time.perf_counter_ns, time.thread_time_ns
    steps: list[int] = []
    thread: list[int] = []
    process_ns = time.process_time_ns()
    for _ in range(count):
        thread_began = processor()
        began = wall()
        answer = step()
        steps.append(wall() - began)
        thread.append(processor() - thread_began)
        if answer is not None:
            break
    return Block(steps, thread, time.process_time_ns() - process_ns)


def summary(pairs: Pairs) -> dict[str, Any]:
    """Return the figures of a state: pooled percentiles, their ratios, and the spread over the pairs."""
    bare, managed = _pooled(pairs.bare, "steps_ns"), _pooled(pairs.managed, "steps_ns")
    return {
        "pairs": len(pairs.bare),
        "steps": {"bare": len(bare), "managed": len(managed)},
        "wall": {"bare_ms": _percentiles(bare), "managed_ms": _percentiles(managed), "ratio": _ratios(bare, managed)},
        "wall_pairs": _compared(pairs, "median_ns"),
        "processor": _processor(pairs),
        "processor_pairs": _compared(pairs, "thread_median_ns"),
        "block_medians_ms": {
            "bare": [_round(block.median_ns / 1e6) for block in pairs.bare],
            "managed": [_round(block.median_ns / 1e6) for block in pairs.managed],
        },
    }


def _compared(pairs: Pairs, what: str) -> dict[str, Any]:
    """Compare the block medians of each pair: quartiles of their ratio, and of what a step costs more."""
    both = [(getattr(a, what), getattr(b, what)) for a, b in zip(pairs.bare, pairs.managed, strict=True)]
    return {
        "ratio": _quartiles([managed / bare for bare, managed in both]),
        "added_us": _quartiles([(managed - bare) / 1e3 for bare, managed in both], 1),
    }


def _processor(pairs: Pairs) -> dict[str, Any]:
    bare, managed = _pooled(pairs.bare, "thread_ns"), _pooled(pairs.managed, "thread_ns")
    return {
        "bare_ms": _percentiles(bare),
        "managed_ms": _percentiles(managed),
        "ratio": _ratios(bare, managed),
        "other_threads_us_per_step": {"bare": _others_us(pairs.bare), "managed": _others_us(pairs.managed)},
    }


def _ratios(bare: Times, managed: Times) -> dict[str, float]:
    shares = {f"p{share}": np.percentile(managed, share) / np.percentile(bare, share) for share in (50, 90, 99)}
    return {name: _round(value) for name, value in {**shares, "mean": managed.mean() / bare.mean()}.items()}


def _pooled(blocks: Sequence[Block], what: str) -> Times:
    return np.concatenate([np.asarray(getattr(block, what), dtype=np.float64) for block in blocks])


def _percentiles(values: Times) -> dict[str, float]:
    shares = {f"p{share}": _round(np.percentile(values, share) / 1e6) for share in (50, 90, 99)}
    return {**shares, "mean": _round(values.mean() / 1e6)}


def _quartiles(values: Sequence[float], digits: int = 4) -> dict[str, float]:
    low, middle, high = np.percentile(np.asarray(values), (25, 50, 75))
    return {"low": _round(low, digits), "median": _round(middle, digits), "high": _round(high, digits)}


def _others_us(blocks: Sequence[Block]) -> float:
    others = sum(block.process_ns - sum(block.thread_ns) for block in blocks)
    return _round(others / 1e3 / sum(len(block.steps_ns) for block in blocks), 1)


def _block_json(block: Block) -> dict[str, Any]:
    return {"steps_ns": list(block.steps_ns), "thread_ns": list(block.thread_ns), "process_ns": block.process_ns}


def _round(value: Any, digits: int = 4) -> float:
    return round(float(value), digits)
