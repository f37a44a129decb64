"""Tasks with an owner: started together, watched for crashes, cancelled and joined at the end."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from esper_core.logs import get_logger

_log: Final = get_logger("rpc")

CANCEL_AGAIN_S: Final = 1.0
Hook = Callable[[], Awaitable[None] | None]


class TaskGroupOwner:
    """Owns the background tasks of one server.

    Parameters
    ----------
    on_crash : Callable[[str, BaseException], None]
        Called with the task's name when one ends by an error of its own.
    """

    def __init__(self, on_crash: Callable[[str, BaseException], None]) -> None:
        self._on_crash = on_crash
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, name: str, work: Coroutine[Any, Any, object]) -> None:
        """Run `work` until it ends or the owner cancels it."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._on_crash(task.get_name(), error)

    async def cancel_and_join(self) -> None:
        """Cancel all tasks, again and again, until each has really ended.

        Once is not enough: a cancellation that meets the end of a gRPC call can come out of it as that call's error.
        """
        left = set(self._tasks)
        while left:
            for task in left:
                task.cancel()
            _, left = await asyncio.wait(left, timeout=CANCEL_AGAIN_S)
            for task in left:
                _log.warning("a background task outlived its cancellation; it is cancelled again", task=task.get_name())


async def run_hooks(hooks: list[Hook], timeout_s: float) -> None:
    """Run shutdown hooks in reverse order; one that fails or hangs is logged and does not keep the others waiting."""
    for hook in reversed(hooks):
        name = getattr(hook, "__qualname__", repr(hook))
        try:
            async with asyncio.timeout(timeout_s):
                result = hook()
                if inspect.isawaitable(result):
                    await result
        except TimeoutError:
            _log.error("a shutdown hook did not end in time", hook=name, timeout_s=timeout_s)
        except Exception:
            _log.exception("a shutdown hook failed", hook=name)
