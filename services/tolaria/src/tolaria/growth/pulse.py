"""The pulse towards Kasmina: boundaries, so that time passes for it, and evidence, so that it can judge."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from tolaria.growth.evidence import EvidenceCollector
from tolaria.growth.observation import Observed, watch
from tolaria.training.links import BoundaryMark, Links
from tolaria.training.session import Session


class Pulse:
    """Sends evidence and boundaries every few steps and at the end of each epoch.

    Parameters
    ----------
    session : Session
        The run.
    links : Links
        Where they go.
    evidence : EvidenceCollector
        Measures.
    interval_steps : int
        Optimizer steps between two reports.
    spacing_s : float
        Shortest wall time between two reports within an epoch; steps that are faster than the control plane would
        otherwise queue up reports, and what it decides would be about a past that is long over.
    """

    def __init__(
        self, session: Session, links: Links, evidence: EvidenceCollector, interval_steps: int, spacing_s: float
    ) -> None:
        self._session = session
        self._links = links
        self._evidence = evidence
        self._interval = interval_steps
        self._spacing_s = spacing_s
        self._seen: Mapping[str, Observed] = {}
        self._last = -math.inf
        self._now_due = False
        self._epoch_steps = session.sampler.batches_per_epoch
        self._sampling = torch.Generator().manual_seed(session.plan.random_seed)

    def watches(self) -> bool:
        """Say whether the coming step is one to be watched: a report is due after it, and there are seeds."""
        step = self._session.counters.step + 1
        self._now_due = step % self._epoch_steps == 0 or (
            step % self._interval == 0 and time.monotonic() - self._last >= self._spacing_s
        )
        return self._now_due and bool(self._session.book.unsettled())

    def beat(self) -> None:
        """Send what is due after the step that was last asked about."""
        if not self._now_due:
            return
        session = self._session
        self._last = time.monotonic()
        if session.book.unsettled():
            self._report(boundary=session.at_epoch_end, final=False)
        self._mark(epoch_end=session.at_epoch_end, final=False)

    def final_beat(self) -> None:
        """Send what is known at the last fence."""
        self._report(boundary=True, final=True)
        self._mark(epoch_end=True, final=True)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Observe the seeds in the step inside the block."""
        session = self._session
        seed_ids = [entry.seed_id for entry in session.book.unsettled()]
        loss_scale = 1.0 if session.precision is None else session.precision.scale
        with watch(session.host, seed_ids, self._sampling, loss_scale) as seen:
            self._seen, graphs = seen, session.graphs
            yield
            if session.graphs != graphs:
                _forget_latency(seen)

    def _report(self, *, boundary: bool, final: bool) -> None:
        for message in self._evidence.collect(self._seen, boundary=boundary, final=final):
            self._links.to_kasmina.put(message)

    def _mark(self, *, epoch_end: bool, final: bool) -> None:
        session = self._session
        self._links.to_kasmina.put(
            BoundaryMark(session.counters.step, session.epoch, session.host.generation, epoch_end, final)
        )


def _forget_latency(seen: Mapping[str, Observed]) -> None:
    """Leave out the times of a step that compiled: compiling is no cost of the seed, and a gate bounds those."""
    for observed in seen.values():
        observed.latency_ms = None
