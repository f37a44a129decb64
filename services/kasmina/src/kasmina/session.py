"""One run at the edge: its state machine, its journal, and the stream of the runtime that is connected now."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from esper_core.errors import EsperError, ResourceExhaustedError, StateConflictError, StorageError
from esper_core.pb.esper.kasmina.v1 import kasmina_pb2
from kasmina.commands import Command, Outcome
from kasmina.convert.runs import responses_of, welcome_to_message
from kasmina.directives import DirectiveResult
from kasmina.evidence import Evidence
from kasmina.facts import CommandDecided, Fact
from kasmina.journal import RunJournal
from kasmina.operations import Supply
from kasmina.run import Boundary, Greeting, RunExecutor
from kasmina.telemetry import Telemetry

OUTBOX_SIZE: Final = 1024
Item = kasmina_pb2.ExecuteResponse | EsperError | None


class Outbox:
    """What one stream still has to hear. `None` ends the stream, an error ends it with that error."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Item] = asyncio.Queue(OUTBOX_SIZE)
        self._ended = False

    def put(self, response: kasmina_pb2.ExecuteResponse) -> None:
        """Add a response; a runtime that has long stopped reading is cut off instead of being waited for."""
        if self._queue.full():
            self.end(ResourceExhaustedError("The runtime does not read what Kasmina says. Connect again."))
        elif not self._ended:
            self._queue.put_nowait(response)

    def end(self, error: EsperError | None = None) -> None:
        """End the stream after what is waiting; a full outbox loses its oldest item for that."""
        if self._ended:
            return
        self._ended = True
        if self._queue.full():
            self._queue.get_nowait()
        self._queue.put_nowait(error)

    async def get(self) -> Item:
        """Return the next item."""
        return await self._queue.get()


class RunSession:
    """Works off one input at a time: decide, write to disk, then tell."""

    def __init__(self, executor: RunExecutor, journal: RunJournal, telemetry: Telemetry) -> None:
        self.executor = executor
        self._journal = journal
        self._telemetry = telemetry
        self._lock = asyncio.Lock()
        self._outbox: Outbox | None = None
        self._told_steps: dict[str, int] = {}
        self.broken = False

    @property
    def run_id(self) -> str:
        """The run."""
        return self.executor.ledger.run_id

    @property
    def connected(self) -> bool:
        """Whether a runtime is connected."""
        return self._outbox is not None

    async def hello(self, greeting: Greeting, outbox: Outbox) -> None:
        """Receive a runtime; an older stream of the same run ends."""
        async with self._lock:
            if self._outbox is not None and self._outbox is not outbox:
                self._outbox.end(StateConflictError("Another runtime of this run has connected."))
            self._outbox = outbox
            reception = self.executor.hello(greeting)
            welcome = welcome_to_message(self.run_id, reception.known_run, reception.notes)
            await self._keep(reception.facts)
            self._telemetry.notes(reception.notes, self.run_id)
            outbox.put(kasmina_pb2.ExecuteResponse(welcome=welcome))
            self._answer(reception.facts)

    def leave(self, outbox: Outbox) -> None:
        """Take note that a stream has ended."""
        if self._outbox is outbox:
            self._outbox = None

    async def command(self, command: Command, supply: Supply) -> Outcome:
        """Carry out a verified command and return what became of it."""
        facts = await self._work(lambda: self.executor.command(command, supply))
        return next(fact.outcome for fact in reversed(facts) if isinstance(fact, CommandDecided))

    async def evidence(self, evidence: Evidence) -> None:
        """Take evidence."""
        await self._work(lambda: self.executor.evidence(evidence))
        first = self._told_steps.get(evidence.seed_id) != evidence.step
        self._told_steps[evidence.seed_id] = evidence.step
        self._telemetry.evidence(evidence, self.executor.ledger, publish=first)

    async def result(self, result: DirectiveResult) -> None:
        """Take the answer to a directive."""
        await self._work(lambda: self.executor.result(result))

    async def boundary(self, boundary: Boundary) -> None:
        """Let time pass."""
        await self._work(lambda: self.executor.boundary(boundary))

    async def ended(self, reason: str, resumable: bool) -> None:
        """Close the run."""
        await self._work(lambda: self.executor.ended(reason, resumable))

    async def reset_teacher(self, reason: str) -> bool:
        """Let the runtime's teacher go and return whether there was one.

        Raises
        ------
        StateConflictError
            If there is one and its runtime is not connected, so that nobody would let it go.
        """
        if self.executor.ledger.teacher_id and not self.connected:
            raise StateConflictError(f"The runtime of run {self.run_id} is not connected. Try again when it is.")
        return bool(await self._work(lambda: self.executor.reset_teacher(reason)))

    def close(self) -> None:
        """Let go of the journal."""
        self._journal.close()

    async def _work(self, decide: Callable[[], tuple[Fact, ...]]) -> tuple[Fact, ...]:
        async with self._lock:
            facts = decide()
            await self._keep(facts)
            self._answer(facts)
            return facts

    async def _keep(self, facts: tuple[Fact, ...]) -> None:
        """Write facts to disk before anybody hears of them; a run whose journal fails starts anew from the disk."""
        if not facts:
            return
        try:
            await _to_the_end(asyncio.to_thread(self._journal.append, facts))
        except StorageError as error:
            self.broken = True
            if self._outbox is not None:
                self._outbox.end(error)
            raise
        self._telemetry.facts(facts, self.executor.ledger)

    def _answer(self, facts: tuple[Fact, ...]) -> None:
        if self._outbox is None:
            return
        for response in responses_of(facts):
            self._outbox.put(response)


async def _to_the_end(writing: Coroutine[Any, Any, None]) -> None:
    """Finish a write even when its stream is cut meanwhile, so that the next one cannot overtake it."""
    task = asyncio.create_task(writing)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise
