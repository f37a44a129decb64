"""Emergencies through shared memory: from the service to the worker's next fence, past network and event loops.

The same signal comes over the link as well. Both ways carry the same order id, so that the fence obeys it once.
"""

from __future__ import annotations

from typing import Final

from esper_core import leyline
from esper_core.ids import new_id
from esper_core.pb.esper.tolaria.v1 import tolaria_pb2
from esper_core.shared_ring import RingReader, RingWriter, create_ring
from tolaria.rundir import RunDirectory
from tolaria.training.orders import Order

_LONGEST_REASON: Final = 1000


def send_signal(run: RunDirectory, order: tolaria_pb2.WorkerOrder) -> None:
    """Put an emergency order where the worker of a run looks at every fence; a long reason is cut.

    Raises
    ------
    StorageError, IntegrityError, StateFolderInUseError
        If it cannot be put there.
    """
    short = tolaria_pb2.WorkerOrder()
    short.CopyFrom(order)
    short.reason = order.reason[:_LONGEST_REASON]
    with RingWriter(run.emergencies_path) as ring:
        ring.write(short.SerializeToString())


class SignalReader:
    """The worker's end; signals from before it began are left to the link, which keeps what was not answered.

    Parameters
    ----------
    run : RunDirectory
        The run.
    """

    def __init__(self, run: RunDirectory) -> None:
        create_ring(run.emergencies_path)
        self._ring = RingReader(run.emergencies_path)
        self._seen = self._ring.head

    @property
    def waiting(self) -> bool:
        """Whether something came; cheap enough for every fence."""
        return self._ring.head != self._seen

    def take(self) -> list[Order]:
        """Return what came; signals that were overwritten are not lost, but stand as an emergency themselves."""
        reading = self._ring.since(self._seen)
        self._seen = reading.head
        orders = [order_of(tolaria_pb2.WorkerOrder.FromString(payload)) for payload in reading.payloads]
        return [*orders, _overrun(reading.lost)] if reading.lost else orders

    def close(self) -> None:
        """Let go of the memory."""
        self._ring.close()


def order_of(message: tolaria_pb2.WorkerOrder) -> Order:
    """Convert an order as it came from the service."""
    return Order(
        order_id=message.order_id,
        kind=message.kind,
        reason=message.reason,
        to_step=message.to_step if message.HasField("to_step") else None,
        full=message.full,
        level=message.level,
        signal_id=message.signal_id,
        origin=message.origin,
        triggered_at_s=message.triggered_at.ToNanoseconds() / 1e9 if message.HasField("triggered_at") else None,
    )


def _overrun(lost: int) -> Order:
    reason = f"{lost} signals in shared memory were overwritten before they were read; the link brings them."
    return Order(new_id("overrun"), leyline.ORDER_KIND_EMERGENCY, reason, level=leyline.EMERGENCY_LEVEL_ELEVATED)
