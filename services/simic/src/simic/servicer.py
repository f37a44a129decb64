"""gRPC adapter of the learner."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NoReturn, TypeAlias

import grpc.aio

from esper_core import leyline
from esper_core.errors import UnimplementedError
from esper_core.pb.esper.simic.v1 import simic_pb2, simic_pb2_grpc
from simic.replay import ReplayStore

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class LearnerServicer(simic_pb2_grpc.LearnerServicer):
    """Serves `esper.simic.v1.Learner`; training comes later, the replay store is filled from the first day.

    Parameters
    ----------
    replay : ReplayStore
        The replay store.
    """

    def __init__(self, replay: ReplayStore) -> None:
        self._replay = replay

    async def GetReplay(  # noqa: D102
        self, request: simic_pb2.GetReplayRequest, context: Context
    ) -> simic_pb2.GetReplayResponse:
        newest = await asyncio.to_thread(self._replay.newest, request.limit) if request.limit else []
        return simic_pb2.GetReplayResponse(
            reports=await asyncio.to_thread(self._replay.count),
            duplicates=await asyncio.to_thread(self._replay.duplicates),
            newest=newest,
        )

    async def StartTraining(  # noqa: D102
        self, request: simic_pb2.StartTrainingRequest, context: Context
    ) -> simic_pb2.TrainingJob:
        _later("Policy training")

    async def GetTraining(  # noqa: D102
        self, request: simic_pb2.GetTrainingRequest, context: Context
    ) -> simic_pb2.TrainingJob:
        _later("Policy training")

    def WatchTraining(  # noqa: D102
        self, request: simic_pb2.GetTrainingRequest, context: Context
    ) -> AsyncIterator[simic_pb2.TrainingJob]:
        _later("Policy training")

    async def ListPolicies(  # noqa: D102
        self, request: simic_pb2.ListPoliciesRequest, context: Context
    ) -> simic_pb2.ListPoliciesResponse:
        _later("Policy training")

    async def EvaluatePolicy(  # noqa: D102
        self, request: simic_pb2.EvaluatePolicyRequest, context: Context
    ) -> leyline.PolicyEvaluation:
        _later("Policy evaluation")

    async def PublishPolicy(  # noqa: D102
        self, request: simic_pb2.PublishPolicyRequest, context: Context
    ) -> leyline.PolicyUpdate:
        _later("Policy publication")


def _later(what: str) -> NoReturn:
    raise UnimplementedError(f"{what} comes in a later release; Simic collects its data already.")
