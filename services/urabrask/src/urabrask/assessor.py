"""What Urabrask does: makes kernels, tries them, writes their sheets, and puts what is fit for use into the library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from esper_core import leyline
from esper_core.blueprints import KernelSpec
from esper_core.clocks import SYSTEM_CLOCK, Clock
from esper_core.errors import EsperError
from esper_core.keyed_locks import KeyedLocks
from urabrask.assessment.assessment import Assessment, assessment_of, assessment_of_stopped
from urabrask.assessment.stopped import STOPPED, hazard_of
from urabrask.convert import benchmark_message, init_seed, kernel_descriptor, quarantine_of
from urabrask.laboratory import Laboratory, Weights
from urabrask.library import LibraryClient
from urabrask.sheet_book import SheetBook
from urabrask.sheets import SheetOffice
from urabrask.telling import Teller

DEFAULT_BATCHES: Final = (1, 32, 128)
STOPPED_FOR_S: Final = 60.0
"""How long a kernel whose trial was stopped is refused without another trial, so that it cannot keep out the others."""


@dataclass(frozen=True, slots=True)
class Provided:
    """What a request for a kernel led to.

    Attributes
    ----------
    sheet : leyline.Bsds
        The attached sheet.
    kernel : leyline.KernelDescriptor, optional
        The stored kernel; None when it may not be used.
    refusal : EsperError, optional
        Why there is no kernel.
    fresh : bool
        Whether anything had to be made or tried for it.
    """

    sheet: leyline.Bsds
    kernel: leyline.KernelDescriptor | None
    refusal: EsperError | None
    fresh: bool


@dataclass(frozen=True, slots=True)
class _Examined:
    assessment: Assessment
    stopped_by: EsperError | None


class Assessor:
    """The assessor; its methods may be awaited from one event loop.

    Parameters
    ----------
    laboratory : Laboratory
        Where kernels are made and tried.
    library : LibraryClient
        Where kernels and sheets are kept.
    office : SheetOffice
        Writes sheets.
    book : SheetBook
        Remembers which sheet belongs to which kernel.
    teller : Teller
        Hears what happens.
    clock : Clock
        Source of time.
    """

    def __init__(
        self,
        laboratory: Laboratory,
        library: LibraryClient,
        office: SheetOffice,
        book: SheetBook,
        teller: Teller,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._laboratory = laboratory
        self._library = library
        self._office = office
        self._book = book
        self._teller = teller
        self._clock = clock
        self._keys = KeyedLocks()
        # Two sheets of one blueprint that are signed at once would both continue the same one.
        self._chains = KeyedLocks()
        self._refused: dict[str, tuple[float, Provided]] = {}

    async def try_out(self, spec: KernelSpec) -> leyline.Bsds:
        """Assess a kernel anew and return the signed sheet; nothing is stored or attached."""
        weights = await self._make(spec)
        examined = await self._examine(spec, weights) if isinstance(weights, Weights) else weights
        digest, size = (weights.digest, len(weights.data)) if isinstance(weights, Weights) else ("", 0)
        previous = await self._library.chain_end(spec.blueprint_id)
        sheet = self._office.issue(
            examined.assessment, spec.blueprint_id, kernel_digest=digest, size_bytes=size, previous_digest=previous
        )
        self._teller.sheet_issued(sheet)
        return sheet

    async def provide(self, spec: KernelSpec) -> Provided:
        """Have the kernel of a spec stored with its sheet attached; asking again does no work again.

        The sheet comes before the kernel, so that no kernel is ever in the library without one: whoever is killed in
        between leaves a sheet about a kernel that is not there, and the next request goes on from it.

        Raises
        ------
        EsperError
            If Urza refuses or is away, or the assessment could not be made.
        """
        try:
            async with self._keys.hold(spec.digest):
                provided = self._refused_lately(spec) or await self._provide(spec)
        except EsperError:
            self._teller.kernel("failed")
            raise
        self._teller.kernel("refused" if provided.refusal else "made" if provided.fresh else "known")
        return provided

    async def benchmark(self, spec: KernelSpec, batch_sizes: Sequence[int]) -> leyline.BlueprintBenchmark:
        """Measure the speed of a kernel."""
        version = await self._laboratory.warm_up()
        weights = await self._laboratory.make(spec, init_seed(spec))
        profiles = await self._laboratory.benchmark(spec, weights.data, batch_sizes or DEFAULT_BATCHES)
        benchmark = benchmark_message(spec.blueprint_id, profiles, version, self._clock)
        self._teller.benchmarked(benchmark)
        return benchmark

    async def _provide(self, spec: KernelSpec) -> Provided:
        kernel = await self._library.kernel(spec)
        provided = await (self._provide_new(spec) if kernel is None else self._provide_known(spec, kernel))
        if isinstance(provided.refusal, STOPPED):
            self._refused[spec.digest] = (self._clock.monotonic() + STOPPED_FOR_S, provided)
        return provided

    def _refused_lately(self, spec: KernelSpec) -> Provided | None:
        now = self._clock.monotonic()
        self._refused = {digest: entry for digest, entry in self._refused.items() if entry[0] > now}
        known = self._refused.get(spec.digest)
        return None if known is None else known[1]

    async def _provide_known(self, spec: KernelSpec, kernel: leyline.KernelDescriptor) -> Provided:
        sheet = await self._sheet_of(kernel.blueprint_id, kernel.weights_digest)
        if sheet is not None:
            return Provided(sheet, kernel, None, fresh=False)
        data = await self._library.fetch(kernel.weights_digest)
        weights = Weights(data, kernel.parameter_count, kernel.flops_per_example)
        sheet, stopped_by = await self._assess(spec, weights)
        refusal = stopped_by or quarantine_of(sheet)
        return Provided(sheet, None if refusal else kernel, refusal, fresh=True)

    async def _provide_new(self, spec: KernelSpec) -> Provided:
        weights = await self._make(spec)
        if isinstance(weights, _Examined):
            sheet = await self._attach(spec, weights.assessment, "", 0)
            return Provided(sheet, None, weights.stopped_by, fresh=True)
        known = await self._sheet_of(spec.blueprint_id, weights.digest)
        sheet, stopped_by = (known, None) if known is not None else await self._assess(spec, weights)
        refusal = stopped_by or quarantine_of(sheet)
        if refusal is not None:
            return Provided(sheet, None, refusal, fresh=known is None)
        stored = await self._library.store(kernel_descriptor(spec, weights, self._clock.wall()), weights.data)
        return Provided(sheet, stored, None, fresh=True)

    async def _make(self, spec: KernelSpec) -> Weights | _Examined:
        started = self._clock.monotonic()
        try:
            weights = await self._laboratory.make(spec, init_seed(spec))
        except STOPPED as error:
            return await self._stopped(error)
        self._teller.built((self._clock.monotonic() - started) * 1000)
        return weights

    async def _assess(self, spec: KernelSpec, weights: Weights) -> tuple[leyline.Bsds, EsperError | None]:
        examined = await self._examine(spec, weights)
        sheet = await self._attach(spec, examined.assessment, weights.digest, len(weights.data))
        if examined.assessment.complete:
            self._book.put(sheet)
        return sheet, examined.stopped_by

    async def _examine(self, spec: KernelSpec, weights: Weights) -> _Examined:
        started = self._clock.monotonic()
        try:
            seen = await self._laboratory.observe(spec, weights.data)
        except STOPPED as error:
            return await self._stopped(error)
        except EsperError as error:
            self._teller.assessment_failed(spec.blueprint_id, error)
            raise
        self._teller.assessed((self._clock.monotonic() - started) * 1000)
        return _Examined(assessment_of(seen), None)

    async def _stopped(self, error: EsperError) -> _Examined:
        self._teller.trial_stopped(hazard_of(error).name)
        version = await self._laboratory.warm_up()
        return _Examined(assessment_of_stopped(error, version), error)

    async def _attach(self, spec: KernelSpec, assessment: Assessment, digest: str, size_bytes: int) -> leyline.Bsds:
        def issue(previous: str) -> leyline.Bsds:
            return self._office.issue(
                assessment, spec.blueprint_id, kernel_digest=digest, size_bytes=size_bytes, previous_digest=previous
            )

        async with self._chains.hold(spec.blueprint_id):
            sheet = await self._library.attach(spec.blueprint_id, issue)
        self._teller.sheet_issued(sheet)
        return sheet

    async def _sheet_of(self, blueprint_id: str, kernel_digest: str) -> leyline.Bsds | None:
        known = self._book.find(kernel_digest)
        if known is not None:
            return known
        blueprint = await self._library.blueprint(blueprint_id)
        last = blueprint.bsds
        # A sheet without measurements tells of a trial that was stopped; the next one may end otherwise.
        fits = blueprint.HasField("bsds") and last.kernel_digest == kernel_digest and len(last.measurements) > 0
        return last if fits else None
