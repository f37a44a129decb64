"""Connections to Redis, and what its failures mean here."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ReadOnlyError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from esper_core.errors import UnavailableError
from oona.settings import OonaSettings

CONNECT_TIMEOUT_S: Final = 2.0
MAX_BLOCK_MS: Final = 2000
_NOT_NOW: Final = ("MISCONF", "LOADING", "NOGROUP", "READONLY", "OOM", "MASTERDOWN", "NOREPLICAS")


class RedisLink:
    """Makes connections: one pool for short commands, and one connection for each reader that blocks."""

    def __init__(self, settings: OonaSettings) -> None:
        self._url = settings.redis_url
        self._timeout_s = settings.redis_timeout_ms / 1000
        # One retry gets over a pooled connection that a restart of Redis has broken; every command through the pool may
        # be repeated.
        self.pool: Any = self._open(max_connections=16, retries=1, timeout_s=self._timeout_s)

    def dedicated(self) -> Any:
        """Open a connection of its own for blocking reads; they must not be cancelled on a shared one."""
        return self._open(max_connections=1, retries=0, timeout_s=self._timeout_s + MAX_BLOCK_MS / 1000)

    def _open(self, *, max_connections: int, retries: int, timeout_s: float) -> Any:
        pool: Any = BlockingConnectionPool.from_url(
            self._url,
            protocol=2,
            max_connections=max_connections,
            timeout=self._timeout_s,
            socket_timeout=timeout_s,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            retry=Retry(NoBackoff(), retries),
            client_name="oona",
        )
        return Redis.from_pool(pool)

    async def ping(self) -> None:
        """Ask whether Redis answers.

        Raises
        ------
        UnavailableError
            If it does not.
        """
        with redis_errors():
            await self.pool.ping()

    async def close(self) -> None:
        """Close the pool."""
        await self.pool.aclose()


@contextmanager
def redis_errors() -> Iterator[None]:
    """Turn a Redis that is away, loading, full or read-only into UnavailableError; other errors are ours and pass.

    redis-py loses a cancellation that arrives while it looks after its connections; it is raised again here.
    """
    task = asyncio.current_task()
    cancelled_before = task.cancelling() if task is not None else 0
    try:
        yield
    except (RedisConnectionError, RedisTimeoutError, OutOfMemoryError, ReadOnlyError, OSError) as error:
        _require_uncancelled(task, cancelled_before)
        raise _away(error) from error
    except ResponseError as error:
        _require_uncancelled(task, cancelled_before)
        if str(error).startswith(_NOT_NOW):
            raise _away(error) from error
        raise
    _require_uncancelled(task, cancelled_before)


def _require_uncancelled(task: asyncio.Task[Any] | None, before: int) -> None:
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError


def _away(error: RedisError | OSError) -> UnavailableError:
    return UnavailableError(f"Redis does not take commands: {error}. Check the Redis that OONA_REDIS_URL names.")
