"""The trainer's part of loading a kernel, against an Urza that sends whatever a test wants it to."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from esper_core import leyline
from esper_core.blueprints import KernelSpec, SiteContract
from esper_core.blueprints.messages import contract_to_message, parameters_to_messages
from esper_core.errors import EsperError, IntegrityError, InternalError, TimeoutExceededError
from esper_core.journal import read_journal
from esper_core.pb.esper.urza.v1 import urza_pb2, urza_pb2_grpc
from esper_core.telemetry import TelemetryEmitter
from esper_runtime.kernels import materialise
from support.metered import metered
from support.tolaria_runs import SmallRun, attach, directive, small_run
from tolaria.growth.executor import DirectiveExecutor
from tolaria.growth.prepared import PreparedKernel
from tolaria.mediator.kasmina import KasminaPart
from tolaria.mediator.kernels import KernelSource
from tolaria.mediator.peer import ControlPeer, Voices
from tolaria.settings import WorkerSettings
from tolaria.worker.facts import run_facts

SPEC = KernelSpec("mlp_residual.v1", SiteContract("features", 16))
WEIGHTS = materialise(SPEC, 3)
PICKLE = b"\x80\x04\x95\x0f\x00\x00\x00\x00\x00\x00\x00}\x94\x8c\x06weight\x94K\x01s."
CHUNK = 512


class Library(urza_pb2_grpc.LibraryServicer):
    """Sends its chunks, and counts how often it was asked."""

    def __init__(self) -> None:
        self.chunks: Sequence[bytes] = ()
        self.fetches = 0
        self.silent = False

    async def FetchKernel(
        self, request: urza_pb2.FetchKernelRequest, context: object
    ) -> AsyncIterator[urza_pb2.FetchKernelResponse]:
        self.fetches += 1
        for chunk in self.chunks:
            yield urza_pb2.FetchKernelResponse(chunk=chunk)
        if self.silent:
            await asyncio.Event().wait()


class Fetching:
    """A kernel source, its library, and the order for the kernel of the tests."""

    def __init__(self, library: Library, channel: grpc.aio.Channel) -> None:
        async def nobody(packet: leyline.TelemetryPacket) -> None:
            return None

        self.library = library
        self.telemetry = TelemetryEmitter("tolaria", nobody)
        self.source = KernelSource(channel, 2**20, self.telemetry)
        self.weights = WEIGHTS
        self.send(self.weights)

    def send(self, data: bytes) -> None:
        self.library.chunks = [data[start : start + CHUNK] for start in range(0, len(data), CHUNK)]

    def order(self, data: bytes | None = None, **changes: object) -> leyline.PrepareKernel:
        data = self.weights if data is None else data
        order = leyline.PrepareKernel(
            kernel_digest=hashlib.sha256(data).hexdigest(),
            spec_digest=SPEC.digest,
            size_bytes=len(data),
            blueprint_id=SPEC.blueprint_id,
            parameters=parameters_to_messages(SPEC.parameters),
            contract=contract_to_message(SPEC.contract),
        )
        for name, value in changes.items():
            setattr(order, name, value)
        return order


@pytest.fixture
async def library() -> AsyncIterator[tuple[Library, grpc.aio.Channel]]:
    library, server = Library(), grpc.aio.server()
    urza_pb2_grpc.add_LibraryServicer_to_server(library, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield library, channel
    await server.stop(None)


@pytest.fixture
def channel(library: tuple[Library, grpc.aio.Channel]) -> grpc.aio.Channel:
    return library[1]


@pytest.fixture
async def fetching(library: tuple[Library, grpc.aio.Channel]) -> Fetching:
    return Fetching(*library)


@pytest.mark.req("KAS-22")
async def test_two_seeds_share_one_fetch_and_no_module(fetching: Fetching) -> None:
    orders = [fetching.source.prepare(name, fetching.order(), 20.0) for name in ("a", "b")]
    one, other = await asyncio.gather(*orders)
    assert len(fetching.library.chunks) > 1, "it came in chunks"
    assert fetching.library.fetches == 1
    assert one.module is not other.module
    assert not {id(p) for p in one.module.parameters()} & {id(p) for p in other.module.parameters()}


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.req("KAS-22")
@pytest.mark.parametrize(
    "spoil", [flipped, lambda data: data[:-10], lambda data: data + b"x" * 10_000, lambda data: b""]
)
async def test_bytes_that_are_not_the_kernel_are_never_parsed(
    fetching: Fetching, spoil: Callable[[bytes], bytes]
) -> None:
    fetching.send(spoil(fetching.weights))
    with pytest.raises(IntegrityError, match="are not it"):
        await fetching.source.prepare("a", fetching.order(), 20.0)
    fetching.send(fetching.weights)
    assert (await fetching.source.prepare("a", fetching.order(), 20.0)).parameter_count > 0, "nothing bad was kept"


@pytest.mark.req("KAS-22")
async def test_a_pickle_with_the_right_digest_is_no_kernel(fetching: Fetching) -> None:
    fetching.send(PICKLE)
    with pytest.raises(EsperError):
        await fetching.source.prepare("a", fetching.order(PICKLE), 20.0)


def changed(change: Callable[[Tensor], Tensor]) -> bytes:
    tensors = load(WEIGHTS)
    name = sorted(tensors)[0]
    return bytes(save({**tensors, name: change(tensors[name]).contiguous()}))


BAD: dict[str, tuple[bytes, dict[str, Any], str]] = {
    "wrong digest": (WEIGHTS, {"kernel_digest": "0" * 64}, "ESP-1009"),
    "truncated": (WEIGHTS[:-10], {}, "ESP-1009"),
    "wrong shape": (changed(lambda tensor: tensor[:-1]), {}, "ESP-1009"),
    "wrong type": (changed(lambda tensor: tensor.double()), {}, "ESP-1009"),
    "not a number": (changed(lambda tensor: tensor * torch.nan), {}, "ESP-1009"),
    "pickle": (PICKLE, {}, "ESP-1009"),
    "blueprint out of bounds": (WEIGHTS, {"parameters": {"expansion": 1e9}, "spec_digest": ""}, "ESP-1003"),
    "a shape beyond all memory": (WEIGHTS, {"channels": 2**20, "spec_digest": ""}, "ESP-1009"),
    "no such blueprint": (WEIGHTS, {"blueprint_id": "mlp_residual.v9", "spec_digest": ""}, "ESP-1006"),
}


@pytest.mark.req("KAS-22", "TOL-25")
@pytest.mark.parametrize("what", BAD)
async def test_a_bad_kernel_is_told_and_counted_with_its_code_and_touches_nothing(
    fetching: Fetching, channel: grpc.aio.Channel, tmp_path: Path, what: str
) -> None:
    data, changes, code = BAD[what]
    run = small_run(tmp_path)
    before = run.session.host.model.state_dict()
    before = {name: tensor.clone() for name, tensor in before.items()}
    fetching.send(data)
    changes = dict(changes)
    parameters, channels = changes.pop("parameters", {}), changes.pop("channels", SPEC.contract.channels)
    order = fetching.order(data, **changes)
    order.parameters.extend(parameters_to_messages(parameters))
    order.contract.channels = channels
    prepare = directive(run.session, "seed", leyline.DIRECTIVE_KIND_PREPARE, prepare=order)
    await talking(run, channel, fetching.source)._prepare(prepare)

    (event,) = [leyline.RunEvent.FromString(payload) for payload in read_journal(run.folder.events_path).payloads]
    (answer,) = run.links.to_kasmina.take()
    assert answer == event.directive and not answer.applied and answer.error_code == code and answer.message
    (point,) = (await metered([event])).points
    assert (point.name, point.attributes["result"]) == ("tolaria.directives.applied_total", code)
    executor = DirectiveExecutor(run.parts.operations, lambda: 0)
    assert executor.apply(attach(run.session, "seed")).error_code == "ESP-1005", "nothing was prepared"
    after = run.session.host.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    run.events.close()


class Faulty(KernelSource):
    """A source with a defect of its own."""

    async def prepare(self, seed_id: str, order: leyline.PrepareKernel, timeout_s: float) -> PreparedKernel:
        raise ZeroDivisionError("division by zero")


async def test_a_defect_of_ours_is_answered_too_so_that_nobody_waits(
    fetching: Fetching, channel: grpc.aio.Channel, tmp_path: Path
) -> None:
    run = small_run(tmp_path)
    faulty = Faulty(channel, 2**20, fetching.telemetry)
    prepare = directive(run.session, "seed", leyline.DIRECTIVE_KIND_PREPARE, prepare=fetching.order())
    await talking(run, channel, faulty)._prepare(prepare)
    (answer,) = run.links.to_kasmina.take()
    assert answer.error_code == InternalError.code and "ZeroDivisionError" in answer.message
    run.events.close()


def talking(run: SmallRun, channel: grpc.aio.Channel, source: KernelSource) -> KasminaPart:
    """The worker's own part of the conversation with Kasmina."""

    async def nobody(packet: leyline.TelemetryPacket) -> None:
        return None

    settings, telemetry = WorkerSettings(), TelemetryEmitter("tolaria", nobody)
    voices = Voices(run.board, run.events, run.links.control, lambda: 0, lambda: run.session.host.generation)
    peer = ControlPeer("kasmina", settings, voices, telemetry)
    return KasminaPart(channel, source, run_facts(run.session), settings, run.links, voices, peer)


async def test_a_kernel_of_another_spec_or_shape_is_refused(fetching: Fetching) -> None:
    with pytest.raises(IntegrityError, match="spec has digest"):
        await fetching.source.prepare("a", fetching.order(spec_digest="0" * 64), 20.0)
    wider = contract_to_message(SiteContract("features", 32))
    order = fetching.order(spec_digest="")
    order.contract.CopyFrom(wider)
    with pytest.raises(EsperError):
        await fetching.source.prepare("a", order, 20.0)


async def test_an_urza_that_falls_silent_costs_its_time_limit_and_no_more(fetching: Fetching) -> None:
    fetching.library.chunks, fetching.library.silent = (), True
    with pytest.raises(TimeoutExceededError, match="was not ready"):
        await fetching.source.prepare("a", fetching.order(), 0.3)
