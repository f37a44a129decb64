"""A command's way: verify, validate, get what it needs, carry out, tell what became of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from esper_core import leyline
from esper_core.clocks import Clock
from esper_core.errors import EsperError, ValidationError
from kasmina.catalogue import Catalogue
from kasmina.commands import Command, Outcome, SeedOperation
from kasmina.convert.commands import command_from_message
from kasmina.kernels import Kernel, KernelKey
from kasmina.loading import KernelLoadManager
from kasmina.operations import Supply
from kasmina.session import RunSession
from kasmina.telemetry import Telemetry
from kasmina.validator import CommandValidator
from kasmina.verifier import CommandVerifier


@dataclass(frozen=True, slots=True)
class Dispatched:
    """What became of a command, and whether the run has told its runtime already."""

    outcome: Outcome
    told: bool


class Dispatcher:
    """Works off commands, whichever way they come."""

    def __init__(
        self,
        verifier: CommandVerifier,
        validator: CommandValidator,
        kernels: KernelLoadManager,
        catalogue: Catalogue,
        telemetry: Telemetry,
        *,
        kernel_wait_s: float,
        clock: Clock,
    ) -> None:
        self._verifier = verifier
        self._validator = validator
        self._kernels = kernels
        self._catalogue = catalogue
        self._telemetry = telemetry
        self._kernel_wait_s = kernel_wait_s
        self._clock = clock

    async def dispatch(self, message: leyline.AdaptationCommand, session: RunSession) -> Dispatched:
        """Work off a command; a bad one is answered, never raised.

        Raises
        ------
        StorageError
            If what was decided cannot be written down.
        """
        verification = await asyncio.to_thread(self._verifier.verify, message)
        if not verification.accepted:
            return self._rejected(message, verification.reason, verification.explanation)
        try:
            leyline.validate(message)
            _check_run(message, session)
            command = command_from_message(message)
        except EsperError as error:
            return self._rejected(message, leyline.REJECT_REASON_VALIDATION_FAILED, _sentence(error))
        return Dispatched(await session.command(command, await self._supply(command, session)), told=True)

    async def _supply(self, command: Command, session: RunSession) -> Supply:
        """Get what a germination needs; a command that is not valid gets nothing and is rejected by the run."""
        ledger = session.executor.ledger
        valid = self._validator.validate(command, ledger, self._clock.wall()).ok
        key = self._validator.kernel_key(command, ledger) if valid else None
        if key is None or not isinstance(command.payload, SeedOperation):
            return Supply()
        return await self._with_kernel(command, key)

    async def _with_kernel(self, command: Command, key: KernelKey) -> Supply:
        found = await self._kernels.obtain(command.run_id, key, self._kernel_wait_s)
        item = self._catalogue.get(key.blueprint_id)
        if isinstance(found, Kernel):
            return Supply(item, key, found)
        return Supply(item, key, None, found)

    def _rejected(self, message: leyline.AdaptationCommand, reason: int, explanation: str) -> Dispatched:
        """Answer a command that never reached its run; nothing of it is journalled, so nobody can fill the journal."""
        run_id, command_id = message.training_run_id[:64], message.command_id[:64]
        self._telemetry.instruments.count("kasmina.commands_total", outcome="rejected")
        self._telemetry.rejected(command_id, run_id, reason, explanation)
        outcome = Outcome(command_id, run_id, False, reason, explanation, "", self._clock.wall())
        return Dispatched(outcome, told=False)


def _check_run(message: leyline.AdaptationCommand, session: RunSession) -> None:
    if message.training_run_id != session.run_id:
        raise ValidationError(
            f"The command is for run {message.training_run_id!r}; this stream is of {session.run_id}.",
            field="training_run_id",
            allowed=session.run_id,
        )


def _sentence(error: EsperError) -> str:
    field, allowed = error.details.get("field", ""), error.details.get("allowed", "")
    head = f"{field}: {error.message}" if field else error.message
    return f"{head} Allowed: {allowed}." if allowed else head
