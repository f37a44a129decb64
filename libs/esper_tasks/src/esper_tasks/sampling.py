"""Splits of a data set, and a sampler whose whole state is a cursor.

The order of an epoch depends only on the sampler's seed and the epoch's number, so a cursor of two integers is enough
to go on, bit for bit, where another process stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from esper_core.errors import ValidationError


@dataclass(frozen=True, slots=True)
class Batch:
    """Some examples: inputs and targets of equal first dimension B."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return int(self.inputs.shape[0])


@dataclass(frozen=True, slots=True)
class Split:
    """One part of a data set, whole, on the CPU.

    Parameters
    ----------
    inputs : Tensor
        Shape (N, ...).
    targets : Tensor
        Shape (N,) for classes, (N, L) for sequences.
    """

    inputs: Tensor
    targets: Tensor

    def __post_init__(self) -> None:
        if self.inputs.shape[0] != self.targets.shape[0] or self.inputs.shape[0] == 0:
            raise ValidationError(
                f"A split needs as many targets as inputs, and at least one; it has "
                f"{self.inputs.shape[0]} inputs and {self.targets.shape[0]} targets.",
                field="split",
                allowed="inputs and targets of equal, positive length",
            )

    def __len__(self) -> int:
        return int(self.inputs.shape[0])

    def head(self, count: int) -> Split:
        """Return the first `count` examples, or all where there are fewer."""
        return Split(self.inputs[:count], self.targets[:count])

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Walk the split in order, once; the last batch may be shorter."""
        for start in range(0, len(self), batch_size):
            stop = start + batch_size
            yield Batch(self.inputs[start:stop], self.targets[start:stop])


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a sampler stands.

    Parameters
    ----------
    epoch : int
        Number of whole epochs behind us.
    position : int
        Examples of this epoch already handed out.
    """

    epoch: int = 0
    position: int = 0

    def to_dict(self) -> dict[str, int]:
        """Return the cursor as plain data for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Cursor:
        """Read a cursor written by `to_dict`.

        Raises
        ------
        ValidationError
            If a field is missing or isn't a whole number of at least 0.
        """
        if not all(isinstance(data.get(name), int) and data[name] >= 0 for name in ("epoch", "position")):
            raise ValidationError(
                "A data cursor needs epoch and position, whole numbers of at least 0.",
                field="cursor",
                allowed="epoch, position",
            )
        return cls(epoch=data["epoch"], position=data["position"])


def epoch_order(seed: int, epoch: int, count: int) -> Tensor:
    """Return the permutation of `count` examples for one epoch, a function of its arguments alone."""
    digest = hashlib.blake2b(f"{seed}/{epoch}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
    return torch.randperm(count, generator=generator)


class EpochSampler:
    """Hands out full batches of a split in a new order every epoch; what is left at an epoch's end is dropped.

    Parameters
    ----------
    split : Split
        The examples.
    batch_size : int
        Examples per batch, from 1 to the length of the split.
    seed : int
        Seed of the order.
    cursor : Cursor, optional
        Where to begin.
    """

    def __init__(self, split: Split, batch_size: int, seed: int, cursor: Cursor | None = None) -> None:
        if not 1 <= batch_size <= len(split):
            raise ValidationError(
                f"A batch cannot have {batch_size} of {len(split)} examples.",
                field="batch_size",
                allowed=f"an integer from 1 to {len(split)}",
            )
        self._split = split
        self._batch_size = batch_size
        self._batches_per_epoch = len(split) // batch_size
        self._seed = seed
        self.seek(cursor or Cursor())

    @property
    def batches_per_epoch(self) -> int:
        """Full batches in one epoch."""
        return self._batches_per_epoch

    @property
    def batch_size(self) -> int:
        """Examples per batch."""
        return self._batch_size

    @property
    def cursor(self) -> Cursor:
        """Where the next batch begins; keep it in a checkpoint."""
        return self._cursor

    def seek(self, cursor: Cursor) -> None:
        """Go to a cursor taken from a sampler of the same split, batch size and seed."""
        if cursor.position % self._batch_size or cursor.position > self.batches_per_epoch * self._batch_size:
            raise ValidationError(
                f"Position {cursor.position} is no start of a batch of {self._batch_size}; "
                "the cursor comes from another batch size or data set.",
                field="cursor.position",
                allowed=f"a multiple of {self._batch_size} up to {self.batches_per_epoch * self._batch_size}",
            )
        self._cursor = cursor
        self._order = epoch_order(self._seed, cursor.epoch, len(self._split))

    def next_batch(self) -> Batch:
        """Return the next batch and move the cursor behind it."""
        if self._cursor.position + self._batch_size > len(self._split):
            self.seek(Cursor(self._cursor.epoch + 1, 0))
        start = self._cursor.position
        chosen = self._order[start : start + self._batch_size]
        self._cursor = Cursor(self._cursor.epoch, start + self._batch_size)
        return Batch(self._split.inputs[chosen], self._split.targets[chosen])
