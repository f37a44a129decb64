"""One Execute stream: the runtime speaks, its run answers, and a command that waits for a kernel holds up nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Final

from esper_core import leyline
from esper_core.errors import EsperError, InternalError, ResourceExhaustedError, ValidationError
from esper_core.logs import get_logger
from esper_core.pb.esper.kasmina.v1 import kasmina_pb2
from kasmina.catalogue import Catalogue
from kasmina.convert.commands import outcome_to_message
from kasmina.convert.directives import result_from_message
from kasmina.convert.evidence import evidence_from_message
from kasmina.convert.runs import boundary_from_message, greeting_from_message
from kasmina.dispatcher import Dispatcher
from kasmina.loading import KernelLoadManager
from kasmina.registry import RunRegistry
from kasmina.session import Outbox, RunSession
from kasmina.wanting import prefetch_all

MAX_COMMANDS_WAITING: Final = 16
_log = get_logger("execute")


class Conversation:
    """Holds one stream from its hello to its end."""

    def __init__(
        self, registry: RunRegistry, dispatcher: Dispatcher, kernels: KernelLoadManager, catalogue: Catalogue
    ) -> None:
        self._registry = registry
        self._dispatcher = dispatcher
        self._kernels = kernels
        self._catalogue = catalogue
        self._outbox = Outbox()
        self._session: RunSession | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._prefetching: asyncio.Task[None] | None = None

    async def hold(
        self, requests: AsyncIterator[kasmina_pb2.ExecuteRequest]
    ) -> AsyncIterator[kasmina_pb2.ExecuteResponse]:
        """Listen and answer until the runtime ends the stream, or something is wrong with it.

        Raises
        ------
        EsperError
            What ended the stream before its time.
        """
        listening = asyncio.create_task(self._listen(requests))
        try:
            while (item := await self._outbox.get()) is not None:
                if isinstance(item, EsperError):
                    raise item
                yield item
        finally:
            await _cancel_all({listening, self._prefetching, *self._tasks})
            if self._session is not None:
                self._session.leave(self._outbox)

    async def _listen(self, requests: AsyncIterator[kasmina_pb2.ExecuteRequest]) -> None:
        try:
            async for request in requests:
                kind = request.WhichOneof("request")
                if kind != "command":
                    leyline.validate(request)
                await self._hear(kind, request)
            if self._tasks:
                await asyncio.wait(self._tasks)
            self._outbox.end()
        except Exception as error:
            self._outbox.end(_told(error))

    async def _hear(self, kind: str | None, request: kasmina_pb2.ExecuteRequest) -> None:
        if kind == "hello":
            await self._hello(request.hello)
            return
        session = self._greeted()
        if kind == "command":
            self._start(self._command(request.command, session))
        elif kind == "evidence":
            await session.evidence(evidence_from_message(request.evidence))
        elif kind == "result":
            await session.result(result_from_message(request.result))
        elif kind == "boundary":
            await session.boundary(boundary_from_message(request.boundary))
        elif kind == "ended":
            await self._ended(request.ended, session)
        else:
            raise ValidationError("The message is empty.", field="request", allowed="one of the ExecuteRequest parts")
        self._registry.tell_active()

    async def _hello(self, message: kasmina_pb2.Hello) -> None:
        greeting = greeting_from_message(message)
        session = self._registry.open(greeting.run_id)
        if self._session is not None and self._session is not session:
            self._session.leave(self._outbox)
        self._session = session
        await session.hello(greeting, self._outbox)
        if self._prefetching is not None:
            self._prefetching.cancel()
        self._prefetching = asyncio.create_task(prefetch_all(self._kernels, greeting, self._catalogue))

    async def _ended(self, message: kasmina_pb2.RunEnded, session: RunSession) -> None:
        """Close the run; what it still asks for is withdrawn, and nothing more is asked for."""
        if self._prefetching is not None:
            self._prefetching.cancel()
        await session.ended(message.reason, message.resumable)
        self._kernels.cancel_run(session.run_id, f"The run is over: {message.reason}.")

    async def _command(self, message: leyline.AdaptationCommand, session: RunSession) -> None:
        try:
            dispatched = await self._dispatcher.dispatch(message, session)
        except Exception as error:
            self._outbox.end(_told(error))
            return
        if not dispatched.told:
            self._outbox.put(kasmina_pb2.ExecuteResponse(outcome=outcome_to_message(dispatched.outcome)))

    def _greeted(self) -> RunSession:
        if self._session is None:
            raise ValidationError("The first message must be a hello.", field="request", allowed="hello")
        return self._session

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        if len(self._tasks) >= MAX_COMMANDS_WAITING:
            work.close()
            raise ResourceExhaustedError(
                f"{MAX_COMMANDS_WAITING} commands of this run wait already.", retry_after_s=1.0
            )
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _told(error: Exception) -> EsperError:
    """Return what the runtime hears of an error; a defect of ours is logged whole and told in a sentence."""
    if isinstance(error, EsperError):
        return error
    _log.error("a stream failed", exc_info=error)
    return InternalError("Kasmina failed on this message. Its log says why.")


async def _cancel_all(tasks: set[asyncio.Task[None] | None]) -> None:
    running = [task for task in tasks if task is not None]
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
