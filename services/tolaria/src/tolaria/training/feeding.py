"""The next batch on its way to the device while the present one trains.

On a CUDA device copies run on a stream of their own, from pinned memory; on the CPU there is nothing to copy and the
same code only looks one batch ahead. Which batches come, in which order, and the cursor in a checkpoint are those of
the sampler itself. Not measured on a GPU so far.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from esper_tasks import Batch, Cursor, EpochSampler


@dataclass(frozen=True, slots=True)
class _Ahead:
    """A batch that was asked for early, where the sampler stood before it, and when its copy is whole."""

    cursor: Cursor
    batch: Batch
    arrived: torch.cuda.Event | None


class PrefetchedBatches:
    """A sampler whose batches lie on the device, one of them ahead.

    Parameters
    ----------
    sampler : EpochSampler
        Where batches come from.
    device : torch.device
        Where they go.
    """

    def __init__(self, sampler: EpochSampler, device: torch.device) -> None:
        self._sampler = sampler
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._ahead: _Ahead | None = None

    @property
    def batches_per_epoch(self) -> int:
        """Full batches in one epoch."""
        return self._sampler.batches_per_epoch

    @property
    def batch_size(self) -> int:
        """Examples per batch."""
        return self._sampler.batch_size

    @property
    def cursor(self) -> Cursor:
        """Where the next batch begins that is handed out, not the next that is fetched."""
        return self._sampler.cursor if self._ahead is None else self._ahead.cursor

    def seek(self, cursor: Cursor) -> None:
        """Go to a cursor; what was fetched ahead is dropped."""
        self._ahead = None
        self._sampler.seek(cursor)

    def next_batch(self) -> Batch:
        """Return the next batch and send the one after it on its way."""
        present = self._ahead or self._fetch()
        self._ahead = self._fetch()
        if present.arrived is not None:
            self._hand_over(present.batch, present.arrived)
        return present.batch

    def _fetch(self) -> _Ahead:
        cursor, batch = self._sampler.cursor, self._sampler.next_batch()
        if self._stream is None:
            return _Ahead(cursor, batch, None)
        with torch.cuda.stream(self._stream):
            moved = Batch(self._moved(batch.inputs), self._moved(batch.targets))
            return _Ahead(cursor, moved, self._stream.record_event())

    def _moved(self, tensor: Tensor) -> Tensor:
        return tensor.pin_memory().to(self._device, non_blocking=True)

    def _hand_over(self, batch: Batch, arrived: torch.cuda.Event) -> None:
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(arrived)
        for tensor in (batch.inputs, batch.targets):
            # Else its memory could be given to the next copy while the step still reads it.
            tensor.record_stream(stream)
