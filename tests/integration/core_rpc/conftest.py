"""A real server on the loopback interface, and channels to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from support.rpc_server import Running, build_server


@pytest.fixture
async def prepare() -> AsyncIterator[Callable[..., Running]]:
    """Build servers that the test starts; stops them in the end."""
    made: list[Running] = []

    def build(*args: object, **kwargs: object) -> Running:
        made.append(build_server(*args, **kwargs))  # type: ignore[arg-type]
        return made[-1]

    yield build
    for running in made:
        await running.close()


@pytest.fixture
async def running(prepare: Callable[..., Running]) -> Running:
    """Return a started server."""
    ready = prepare()
    await ready.host.start()
    return ready
