"""Tolaria for the tests of its service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from support.tolaria_service import RunClient, TolariaProcess


@pytest.fixture
def tolaria(tmp_path: Path) -> Iterator[TolariaProcess]:
    """A Tolaria of the test's own, to be killed and started again."""
    process = TolariaProcess(tmp_path)
    process.service.start()
    yield process
    process.sweep()


@pytest.fixture
async def runs(tolaria: TolariaProcess) -> AsyncIterator[RunClient]:
    """A client of the test's own Tolaria."""
    async with tolaria.client() as client:
        yield client


@pytest.fixture(scope="module")
def shared_tolaria(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TolariaProcess]:
    """One Tolaria for the tests of a module that leave it as it is."""
    process = TolariaProcess(tmp_path_factory.mktemp("tolaria"))
    process.service.start()
    yield process
    process.sweep()


@pytest.fixture
async def shared_runs(shared_tolaria: TolariaProcess) -> AsyncIterator[RunClient]:
    """A client of the shared Tolaria."""
    async with shared_tolaria.client() as client:
        yield client
