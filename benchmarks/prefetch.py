"""What Esper's way to a kernel adds over the bare fetch of its bytes.

    python -m benchmarks prefetch [--quick] [--json]

Against the real Urza, Urabrask and Oona of a local stack; Kasmina's loader and the trainer's kernel source run here.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry

from benchmarks.local_stack import local_stack, outage
from benchmarks.report import Report, Table
from esper_core import leyline
from esper_core.blueprints import SiteContract, get_blueprint
from esper_core.blueprints.messages import contract_to_message, parameters_to_messages
from esper_core.errors import NotFoundError
from esper_core.ids import new_run_id
from esper_core.pb.esper.urza.v1 import urza_pb2, urza_pb2_grpc
from esper_core.rpc import open_channel
from esper_core.security import Keyring, TokenSource
from esper_core.stack import StackPaths, StackRecord
from esper_core.telemetry import Instruments, TelemetryEmitter
from kasmina.bus import KasminaPlace
from kasmina.kernels import Kernel, KernelKey, KernelTable
from kasmina.loading import KernelLoadManager
from kasmina.telemetry import Telemetry
from tolaria.mediator.kernels import KernelSource

CONCURRENCY: Final = 6
BLOCK: Final = 30
WAIT_S: Final = 120.0
WIDTHS: Final = (32, 64, 128, 192, 256, 384)
EXPANSIONS: Final = (1.0, 2.0)
ARMS: Final = {
    "bare fetch": "Urza's FetchKernel stream, bytes joined; nothing is checked",
    "proved and built": "the same, then SHA-256 before parsing, safetensors, module, shape check: the trainer's part",
    "looked up": "Kasmina asks Urza for the descriptor (GetKernel), then as above: a kernel that was made before",
    "prefetched": "Kasmina asks through Oona, Urabrask answers KernelReady through Oona, then as above",
    "at hand": "descriptor and bytes in their caches, module built: a second seed of the same kind",
}
METHOD: Final = (
    f"A local stack as `esper up` starts it; Kasmina is stopped, so that its loader here is the only one on the bus. "
    f"{len(WIDTHS) * len(EXPANSIONS)} kernels of mlp_residual.v1 at feature sites of {WIDTHS[0]} to {WIDTHS[-1]}.",
    f"{CONCURRENCY} requests at a time, never two for the same kernel at once; arms alternate in blocks of {BLOCK} "
    "requests. One process makes the requests; a request is timed from asking to the end of its arm.",
    "Before it is measured, every arm gets each kernel once.",
    "first time: the requests before all others, one per kernel, when Urabrask has to make and assess the kernel.",
    *(f"{arm}: {what}." for arm, what in ARMS.items()),
)
Request = Callable[[KernelKey], Awaitable[None]]


class ForgetfulLibrary:
    """Answers every look-up as if nothing were stored, so that a request takes the way over the bus."""

    async def GetKernel(self, request: urza_pb2.GetKernelRequest, timeout: float) -> None:  # noqa: D102
        raise NotFoundError("Look-ups are left out here.")


@dataclass(frozen=True, slots=True)
class Bench:
    """Everything that the arms need of the stack."""

    urza: Any
    channel: Any
    emitter: TelemetryEmitter
    tables: dict[str, KernelTable]
    loaders: dict[str, KernelLoadManager]
    kernels: dict[KernelKey, Kernel]
    warm: KernelSource


@asynccontextmanager
async def bench(paths: StackPaths) -> AsyncIterator[Bench]:
    """Connect to a stack in Kasmina's place."""
    record, keyring = StackRecord.load(paths.record), Keyring.load(paths.keyring)
    instruments = Instruments(CollectorRegistry())
    place = KasminaPlace.at(record.address("oona"), "kasmina", keyring, instruments)
    emitter = TelemetryEmitter("kasmina", place.publish_telemetry)
    telemetry = Telemetry(instruments, emitter)
    async with open_channel(record.address("urza"), TokenSource(keyring, "kasmina"), "kasmina") as channel:
        urza = urza_pb2_grpc.LibraryStub(channel)
        tables = {"looked up": KernelTable(), "prefetched": KernelTable()}
        libraries = {"looked up": urza, "prefetched": ForgetfulLibrary()}
        loaders = {
            name: KernelLoadManager(table, libraries[name], place.publish_prefetch, telemetry, budget_s=WAIT_S)
            for name, table in tables.items()
        }
        listening = asyncio.create_task(place.consume(loaders["prefetched"]))
        try:
            yield Bench(urza, channel, emitter, tables, loaders, {}, KernelSource(channel, 2**28, emitter))
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            await place.close()


def arms(on: Bench) -> dict[str, Request]:
    """Return what each arm does with a kernel."""

    async def bare(key: KernelKey) -> None:
        request = urza_pb2.FetchKernelRequest(weights_digest=on.kernels[key].weights_digest)
        data = bytearray()
        async for response in on.urza.FetchKernel(request):
            data += response.chunk

    async def prove(key: KernelKey) -> None:
        await _prepare(KernelSource(on.channel, 0, on.emitter), on.kernels[key])

    async def warm(key: KernelKey) -> None:
        await _prepare(on.warm, on.kernels[key])

    async def through(name: str, key: KernelKey) -> None:
        on.tables[name].forget(on.kernels[key].weights_digest)
        await _obtain(on.loaders[name], key)
        await prove(key)

    return {
        "bare fetch": bare,
        "proved and built": prove,
        "looked up": lambda key: through("looked up", key),
        "prefetched": lambda key: through("prefetched", key),
        "at hand": warm,
    }


