"""gRPC adapter of the executor."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc.aio

from esper_core import leyline
from esper_core.errors import StateConflictError, ValidationError
from esper_core.guard import require_id
from esper_core.pb.esper.kasmina.v1 import kasmina_pb2, kasmina_pb2_grpc
from kasmina.catalogue import Catalogue
from kasmina.conversation import Conversation
from kasmina.convert.commands import outcome_to_message
from kasmina.convert.seeds import record_to_message
from kasmina.dispatcher import Dispatcher
from kasmina.loading import KernelLoadManager
from kasmina.registry import RunRegistry
from kasmina.seeds import Seed
from kasmina.session import RunSession
from kasmina.telemetry import WARNING, Telemetry

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class ExecutorServicer(kasmina_pb2_grpc.ExecutorServicer):
    """Serves `esper.kasmina.v1.Executor`."""

    def __init__(
        self,
        registry: RunRegistry,
        dispatcher: Dispatcher,
        kernels: KernelLoadManager,
        catalogue: Catalogue,
        telemetry: Telemetry,
    ) -> None:
        self._registry = registry
        self._dispatcher = dispatcher
        self._kernels = kernels
        self._catalogue = catalogue
        self._telemetry = telemetry
        self._streams = 0

    async def Execute(  # noqa: D102
        self, request_iterator: AsyncIterator[kasmina_pb2.ExecuteRequest], context: Context
    ) -> AsyncIterator[kasmina_pb2.ExecuteResponse]:
        conversation = Conversation(self._registry, self._dispatcher, self._kernels, self._catalogue)
        self._count_stream(1)
        try:
            async for response in conversation.hold(request_iterator):
                yield response
        finally:
            self._count_stream(-1)

    async def ApplyCommand(  # noqa: D102
        self, request: kasmina_pb2.ApplyCommandRequest, context: Context
    ) -> leyline.CommandOutcome:
        run_id = require_id("training_run_id", request.command.training_run_id)
        session = self._registry.find(run_id)
        if not session.connected:
            raise StateConflictError(f"No runtime of run {run_id} is connected. Wait until it is, or start the run.")
        return outcome_to_message((await self._dispatcher.dispatch(request.command, session)).outcome)

    async def ListSeeds(  # noqa: D102
        self, request: kasmina_pb2.ListSeedsRequest, context: Context
    ) -> kasmina_pb2.ListSeedsResponse:
        wanted = request.training_run_id
        sessions = [session for session in self._registry.all() if wanted in ("", session.run_id)]
        records = [
            self._record(seed, session)
            for session in sessions
            for seed in session.executor.ledger.seeds.values()
            if request.include_settled or seed.live
        ]
        return kasmina_pb2.ListSeedsResponse(seeds=sorted(records, key=lambda record: record.state.seed_id))

    async def GetSeed(  # noqa: D102
        self, request: kasmina_pb2.GetSeedRequest, context: Context
    ) -> kasmina_pb2.SeedRecord:
        seed, session = self._registry.seed(require_id("seed_id", request.seed_id))
        return self._record(seed, session)

    async def ResetRegistry(  # noqa: D102
        self, request: kasmina_pb2.ResetRegistryRequest, context: Context
    ) -> kasmina_pb2.ResetRegistryResponse:
        run_id = require_id("training_run_id", request.training_run_id)
        if not request.reason.strip():
            raise ValidationError("A reset needs a reason.", field="reason", allowed="a sentence")
        seeds = self._registry.forget(run_id)
        done = self._kernels.cancel_run(run_id, "The registry of the run was reset.")
        counts = {"seeds": seeds, "prefetches_canceled": done.prefetches, "waits_canceled": done.waits}
        self._telemetry.event("registry_reset", WARNING, request.reason, run_id, **counts)
        return kasmina_pb2.ResetRegistryResponse(
            seeds_cleared=seeds, prefetches_canceled=done.prefetches, waits_canceled=done.waits
        )

    async def ResetTeacher(  # noqa: D102
        self, request: kasmina_pb2.ResetTeacherRequest, context: Context
    ) -> kasmina_pb2.ResetTeacherResponse:
        session = self._registry.find(require_id("training_run_id", request.training_run_id))
        had_teacher = await session.reset_teacher(request.reason or "An operator reset it.")
        return kasmina_pb2.ResetTeacherResponse(had_teacher=had_teacher)

    def _record(self, seed: Seed, session: RunSession) -> kasmina_pb2.SeedRecord:
        item = self._catalogue.get(seed.blueprint_id)
        return record_to_message(seed, session.executor.ledger, item.risk_score if item else 0.0)

    def _count_stream(self, change: int) -> None:
        self._streams += change
        self._telemetry.instruments.gauge("kasmina.streams.open", self._streams)
