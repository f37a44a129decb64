"""gRPC adapter of the assessor."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import grpc.aio

from esper_core import leyline
from esper_core.errors import NotFoundError, ValidationError
from esper_core.pb.esper.urabrask.v1 import urabrask_pb2, urabrask_pb2_grpc
from urabrask.assessor import Assessor
from urabrask.convert import job_to_message, spec_from_messages
from urabrask.jobs import JobList
from urabrask.library import LibraryClient

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

DEFAULT_JOBS: Final = 100
MAX_BATCH: Final = 65536
MAX_BATCHES: Final = 16


class AssessorServicer(urabrask_pb2_grpc.AssessorServicer):
    """Serves `esper.urabrask.v1.Assessor`.

    Parameters
    ----------
    assessor : Assessor
        Does the work.
    library : LibraryClient
        Knows the attached sheets.
    jobs : JobList
        Lists the work.
    """

    def __init__(self, assessor: Assessor, library: LibraryClient, jobs: JobList) -> None:
        self._assessor = assessor
        self._library = library
        self._jobs = jobs

    async def Assess(  # noqa: D102
        self, request: urabrask_pb2.AssessRequest, context: Context
    ) -> urabrask_pb2.AssessResponse:
        spec = spec_from_messages(request.blueprint_id, request.parameters, request.contract)
        with self._jobs.follow(spec.blueprint_id) as job:
            job.begin()
            if not request.store_kernel:
                return urabrask_pb2.AssessResponse(bsds=await self._assessor.try_out(spec))
            provided = await self._assessor.provide(spec)
            return urabrask_pb2.AssessResponse(bsds=provided.sheet, kernel=provided.kernel)

    async def Benchmark(  # noqa: D102
        self, request: urabrask_pb2.BenchmarkRequest, context: Context
    ) -> leyline.BlueprintBenchmark:
        spec = spec_from_messages(request.blueprint_id, request.parameters, request.contract)
        if len(request.batch_sizes) > MAX_BATCHES or not all(0 < size <= MAX_BATCH for size in request.batch_sizes):
            raise ValidationError(
                "These batches cannot be measured.",
                field="batch_sizes",
                allowed=f"at most {MAX_BATCHES} sizes from 1 to {MAX_BATCH}",
            )
        with self._jobs.follow(spec.blueprint_id) as job:
            job.begin()
            return await self._assessor.benchmark(spec, request.batch_sizes)

    async def GetBsds(self, request: urabrask_pb2.GetBsdsRequest, context: Context) -> leyline.Bsds:  # noqa: D102
        blueprint = await self._library.blueprint(request.blueprint_id)
        if not blueprint.HasField("bsds"):
            raise NotFoundError(
                f"{request.blueprint_id} has no safety data sheet yet. Call Assess with store_kernel set."
            )
        return blueprint.bsds

    async def ListJobs(  # noqa: D102
        self, request: urabrask_pb2.ListJobsRequest, context: Context
    ) -> urabrask_pb2.ListJobsResponse:
        jobs = self._jobs.newest(request.limit or DEFAULT_JOBS)
        return urabrask_pb2.ListJobsResponse(jobs=[job_to_message(job) for job in jobs])
