"""The training thread's side of the worker: what comes in at fences and what goes out, without waiting for anybody."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TypeAlias

from esper_core import leyline
from tolaria.growth.prepared import PreparedKernels
from tolaria.reporting.records import StepRecord
from tolaria.training.orders import Order, OrderOutcome, RateChange
from tolaria.training.queues import Inbox, LatestSlot, Outbox


@dataclass(frozen=True, slots=True)
class GreetingWanted:
    """Kasmina is to be greeted: the training thread puts a Greeting at the head of an empty outbox."""


@dataclass(frozen=True, slots=True)
class Greeting:
    """What the runtime holds, as a stream to Kasmina begins with it."""

    step: int
    generation: int
    total_steps: int
    inventory: tuple[leyline.SeedState, ...]
    teacher_id: str = ""


@dataclass(frozen=True, slots=True)
class TeacherDismissed:
    """The teacher is to go at the next fence, and why."""

    teacher_id: str
    reason: str


Incoming: TypeAlias = (
    leyline.Directive | leyline.SeedTransition | Order | RateChange | GreetingWanted | TeacherDismissed
)


@dataclass(frozen=True, slots=True)
class Ended:
    """The run is over, as Kasmina is told."""

    reason: str
    resumable: bool


@dataclass(frozen=True, slots=True)
class BoundaryMark:
    """A step or epoch boundary, as Kasmina is told."""

    step: int
    epoch: int
    generation: int
    epoch_end: bool
    final: bool


ToKasmina: TypeAlias = Greeting | leyline.SeedEvidence | leyline.DirectiveResult | BoundaryMark | Ended


class ControlHealth:
    """Which peers of the control plane are lost, written by the mediator, read at every fence."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lost: dict[str, str] = {}
        self.lost = False

    def set_lost(self, peer: str, reason: str) -> bool:
        """Mark a peer as lost; True when that is news."""
        with self._lock:
            news = peer not in self._lost
            self._lost[peer] = reason
            self.lost = True
            return news

    def set_back(self, peer: str) -> bool:
        """Mark a peer as back; True when that is news."""
        with self._lock:
            news = self._lost.pop(peer, None) is not None
            self.lost = bool(self._lost)
            return news

    @property
    def reason(self) -> str:
        """Who is lost and why, as a sentence."""
        with self._lock:
            return " ".join(f"{peer} is lost: {reason}" for peer, reason in sorted(self._lost.items()))


@dataclass(slots=True)
class Links:
    """Everything between the two threads of a worker.

    Attributes
    ----------
    inbox : Inbox
        To the training thread.
    to_kasmina : Outbox
        Evidence, results and boundaries, in order.
    to_tolaria : Outbox
        What became of orders.
    records : LatestSlot
        Step records for Tamiyo.
    prepared : PreparedKernels
        Kernels that were built by the mediator.
    control : ControlHealth
        Whether Tamiyo and Kasmina are there.
    greet_again : threading.Event
        Set by the training thread after a rollback changed the topology: Kasmina must be greeted anew.
    """

    inbox: Inbox[Incoming]
    to_kasmina: Outbox[ToKasmina]
    to_tolaria: Outbox[OrderOutcome]
    records: LatestSlot[StepRecord] = field(default_factory=LatestSlot)
    prepared: PreparedKernels = field(default_factory=PreparedKernels)
    control: ControlHealth = field(default_factory=ControlHealth)
    greet_again: threading.Event = field(default_factory=threading.Event)


def make_links(limit: int) -> Links:
    """Return empty links whose queues hold up to `limit` messages."""
    return Links(
        inbox=Inbox(limit),
        to_kasmina=Outbox(limit, lambda item: isinstance(item, leyline.SeedEvidence | BoundaryMark)),
        to_tolaria=Outbox(limit, lambda item: False),
    )
