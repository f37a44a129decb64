"""What the client needs of a broker, whichever it is: Oona over gRPC, or the double in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from esper_core import leyline
from esper_core.pb.esper.oona.v1 import oona_pb2


class Session(Protocol):
    """An open subscription."""

    def deliveries(self) -> AsyncIterator[oona_pb2.Delivery]:
        """Yield deliveries until the session ends.

        Raises
        ------
        EsperError
            When the broker goes away or ends the subscription.
        """
        ...

    async def ack(self, delivery_id: str) -> None:
        """Say that a delivery was handled."""
        ...

    async def nack(self, delivery_id: str, reason: str, *, permanent: bool) -> None:
        """Give a delivery back; a permanent failure goes straight to the dead letters."""
        ...


class Link(Protocol):
    """A way to a broker."""

    async def publish(
        self, envelopes: Sequence[leyline.BusEnvelope], timeout_s: float
    ) -> Sequence[oona_pb2.PublishReceipt]:
        """Hand envelopes to the broker; one receipt each, in their order.

        Raises
        ------
        EsperError
            When the broker cannot be reached; then nothing is known about the envelopes.
        """
        ...

    def subscribe(self, opening: oona_pb2.SubscribeOpen) -> AbstractAsyncContextManager[Session]:
        """Open a subscription; entering raises EsperError when the broker refuses or cannot be reached."""
        ...

    async def dead_letters(self, limit: int, after: str) -> Sequence[oona_pb2.DeadLetter]:
        """Tell what could not be handled, the oldest first."""
        ...

    async def redrive(self, entry_ids: Sequence[str]) -> oona_pb2.RedriveResponse:
        """Send dead letters back to the groups that failed; none named means all."""
        ...

    async def close(self) -> None:
        """Let go of the broker."""
        ...
