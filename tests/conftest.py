"""Fixtures for the tests of all rooms."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import structlog

from support.valkey import ValkeyProcess, start_valkey

# Latency matters more than throughput in tests, and two cores are shared by many processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A logged exception is rendered as services render it; structlog's own default draws every tensor in every frame, which
# takes seconds.
structlog.configure(
    processors=[
        *structlog.get_config()["processors"][:-1],
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
    ]
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out soaks unless they are asked for."""
    if os.environ.get("RUN_SOAK_TESTS") == "1":
        return
    skip = pytest.mark.skip(reason="set RUN_SOAK_TESTS=1 to run soaks")
    for item in items:
        if "soak" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyProcess]:
    """One real Valkey for the whole session; use `valkey` unless the test kills and restarts it."""
    server = start_valkey(tmp_path_factory.mktemp("valkey"))
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def valkey(valkey_server: ValkeyProcess) -> ValkeyProcess:
    """A real, empty Valkey."""
    if not valkey_server.answers():
        valkey_server.stop()
        valkey_server.start()
    valkey_server.flush()
    return valkey_server


@pytest.fixture
def redis_url(valkey: ValkeyProcess) -> str:
    """The address of a real, empty Valkey."""
    return valkey.url
