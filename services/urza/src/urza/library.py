"""What Urza does: keeps blueprints and kernels, answers for their integrity, tells every change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final, ParamSpec, TypeVar

from esper_core import leyline
from esper_core.clocks import Clock, to_timestamp
from esper_core.errors import IntegrityError, QuarantinedError, ValidationError
from esper_core.pb.esper.urza.v1 import urza_pb2
from urza.artefacts import ArtefactStore
from urza.catalogue import Catalogue
from urza.changes import ChangeBell
from urza.eligibility import is_eligible
from urza.keys import key_digest

NOTICES_PER_READ: Final = 256
P = ParamSpec("P")
R = TypeVar("R")


class Library:
    """The library; its methods may be awaited from one event loop.

    Parameters
    ----------
    catalogue : Catalogue
        Where descriptors are kept.
    store : ArtefactStore
        Where weights are kept.
    clock : Clock
        Gives the time of snapshots.
    """

    def __init__(self, catalogue: Catalogue, store: ArtefactStore, clock: Clock) -> None:
        self._catalogue = catalogue
        self._store = store
        self._clock = clock
        self._bell = ChangeBell()
        # One writer at a time: SQLite has one anyway, and waiting here keeps the order of changes plain.
        self._writing = asyncio.Lock()

    async def list_blueprints(
        self, *, site_kind: leyline.SiteKind.ValueType | None = None, eligible_only: bool = False
    ) -> tuple[list[leyline.BlueprintDescriptor], int]:
        """Return blueprints sorted by id, and the number of the last change that they include."""
        sequence = await asyncio.to_thread(self._catalogue.sequence)
        blueprints = await asyncio.to_thread(self._catalogue.blueprints)
        fitting = [row for row in blueprints if site_kind is None or site_kind in row.site_kinds]
        return [row for row in fitting if not eligible_only or is_eligible(row)], sequence

    async def blueprint(self, blueprint_id: str) -> leyline.BlueprintDescriptor:
        """Return one blueprint, quarantined or not; NotFoundError when there is none."""
        return await asyncio.to_thread(self._catalogue.blueprint, blueprint_id)

    async def register(self, blueprint: leyline.BlueprintDescriptor) -> leyline.BlueprintDescriptor:
        """Add a blueprint or a revision of it and return it as stored."""
        if not blueprint.blueprint_id or not blueprint.site_kinds:
            raise ValidationError(
                "A blueprint needs an id and at least one kind of site.", field="blueprint", allowed="both set"
            )
        stored, _ = await self._write(self._catalogue.register, blueprint)
        return stored

    async def kernel(self, by: str | urza_pb2.KernelKey) -> leyline.KernelDescriptor:
        """Return a kernel by digest or key.

        Raises
        ------
        NotFoundError
            If there is none.
        QuarantinedError
            If the kernel or its blueprint is quarantined.
        """
        if isinstance(by, str):
            found = await asyncio.to_thread(self._catalogue.kernel, by)
        else:
            found = await asyncio.to_thread(self._catalogue.kernel_by_key, key_digest(by))
        blueprint = await self.blueprint(found.blueprint_id)
        for holder in (found, blueprint):
            if holder.quarantined:
                raise QuarantinedError(
                    f"The kernel {found.weights_digest} may not be used: {holder.quarantine_reason}. "
                    "Choose another blueprint, or have the quarantine lifted."
                )
        return found

    async def put_kernel(self, kernel: leyline.KernelDescriptor, chunks: list[bytes]) -> leyline.KernelDescriptor:
        """Store a kernel with its weights; storing the same one again is harmless.

        Raises
        ------
        IntegrityError
            If the bytes do not have the announced digest or size.
        AlreadyExistsError
            If another kernel stands for the same blueprint, parameters and shape.
        """
        size = await asyncio.to_thread(self._store.put, chunks, kernel.weights_digest)
        if size != kernel.size_bytes:
            raise IntegrityError(f"{size} bytes arrived, but {kernel.size_bytes} were announced. Send them again.")
        await self._write(self._catalogue.add_kernel, kernel)
        return kernel

    async def fetch(self, weights_digest: str, offset: int) -> tuple[leyline.KernelDescriptor, Iterator[bytes]]:
        """Return a kernel with its bytes from `offset` on, after reading them through once.

        Raises
        ------
        IntegrityError
            If the stored bytes have changed; the kernel is quarantined then.
        """
        kernel = await self.kernel(weights_digest)
        try:
            await asyncio.to_thread(self._store.verify, weights_digest)
        except IntegrityError:
            reason = "its stored bytes no longer have its digest"
            await self._write(self._catalogue.quarantine_kernel, weights_digest, reason)
            raise
        return kernel, self._store.open(weights_digest, offset)

    async def quarantine(self, what: str, name: str, reason: str, *, lift: bool) -> int:
        """Quarantine or release a blueprint or a kernel; return the number of the change."""
        if not reason.strip():
            raise ValidationError("A quarantine needs a reason.", field="reason", allowed="a sentence")
        if what == "blueprint_id":
            return await self._write(self._catalogue.quarantine_blueprint, name, reason, lift=lift)
        return await self._write(self._catalogue.quarantine_kernel, name, reason, lift=lift)

    async def attach(self, sheet: leyline.Bsds) -> int:
        """Attach a verified safety data sheet; return the number of the change."""
        return await self._write(self._catalogue.attach, sheet)

    async def watch(self, after_sequence: int) -> AsyncIterator[leyline.CatalogUpdate]:
        """Yield changes after a number for ever; after 0 a snapshot of all blueprints comes first."""
        sequence = after_sequence
        if after_sequence == 0:
            blueprints, sequence = await self.list_blueprints()
            for blueprint in blueprints:
                yield self._snapshot(blueprint, sequence)
        while True:
            bell = self._bell.next()
            for notice in await asyncio.to_thread(self._catalogue.changes_after, sequence, NOTICES_PER_READ):
                sequence = notice.sequence
                yield notice
            if await asyncio.to_thread(self._catalogue.sequence) == sequence:
                await bell.wait()

    def _snapshot(self, blueprint: leyline.BlueprintDescriptor, sequence: int) -> leyline.CatalogUpdate:
        return leyline.CatalogUpdate(
            version=1,
            blueprint_id=blueprint.blueprint_id,
            revision=blueprint.revision,
            change="snapshot",
            blueprint=blueprint,
            changed_at=to_timestamp(self._clock.wall()),
            sequence=sequence,
        )

    async def _write(self, change: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        async with self._writing:
            result = await asyncio.to_thread(change, *args, **kwargs)
        self._bell.ring()
        return result
