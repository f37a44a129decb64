"""The report of the measurement of rollbacks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from benchmarks.report import Report, Table

METHOD: Final = (
    "Task letter, an MLP of four hidden layers whose width gives the size; Adam (fused), batch 128, one thread on the "
    "CPU. The state that is restored is parameters, both moments, random state, data cursor and learning rate.",
    "fast: `Rollback.go_back` from the ring in memory after one more training step; full: the same with full=True, "
    "which reads the checkpoint on another thread, proves its SHA-256 and puts it in place. Latencies are those "
    "that the rollback itself reports.",
    "plain copy: torch `copy_` of the same tensors into tensors that exist. plain read: `readinto` of the checkpoint's "
    "tensor file into a buffer that exists. Each repetition makes restore and plain counterpart one after the other.",
    "Before every full restore and every plain read the file is dropped from the page cache (posix_fadvise DONTNEED); "
    "what the disk or the host of a virtual machine caches itself is beyond that.",
    "Ratios are plain time over restore time, of medians: 1 is as fast as the plain one.",
    "Checkpoint stall: the time that `StateKeeper.keep` holds the training thread to begin a checkpoint, and the whole "
    "cost: that time plus what the steps until the checkpoint is on disk took beyond the median step before it, both "
    "in median steps. The whole cost contains what the writer's thread takes from the processor.",
)
_HEADER: Final = ("size", "state", "median", "longest", "of the deadline", "longest of it", "plain", "ratio")
_STALL_HEADER: Final = ("size", "step", "held", "held, in steps", "whole cost, in steps", "steps beside the writing")


def report(figures: Mapping[str, Any]) -> Report:
    """Put the figures into a report."""
    tables = [
        Table("From memory (deadline 500 ms, plain memory copy)", _HEADER, list(_tier_rows(figures, "fast"))),
        Table("From disk (deadline 12 s, plain read of the file)", _HEADER, list(_tier_rows(figures, "full"))),
        Table("What a checkpoint costs the training thread", _STALL_HEADER, list(_stall_rows(figures))),
    ]
    return Report("rollback", "How long going back takes", list(_findings(figures)), METHOD, figures, tables)


def _tier_rows(figures: Mapping[str, Any], tier: str) -> Iterator[Sequence[str]]:
    for size, found in figures.items():
        one = found[tier]
        yield (
            f"{size} ({found['parameters']:,})",
            f"{found['state_mib']:.0f} MiB",
            f"{one['median_ms']:.1f} ms",
            f"{one['longest_ms']:.1f} ms",
            f"{one['share_of_deadline']:.1%}",
            f"{one['longest_share']:.1%}",
            f"{one['plain_ms']:.1f} ms",
            f"{one['ratio']:.2f}",
        )


def _stall_rows(figures: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    for size, found in figures.items():
        stall = found["stall"]
        yield (
            size,
            f"{found['step_ms']:.1f} ms",
            f"{stall['blocked_ms']:.1f} ms",
            f"{stall['blocked_steps']:.2f}",
            f"{stall['whole_steps']:.2f}",
            f"{stall['steps_beside']:.0f}",
        )


def _findings(figures: Mapping[str, Any]) -> Iterator[str]:
    for size, found in figures.items():
        fast, full, stall = found["fast"], found["full"], found["stall"]
        yield (
            f"{size} parameters: from memory {fast['median_ms']:.0f} ms ({fast['share_of_deadline']:.0%} of the "
            f"deadline, {fast['ratio']:.2f} of a plain copy's speed); from disk {full['median_ms']:.0f} ms "
            f"({full['share_of_deadline']:.0%}, {full['ratio']:.2f} of a plain read's speed); a checkpoint holds "
            f"training for {stall['blocked_steps']:.2f} steps and costs {stall['whole_steps']:.2f} altogether."
        )
