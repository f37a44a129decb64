"""The conversation with Kasmina: greeting, commands, evidence and results out; directives and news of seeds in."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from typing import Any, Final

import grpc

from esper_core import leyline
from esper_core.breaker import Permit
from esper_core.clocks import SYSTEM_CLOCK, from_timestamp, to_timestamp
from esper_core.errors import EsperError, InternalError, ResourceExhaustedError, UnavailableError
from esper_core.logs import get_logger
from esper_core.pb.esper.kasmina.v1 import kasmina_pb2 as kasmina
from esper_core.pb.esper.kasmina.v1.kasmina_pb2_grpc import ExecutorStub
from tolaria.mediator.accepted import act_on
from tolaria.mediator.kernels import KernelSource
from tolaria.mediator.packets import hello, kasmina_request
from tolaria.mediator.peer import PEER_FAILURES, ControlPeer, Voices
from tolaria.mediator.wake import Wake
from tolaria.reporting.records import RunFacts
from tolaria.settings import WorkerSettings
from tolaria.training.links import Greeting, GreetingWanted, Links, TeacherDismissed

_COMMANDS: Final = 16
_REMEMBERED: Final = 256
_log = get_logger("mediator")


class GreetAgainError(UnavailableError):
    """The topology went back in time; a new greeting has to say so."""


class KasminaPart:
    """Keeps the Execute stream.

    Parameters
    ----------
    channel : grpc.aio.Channel
        To Kasmina.
    kernels : KernelSource
        Prepares kernels.
    facts, settings, links, voices, peer
        The run and its surroundings.
    """

    name = "kasmina"

    def __init__(
        self,
        channel: grpc.aio.Channel,
        kernels: KernelSource,
        facts: RunFacts,
        settings: WorkerSettings,
        links: Links,
        voices: Voices,
        peer: ControlPeer,
    ) -> None:
        self._stub: Any = ExecutorStub(channel)
        self._channel = channel
        self._kernels = kernels
        self._facts = facts
        self._settings = settings
        self._links = links
        self._voices = voices
        self._peer = peer
        self._wake = Wake()
        self._commands: deque[leyline.AdaptationCommand] = deque(maxlen=_COMMANDS)
        self._asked: OrderedDict[str, leyline.AdaptationCommand] = OrderedDict()
        self._preparing: dict[str, asyncio.Task[None]] = {}
        self._call: Any = None
        self._gone = asyncio.Event()
        self._finishing = False

    def pass_on(self, command: leyline.AdaptationCommand) -> None:
        """Queue a command of Tamiyo's; in a full queue the oldest gives way, it would be stale by then."""
        if len(self._commands) == _COMMANDS:
            _log.warning("a command was dropped because Kasmina is away", command_id=self._commands[0].command_id)
        self._commands.append(command)
        self._asked[command.command_id] = command
        while len(self._asked) > _REMEMBERED:
            self._asked.popitem(last=False)
        self._wake.set()

    async def run(self) -> None:
        """Keep the conversation up until told to finish, or cancelled."""
        self._links.to_kasmina.on_put(self._wake.from_thread())
        try:
            while not self._finishing:
                await self._converse_once()
        finally:
            self._gone.set()

    async def finish(self) -> None:
        """Send everything that waits, say goodbye, then close; the caller bounds the time."""
        self._finishing = True
        if self._call is not None:
            self._wake.set()
            await self._gone.wait()
        await self._channel.close()

    async def _converse_once(self) -> None:
        permit = await self._peer.permit()
        try:
            await self._converse(permit)
        except GreetAgainError:
            permit.abandon()
        except PEER_FAILURES as error:
            await self._failed(permit, error)
        except asyncio.CancelledError:
            permit.abandon()
            raise
        finally:
            if self._call is not None:
                self._call.cancel()
                self._call = None

    async def _failed(self, permit: Permit, error: Exception) -> None:
        """Count a failure, unless the stream ended because we said goodbye."""
        if self._finishing:
            permit.abandon()
        else:
            await self._peer.failed(permit, error)

    async def _converse(self, permit: Permit) -> None:
        self._links.greet_again.clear()
        greeting = await self._greeting()
        self._call = self._stub.Execute()
        await self._call.write(hello(greeting, self._facts))
        async with asyncio.timeout(self._settings.connect_timeout_s):
            first = await self._call.read()
        if first is grpc.aio.EOF:
            raise UnavailableError("Kasmina ended the conversation.")
        self._peer.succeeded(permit)
        self._take(first)
        await self._until_one_ends(self._write_all(), self._read_all())

    async def _greeting(self) -> Greeting:
        """Ask the training thread for its inventory; what waited before it is told by it."""
        self._links.inbox.post(GreetingWanted())
        while True:
            for index, item in enumerate(items := self._links.to_kasmina.take()):
                if isinstance(item, Greeting):
                    for later in items[index + 1 :]:
                        self._links.to_kasmina.put(later)
                    return item
            await self._wake.wait(self._settings.connect_timeout_s)

    async def _until_one_ends(self, *works: Any) -> None:
        tasks = [asyncio.create_task(work) for work in works]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _write_all(self) -> None:
        goodbye = False
        while not goodbye:
            if self._links.greet_again.is_set():
                raise GreetAgainError("The topology went back; Kasmina is greeted again.")
            for item in self._links.to_kasmina.take():
                if not isinstance(item, Greeting):
                    await self._call.write(kasmina_request(item))
            while self._commands:
                await self._call.write(kasmina.ExecuteRequest(command=self._commands.popleft()))
            goodbye = self._finishing
            if not goodbye:
                await self._wake.wait()
        await self._call.done_writing()
        # Kasmina answers by ending the stream, which the reading side notices.
        await asyncio.Event().wait()

    async def _read_all(self) -> None:
        while True:
            response = await self._call.read()
            if response is grpc.aio.EOF:
                raise UnavailableError("Kasmina ended the conversation.")
            self._take(response)

    def _take(self, response: kasmina.ExecuteResponse) -> None:
        kind = response.WhichOneof("response")
        if kind == "directive":
            self._direct(response.directive)
        elif kind == "outcome":
            self._tell(response.outcome)
            if response.outcome.accepted:
                act_on(self._asked.pop(response.outcome.command_id, None), self._links.inbox)
        elif kind == "gate":
            self._tell(response.gate)
        elif kind == "transition":
            self._tell(response.transition)
            self._links.inbox.post(response.transition)
        elif kind == "teacher_reset":
            reset = response.teacher_reset
            _log.warning(kind, teacher_id=reset.teacher_id, reason=reset.reason)
            # Urgent, because Kasmina has forgotten the teacher already and will not ask again.
            self._links.inbox.post(TeacherDismissed(reset.teacher_id, reset.reason), urgent=True)
        elif kind == "welcome":
            for note in response.welcome.notes:
                _log.warning("reconciled", seed_id=note.seed_id, difference=note.difference, done=note.resolution)

    def _tell(self, payload: leyline.CommandOutcome | leyline.GateResult | leyline.SeedTransition) -> None:
        self._voices.events.append(payload, self._voices.step())

    def _direct(self, directive: leyline.Directive) -> None:
        if directive.kind == leyline.DIRECTIVE_KIND_PREPARE:
            if directive.directive_id not in self._preparing:
                task = asyncio.create_task(self._prepare(directive))
                self._preparing[directive.directive_id] = task
                task.add_done_callback(lambda _: self._preparing.pop(directive.directive_id, None))
        elif not self._links.inbox.post(directive):
            full = ResourceExhaustedError("The fence has too many directives waiting. Send it again.")
            self._answer(directive, full)

    async def _prepare(self, directive: leyline.Directive) -> None:
        allowed_s = self._settings.kernel_timeout_s
        if directive.HasField("deadline"):
            left_s = (from_timestamp(directive.deadline) - SYSTEM_CLOCK.wall()).total_seconds()
            allowed_s = max(0.0, min(allowed_s, left_s))
        try:
            kernel = await self._kernels.prepare(directive.seed_id, directive.prepare, allowed_s)
        except EsperError as error:
            self._answer(directive, error)
            return
        except Exception as error:  # Kasmina must hear of it, whatever it is, or she would wait for her deadline.
            _log.error("preparing a kernel failed", seed_id=directive.seed_id, exc_info=error)
            self._answer(directive, InternalError(f"Preparing the kernel raised {type(error).__name__}: {error}"))
            return
        self._links.prepared.put(kernel)
        self._answer(directive, None, kernel.parameter_count)

    def _answer(self, directive: leyline.Directive, error: EsperError | None, parameters: int = 0) -> None:
        result = leyline.DirectiveResult(
            directive_id=directive.directive_id,
            training_run_id=directive.training_run_id,
            seed_id=directive.seed_id,
            kind=directive.kind,
            applied=error is None,
            error_code=error.code if error else "",
            message=error.message if error else "",
            generation=self._voices.generation(),
            global_step=self._voices.step(),
            parameter_count=parameters,
            applied_at=to_timestamp(SYSTEM_CLOCK.wall()),
        )
        self._links.to_kasmina.put(result)
        self._voices.events.append(result, self._voices.step())
