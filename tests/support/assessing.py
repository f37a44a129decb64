"""A real Urza with a real Urabrask beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from esper_core import leyline
from esper_core.pb.esper.urabrask.v1 import urabrask_pb2, urabrask_pb2_grpc
from esper_core.pb.esper.urza.v1 import urza_pb2, urza_pb2_grpc
from esper_core.rpc import mapped_errors
from esper_core.security import Keyring
from support.ports import free_address
from support.service_process import ServiceProcess

LONGEST_S = 50.0


@dataclass(slots=True)
class Pair:
    """The two processes and the keys they share."""

    keyring: Keyring
    urza: ServiceProcess
    urabrask: ServiceProcess

    @asynccontextmanager
    async def assessor(self) -> AsyncIterator[urabrask_pb2_grpc.AssessorAsyncStub]:
        """Open a stub of Urabrask."""
        async with self.urabrask.channel(self.keyring) as channel:
            yield urabrask_pb2_grpc.AssessorStub(channel)

    @asynccontextmanager
    async def library(self) -> AsyncIterator[urza_pb2_grpc.LibraryAsyncStub]:
        """Open a stub of Urza."""
        async with self.urza.channel(self.keyring) as channel:
            yield urza_pb2_grpc.LibraryStub(channel)

    async def assess(self, asked: urabrask_pb2.AssessRequest) -> urabrask_pb2.AssessResponse:
        """Have a blueprint assessed; the peer's errors come as they are."""
        async with self.assessor() as stub:
            with mapped_errors("urabrask"):
                return await stub.Assess(asked, timeout=LONGEST_S)

    async def last_change(self) -> int:
        """Return the number of the catalogue's last change."""
        async with self.library() as stub:
            return (await stub.ListBlueprints(urza_pb2.ListBlueprintsRequest())).sequence

    async def changes(self, after: int) -> list[leyline.CatalogUpdate]:
        """Return every change of the catalogue after the one given."""
        last, found = await self.last_change(), list[leyline.CatalogUpdate]()
        if last <= after:
            return found
        async with self.library() as stub:
            async for update in stub.Watch(urza_pb2.WatchRequest(after_sequence=after)):
                found.append(update)
                if update.sequence >= last:
                    break
        return found


@contextmanager
def running_pair(
    folder: Path, environment: Mapping[str, str] | None = None, *, oona: ServiceProcess | None = None
) -> Iterator[Pair]:
    """Run both, and an Oona where one is given; without it the assessor works, and says NOT_SERVING."""
    keyring = Keyring.generate()
    keyring.save(folder / "keyring.json")
    urza = ServiceProcess("urza", folder, folder / "keyring.json")
    urza.start()
    if oona is not None:
        oona.start()
    address = free_address() if oona is None else oona.address
    peers = {"ESPER_URZA_ADDRESS": urza.address, "ESPER_OONA_ADDRESS": address, **(environment or {})}
    urabrask = ServiceProcess("urabrask", folder, folder / "keyring.json", peers)
    try:
        urabrask.start(until="NOT_SERVING" if oona is None else "SERVING")
        yield Pair(keyring, urza, urabrask)
    finally:
        ended = urabrask.stop(), urza.stop()
    assert ended == (0, 0), urabrask.log + urza.log


def asking(
    blueprint_id: str = "mlp_residual.v1", channels: int = 24, *, store: bool = True, **parameters: float
) -> urabrask_pb2.AssessRequest:
    """Ask for a blueprint at a site of features."""
    return urabrask_pb2.AssessRequest(
        blueprint_id=blueprint_id,
        parameters=[leyline.BlueprintParameter(name=name, real=value) for name, value in parameters.items()],
        contract=leyline.SiteContract(kind=leyline.SITE_KIND_FEATURES, channels=channels),
        store_kernel=store,
    )
