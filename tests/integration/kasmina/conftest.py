"""Kasmina and Urza as processes, and a scripted runtime on the stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from esper_core.ids import new_run_id
from esper_core.rpc import EsperChannel
from esper_core.security import Keyring
from support.kasmina_stream import StreamRuntime, put_kernel
from support.kasmina_supply import Store
from support.service_process import ServiceProcess


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where everything of these processes goes."""
    return tmp_path_factory.mktemp("kasmina")


@pytest.fixture(scope="module")
def keyring(folder: Path) -> Keyring:
    """The keys that both share."""
    ring = Keyring.generate()
    ring.save(folder / "keyring.json")
    return ring


@pytest.fixture(scope="module")
def urza(folder: Path, keyring: Keyring) -> Iterator[ServiceProcess]:
    """A real Urza."""
    service = ServiceProcess("urza", folder, folder / "keyring.json")
    service.start()
    yield service
    assert service.stop() == 0, service.log


@pytest.fixture(scope="module")
def kasmina(folder: Path, urza: ServiceProcess) -> Iterator[ServiceProcess]:
    """A real Kasmina beside it, that waits seconds for kernels and embargoes for two epochs."""
    settings = {"ESPER_URZA_ADDRESS": urza.address, "KASMINA_KERNEL_WAIT_S": "3", "KASMINA_EMBARGO_EPOCHS": "2"}
    service = ServiceProcess("kasmina", folder, folder / "keyring.json", settings)
    service.start()
    yield service
    assert service.stop() == 0, service.log


@pytest.fixture
async def library(urza: ServiceProcess, keyring: Keyring) -> AsyncIterator[EsperChannel]:
    """A channel to Urza."""
    async with urza.channel(keyring) as channel:
        yield channel


@pytest.fixture
async def channel(kasmina: ServiceProcess, keyring: Keyring) -> AsyncIterator[EsperChannel]:
    """A channel to Kasmina."""
    async with kasmina.channel(keyring) as channel:
        yield channel


@pytest.fixture
async def run(channel: EsperChannel, library: EsperChannel, keyring: Keyring) -> AsyncIterator[StreamRuntime]:
    """A connected run whose kernel lies in Urza."""
    await put_kernel(library)
    runtime = StreamRuntime(new_run_id(), keyring)
    await runtime.connect(channel)
    yield runtime
    runtime.cut()


@pytest.fixture
async def store(library: EsperChannel) -> AsyncIterator[Store]:
    """A supply of kernels on the real Urza."""
    store = Store(library)
    yield store
    await store.close()
