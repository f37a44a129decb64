"""Urza as the assessor needs it: kernels by what they are, and the chain of sheets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Final

from esper_core import leyline
from esper_core.blueprints import KernelSpec
from esper_core.blueprints.messages import contract_to_message, parameters_to_messages
from esper_core.errors import IntegrityError, NotFoundError
from esper_core.pb.esper.urza.v1 import urza_pb2, urza_pb2_grpc
from esper_core.rpc import CHUNK_BYTES, retrying
from urabrask.sheets import sheet_digest

CHAIN_ATTEMPTS: Final = 5
_PEER: Final = "urza"


class LibraryClient:
    """Asks Urza; every call is idempotent and repeated while Urza is away, for at most `deadline_s`.

    Parameters
    ----------
    stub : LibraryAsyncStub
        Urza.
    deadline_s : float
        Time for one question with all its repetitions.
    """

    def __init__(self, stub: urza_pb2_grpc.LibraryAsyncStub, deadline_s: float) -> None:
        self._stub = stub
        self._deadline_s = deadline_s

    async def blueprint(self, blueprint_id: str) -> leyline.BlueprintDescriptor:
        """Return a blueprint; NotFoundError when Urza has none of that id."""
        request = urza_pb2.GetBlueprintRequest(blueprint_id=blueprint_id)
        return await retrying(
            lambda timeout: self._stub.GetBlueprint(request, timeout=timeout), deadline_s=self._deadline_s, peer=_PEER
        )

    async def kernel(self, spec: KernelSpec) -> leyline.KernelDescriptor | None:
        """Return the kernel of a spec, None when there is none; QuarantinedError when it may not be used."""
        request = urza_pb2.GetKernelRequest(
            key=urza_pb2.KernelKey(
                blueprint_id=spec.blueprint_id,
                parameters=parameters_to_messages(spec.parameters),
                contract=contract_to_message(spec.contract),
            )
        )
        try:
            return await retrying(
                lambda timeout: self._stub.GetKernel(request, timeout=timeout), deadline_s=self._deadline_s, peer=_PEER
            )
        except NotFoundError:
            return None

    async def fetch(self, weights_digest: str) -> bytes:
        """Return the bytes of a kernel, which Urza has checked against their digest."""
        request = urza_pb2.FetchKernelRequest(weights_digest=weights_digest)

        async def attempt(timeout: float) -> bytes:
            return b"".join([part.chunk async for part in self._stub.FetchKernel(request, timeout=timeout)])

        return await retrying(attempt, deadline_s=self._deadline_s, attempt_s=self._deadline_s, peer=_PEER)

    async def store(self, kernel: leyline.KernelDescriptor, weights: bytes) -> leyline.KernelDescriptor:
        """Store a kernel; AlreadyExistsError when another one stands for the same key."""
        return await retrying(
            lambda timeout: self._stub.PutKernel(_parts(kernel, weights), timeout=timeout),
            deadline_s=self._deadline_s,
            attempt_s=self._deadline_s,
            peer=_PEER,
        )

    async def chain_end(self, blueprint_id: str) -> str:
        """Return the digest of a blueprint's last sheet, "" when there is none."""
        blueprint = await self.blueprint(blueprint_id)
        return sheet_digest(blueprint.bsds) if blueprint.HasField("bsds") else ""

    async def attach(self, blueprint_id: str, issue: Callable[[str], leyline.Bsds]) -> leyline.Bsds:
        """Attach the sheet that `issue(previous_digest)` signs; it is signed anew when another one came first.

        Raises
        ------
        IntegrityError
            If others were faster every time.
        """
        previous = await self.chain_end(blueprint_id)
        for left in reversed(range(CHAIN_ATTEMPTS)):
            sheet = issue(previous)
            try:
                await self._attach(sheet)
            except IntegrityError as error:
                if not left:
                    raise
                previous = error.details.get("chain_end") or await self.chain_end(blueprint_id)
            else:
                return sheet
        raise AssertionError("the last attempt returns or raises")

    async def _attach(self, sheet: leyline.Bsds) -> None:
        request = urza_pb2.AttachBsdsRequest(bsds=sheet)
        await retrying(
            lambda timeout: self._stub.AttachBsds(request, timeout=timeout), deadline_s=self._deadline_s, peer=_PEER
        )


async def _parts(kernel: leyline.KernelDescriptor, weights: bytes) -> AsyncIterator[urza_pb2.PutKernelRequest]:
    yield urza_pb2.PutKernelRequest(descriptor=kernel)
    for start in range(0, len(weights), CHUNK_BYTES):
        yield urza_pb2.PutKernelRequest(chunk=weights[start : start + CHUNK_BYTES])