async def _obtain(loader: KernelLoadManager, key: KernelKey) -> Kernel:
    found = await loader.obtain(new_run_id(), key, WAIT_S)
    if not isinstance(found, Kernel):
        raise RuntimeError(f"{key.blueprint_id} at {key.contract}: {found.code} {found.message}")
    return found


async def _prepare(source: KernelSource, kernel: Kernel) -> None:
    order = leyline.PrepareKernel(
        kernel_digest=kernel.weights_digest,
        spec_digest=kernel.spec_digest,
        size_bytes=kernel.size_bytes,
        blueprint_id=kernel.key.blueprint_id,
        parameters=parameters_to_messages(dict(kernel.key.parameters)),
        contract=contract_to_message(kernel.key.contract),
    )
    await source.prepare("bench", order, WAIT_S)


async def block(request: Request, keys: Sequence[KernelKey], count: int) -> tuple[list[float], float]:
    """Make requests, some at a time; return the time of each in ms and of all in s."""
    times: list[float] = []

    async def lane(number: int) -> None:
        own = keys[number::CONCURRENCY]
        for index in range(number, count, CONCURRENCY):
            began = time.perf_counter()
            await request(own[index // CONCURRENCY % len(own)])
            times.append((time.perf_counter() - began) * 1000)

    began = time.perf_counter()
    await asyncio.gather(*(lane(number) for number in range(CONCURRENCY)))
    return times, time.perf_counter() - began


async def measure(paths: StackPaths, requests: int, expansions: Sequence[float] = EXPANSIONS) -> dict[str, Any]:
    """Measure all arms and return their figures."""
    keys = [
        KernelKey.of("mlp_residual.v1", get_blueprint("mlp_residual.v1").complete({"expansion": expansion}), contract)
        for contract in (SiteContract("features", width) for width in WIDTHS)
        for expansion in expansions
    ]
    async with bench(paths) as on:

        async def first(key: KernelKey) -> None:
            on.kernels[key] = await _obtain(on.loaders["prefetched"], key)

        made = await block(first, keys, len(keys))
        for request in arms(on).values():
            await block(request, keys, len(keys))
        times: dict[str, list[float]] = {name: [] for name in ARMS}
        spent = dict.fromkeys(ARMS, 0.0)
        for _ in range(max(1, requests // BLOCK)):
            for name, request in arms(on).items():
                each, together = await block(request, keys, min(BLOCK, requests))
                times[name] += each
                spent[name] += together
        sizes = sorted(kernel.size_bytes for kernel in on.kernels.values())
    figures = {name: summary(times[name], spent[name]) for name in ARMS}
    return {"arms": {"first time": summary(*made), **figures}, "bytes": sizes, "concurrency": CONCURRENCY}


def summary(times_ms: Sequence[float], together_s: float) -> dict[str, float]:
    """Return count, percentiles in ms and requests per second."""
    ordered = sorted(times_ms)
    cuts = statistics.quantiles(ordered, n=100, method="inclusive")
    figures = {"p50_ms": cuts[49], "p95_ms": cuts[94], "p99_ms": cuts[98], "mean_ms": statistics.fmean(ordered)}
    plain = {name: round(value, 3) for name, value in figures.items()}
    return {"requests": len(ordered), **plain, "per_s": round(len(ordered) / together_s, 1)}


def report(figures: Mapping[str, Any]) -> Report:
    """Put the figures into a report."""
    measured = figures["arms"]
    bare = measured["bare fetch"]
    rows = [
        (
            *(name, str(one["requests"])),
            *(f"{one[what]:.2f}" for what in ("p50_ms", "p95_ms", "p99_ms")),
            "" if name in ("first time", "bare fetch") else f"{one['p50_ms'] - bare['p50_ms']:+.2f}",
            f"{one['per_s']:.0f}",
        )
        for name, one in measured.items()
    ]
    proof, look, bus = (one["p50_ms"] - bare["p50_ms"] for one in (measured[name] for name in list(ARMS)[1:4]))
    first = measured["first time"]
    findings = [
        f"With {figures['concurrency']} requests at a time, the bare fetch takes {bare['p50_ms']:.1f} ms (p50). "
        f"Proving and building adds {proof:.1f} ms, with the look-up in Urza before it that makes {look:.1f} ms, and "
        f"with the way over the bus instead {bus:.1f} ms.",
        f"A kernel that has to be made and assessed first takes {first['p50_ms'] / 1000:.1f} s (p50 of "
        f"{first['requests']}): that is why runs ask for their kernels ahead.",
        f"Kernels of {figures['bytes'][0] / 1024:.0f} to {figures['bytes'][-1] / 1024:.0f} KiB.",
    ]
    header = ("arm", "requests", "p50 ms", "p95 ms", "p99 ms", "over bare, p50 ms", "requests/s")
    return Report("prefetch", "The way to a kernel", findings, METHOD, figures, [Table("By arm", header, rows)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks prefetch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few requests: shows that it works, measures badly")
    parser.add_argument("--out", type=Path, help="folder of the report; the folder benchmarks when left out")
    parser.add_argument("--json", action="store_true", help="print the report as JSON on stdout")
    chosen = parser.parse_args(arguments)
    with local_stack() as paths, outage(paths, ["kasmina"]):
        figures = asyncio.run(measure(paths, 30 if chosen.quick else 300))
    made = report(figures)
    page = made.write(chosen.out) if chosen.out else made.write()
    print(json.dumps(made.as_json()) if chosen.json else f"Report: {page}")
    return 0
