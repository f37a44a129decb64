"""The way to Oona: one channel, one stream for publications, one for each subscription."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import grpc

from esper_core import leyline
from esper_core.errors import EsperError, InternalError, UnavailableError
from esper_core.pb.esper.oona.v1 import oona_pb2, oona_pb2_grpc
from esper_core.rpc import EsperChannel, TlsFiles, from_rpc_error, open_channel, tls_from_environment
from esper_core.security import Keyring, TokenSource

PEER: Final = "Oona"
OPEN_TIMEOUT_S: Final = 10.0
ANSWER_TIMEOUT_S: Final = 10.0


class GrpcLink:
    """Link to Oona; connects at the first use and after every loss.

    Parameters
    ----------
    address : str
        `host:port` of Oona.
    source : str
        Service that calls.
    keyring : Keyring
        Mints the caller's tokens.
    tls : TlsFiles, optional
        Certificates; those that the environment names by default.
    """

    def __init__(self, address: str, source: str, keyring: Keyring, tls: TlsFiles | None = None) -> None:
        self._address = address
        self._source = source
        self._tokens = TokenSource(keyring, source, "service")
        self._tls = tls
        self._channel: EsperChannel | None = None
        self._publishing: Any = None

    async def publish(
        self, envelopes: Sequence[leyline.BusEnvelope], timeout_s: float
    ) -> Sequence[oona_pb2.PublishReceipt]:
        """Send one batch down the publishing stream and wait for its receipts."""
        try:
            async with _answer_within(timeout_s):
                receipts = await self._exchange(oona_pb2.PublishRequest(envelopes=envelopes))
        except BaseException:
            # A stream that failed or was left in the middle of an exchange would pair the next batch with old receipts.
            self._drop_stream()
            raise
        if len(receipts) != len(envelopes):
            self._drop_stream()
            raise InternalError(f"Oona sent {len(receipts)} receipts for {len(envelopes)} envelopes.")
        return receipts

    async def _exchange(self, request: oona_pb2.PublishRequest) -> Sequence[oona_pb2.PublishReceipt]:
        with _peer_errors():
            if self._publishing is None:
                self._publishing = self._stub().PublishStream()
            await self._publishing.write(request)
            answer = await self._publishing.read()
            if answer is grpc.aio.EOF:
                raise UnavailableError("Oona ended the stream; it is shutting down.")
            return list(answer.receipts)

    def _drop_stream(self) -> None:
        if self._publishing is not None:
            self._publishing.cancel()
            self._publishing = None

    @asynccontextmanager
    async def subscribe(self, opening: oona_pb2.SubscribeOpen) -> AsyncIterator[GrpcSession]:
        """Open a subscription and wait until it stands."""
        call: Any = self._stub().Subscribe()
        try:
            async with _answer_within(OPEN_TIMEOUT_S):
                with _peer_errors():
                    await call.write(oona_pb2.SubscribeRequest(open=opening))
                    first = await call.read()
            if first is grpc.aio.EOF or not first.opened:
                raise UnavailableError("Oona ended the subscription before it stood.")
            yield GrpcSession(call)
        finally:
            call.cancel()

    async def dead_letters(self, limit: int, after: str) -> Sequence[oona_pb2.DeadLetter]:
        """Tell what could not be handled, the oldest first."""
        request = oona_pb2.ListDeadLettersRequest(limit=limit, after=after)
        with _peer_errors():
            answer: oona_pb2.ListDeadLettersResponse = await self._stub().ListDeadLetters(request)
        return list(answer.letters)

    async def redrive(self, entry_ids: Sequence[str]) -> oona_pb2.RedriveResponse:
        """Send dead letters back to the groups that failed."""
        with _peer_errors():
            answer: oona_pb2.RedriveResponse = await self._stub().Redrive(oona_pb2.RedriveRequest(entry_ids=entry_ids))
        return answer

    async def close(self) -> None:
        """Close the channel."""
        self._drop_stream()
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    def _stub(self) -> Any:
        if self._channel is None:
            tls = self._tls or tls_from_environment()
            self._channel = open_channel(self._address, self._tokens, self._source, tls)
        return oona_pb2_grpc.BrokerStub(self._channel)


class GrpcSession:
    """An open subscription on one call."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._writing = asyncio.Lock()

    async def deliveries(self) -> AsyncIterator[oona_pb2.Delivery]:
        """Yield what arrives."""
        while True:
            with _peer_errors():
                delivery = await self._call.read()
            if delivery is grpc.aio.EOF:
                raise UnavailableError("Oona ended the subscription; it is shutting down.")
            yield delivery

    async def ack(self, delivery_id: str) -> None:
        """Acknowledge."""
        await self._write(oona_pb2.SubscribeRequest(ack=oona_pb2.SubscribeAck(delivery_ids=[delivery_id])))

    async def nack(self, delivery_id: str, reason: str, *, permanent: bool) -> None:
        """Give back."""
        nack = oona_pb2.SubscribeNack(delivery_id=delivery_id, reason=reason, permanent=permanent)
        await self._write(oona_pb2.SubscribeRequest(nack=nack))

    async def _write(self, request: oona_pb2.SubscribeRequest) -> None:
        async with self._writing, _answer_within(ANSWER_TIMEOUT_S):
            with _peer_errors():
                await self._call.write(request)


@contextmanager
def _peer_errors() -> Iterator[None]:
    """Raise EsperErrors in place of what gRPC raises, a write to an ended call included."""
    try:
        yield
    except grpc.RpcError as error:
        raise _transport(from_rpc_error(error, PEER)) from error
    except asyncio.InvalidStateError as error:
        raise UnavailableError("The stream to Oona has ended.") from error


def _transport(error: EsperError) -> EsperError:
    """Take a call that gRPC itself broke off for a lost peer: it says nothing about the message."""
    lost = {"CANCELLED", "INTERNAL", "UNKNOWN", "DEADLINE_EXCEEDED"}
    if error.details.get("grpc_status") in lost:
        return UnavailableError(error.message, details=error.details)
    return error


@asynccontextmanager
async def _answer_within(seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise UnavailableError(f"Oona did not answer within {seconds:g} s.") from error
