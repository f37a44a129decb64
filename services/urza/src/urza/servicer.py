"""gRPC adapter of the library."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, TypeAlias

import grpc.aio

from esper_core import leyline
from esper_core.errors import UnauthenticatedError, ValidationError
from esper_core.pb.esper.urza.v1 import urza_pb2, urza_pb2_grpc
from urza.library import Library
from urza.sheets import SheetVerifier

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class LibraryServicer(urza_pb2_grpc.LibraryServicer):
    """Serves `esper.urza.v1.Library`.

    Parameters
    ----------
    library : Library
        The library.
    sheets : SheetVerifier
        Checks the signature of safety data sheets.
    max_kernel_bytes : int
        Largest kernel that is taken.
    """

    def __init__(self, library: Library, sheets: SheetVerifier, max_kernel_bytes: int) -> None:
        self._library = library
        self._sheets = sheets
        self._max_kernel_bytes = max_kernel_bytes

    async def ListBlueprints(  # noqa: D102
        self, request: urza_pb2.ListBlueprintsRequest, context: Context
    ) -> urza_pb2.ListBlueprintsResponse:
        kind = request.site_kind if request.HasField("site_kind") else None
        blueprints, sequence = await self._library.list_blueprints(site_kind=kind, eligible_only=request.eligible_only)
        return urza_pb2.ListBlueprintsResponse(blueprints=blueprints, sequence=sequence)

    async def GetBlueprint(  # noqa: D102
        self, request: urza_pb2.GetBlueprintRequest, context: Context
    ) -> leyline.BlueprintDescriptor:
        return await self._library.blueprint(request.blueprint_id)

    async def RegisterBlueprint(  # noqa: D102
        self, request: urza_pb2.RegisterBlueprintRequest, context: Context
    ) -> leyline.BlueprintDescriptor:
        return await self._library.register(request.blueprint)

    async def GetKernel(  # noqa: D102
        self, request: urza_pb2.GetKernelRequest, context: Context
    ) -> leyline.KernelDescriptor:
        which = request.WhichOneof("by")
        if which is None:
            raise ValidationError("Nothing names the kernel.", field="by", allowed="weights_digest or key")
        return await self._library.kernel(request.key if which == "key" else request.weights_digest)

    async def PutKernel(  # noqa: D102
        self, request_iterator: AsyncIterator[urza_pb2.PutKernelRequest], context: Context
    ) -> leyline.KernelDescriptor:
        descriptor, chunks, size = leyline.KernelDescriptor(), [], 0
        async for message in request_iterator:
            if message.WhichOneof("part") == "descriptor":
                descriptor = message.descriptor
                continue
            size += len(message.chunk)
            if size > self._max_kernel_bytes:
                raise ValidationError(
                    "The kernel is too large.", field="chunk", allowed=f"at most {self._max_kernel_bytes} bytes in all"
                )
            chunks.append(message.chunk)
        if not descriptor.weights_digest:
            raise ValidationError("No descriptor came.", field="descriptor", allowed="the first message of the stream")
        return await self._library.put_kernel(descriptor, chunks)

    async def FetchKernel(  # noqa: D102
        self, request: urza_pb2.FetchKernelRequest, context: Context
    ) -> AsyncIterator[urza_pb2.FetchKernelResponse]:
        kernel, chunks = await self._library.fetch(request.weights_digest, request.offset)
        yield urza_pb2.FetchKernelResponse(descriptor=kernel)
        while (chunk := await asyncio.to_thread(_next, chunks)) is not None:
            yield urza_pb2.FetchKernelResponse(chunk=chunk)

    async def Watch(  # noqa: D102
        self, request: urza_pb2.WatchRequest, context: Context
    ) -> AsyncIterator[leyline.CatalogUpdate]:
        async for notice in self._library.watch(request.after_sequence):
            yield notice

    async def Quarantine(  # noqa: D102
        self, request: urza_pb2.QuarantineRequest, context: Context
    ) -> urza_pb2.QuarantineResponse:
        what = request.WhichOneof("what")
        if what is None:
            raise ValidationError("Nothing is named.", field="what", allowed="blueprint_id or weights_digest")
        name = request.blueprint_id if what == "blueprint_id" else request.weights_digest
        sequence = await self._library.quarantine(what, name, request.reason, lift=request.lift)
        return urza_pb2.QuarantineResponse(sequence=sequence)

    async def AttachBsds(  # noqa: D102
        self, request: urza_pb2.AttachBsdsRequest, context: Context
    ) -> urza_pb2.AttachBsdsResponse:
        problem = self._sheets.problem(request.bsds)
        if problem:
            raise UnauthenticatedError(problem)
        return urza_pb2.AttachBsdsResponse(sequence=await self._library.attach(request.bsds))


def _next(chunks: Iterator[bytes]) -> bytes | None:
    return next(chunks, None)
