"""The trainer's part of loading a kernel, against an Urza that sends whatever a test wants it to."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence

import grpc
import pytest

from esper_core import leyline
from esper_core.blueprints import KernelSpec, SiteContract
from esper_core.blueprints.messages import contract_to_message, parameters_to_messages
from esper_core.errors import EsperError, IntegrityError, TimeoutExceededError
from esper_core.pb.esper.urza.v1 import urza_pb2, urza_pb2_grpc
from esper_core.telemetry import TelemetryEmitter
from esper_runtime.kernels import materialise
from tolaria.mediator.kernels import KernelSource

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
        self.source = KernelSource(channel, 2**20, TelemetryEmitter("tolaria", nobody))
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
async def fetching() -> AsyncIterator[Fetching]:
    library, server = Library(), grpc.aio.server()
    urza_pb2_grpc.add_LibraryServicer_to_server(library, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Fetching(library, channel)
    await server.stop(None)


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
