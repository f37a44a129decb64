"""A child process that runs one blocking call at a time and can be killed in the middle of it.

Threads cannot be stopped; processes can. Requests and replies are Python objects over an anonymous pipe between a
process and its own child, so nothing from outside is ever unpickled here.
"""

from __future__ import annotations

import asyncio
import importlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Final

from esper_core.errors import InternalError, ValidationError, WorkerCrashedError

_SPAWN: Final = multiprocessing.get_context("spawn")
_REAP_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Call:
    """A blocking call: a function of an importable module with plain arguments."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]


class ChildProcess:
    """One child; started on construction, dead after `kill`.

    Parameters
    ----------
    name : str
        Process name, for people.
    preload : Sequence[str]
        Modules that the child imports before its first call, so that no deadline pays for them.
    """

    def __init__(self, name: str, preload: Sequence[str] = ()) -> None:
        self._connection, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_serve, args=(theirs, tuple(preload)), name=name, daemon=True)
        self._process.start()
        self._doomed = False
        # Without this copy closed, the death of the child would not end our side's reads.
        theirs.close()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid or 0

    @property
    def usable(self) -> bool:
        """Whether the child can take a call: it lives and is not killed; a killed process lives on for a moment."""
        return not self._doomed and self._process.is_alive()

    async def run(self, call: Call, executor: Executor) -> Any:
        """Run a call; when cancelled, the child is dead before the cancellation goes on.

        Raises
        ------
        ValidationError
            If function or arguments cannot be sent to another process.
        WorkerCrashedError
            If the child died.
        """
        exchange = asyncio.get_running_loop().run_in_executor(executor, self._exchange, call)
        # Looked at in any case, because after a cancellation nobody waits for how the exchange broke off.
        exchange.add_done_callback(lambda future: future.cancelled() or future.exception())
        try:
            succeeded, value = await asyncio.shield(exchange)
        except asyncio.CancelledError:
            self.kill()
            await asyncio.wait({exchange}, timeout=_REAP_S)
            raise
        except (EOFError, OSError) as error:
            self.kill()
            self._process.join(_REAP_S)
            raise WorkerCrashedError(
                f"The child process of {call.function.__qualname__} died with exit status {self._process.exitcode}.",
            ) from error
        if not succeeded:
            raise value
        return value

    def kill(self) -> None:
        """Kill the child with everything that it started; does not wait."""
        self._doomed = True
        if not self._process.is_alive():
            return
        with suppress(ProcessLookupError):
            # The child leads a process group of its own, but only once it has got that far.
            if os.getpgid(self.pid) == self.pid:
                os.killpg(self.pid, signal.SIGKILL)
            self._process.kill()

    def close(self) -> None:
        """Kill the child, reap it and let go of the pipe; only when no call runs."""
        self.kill()
        self._process.join(_REAP_S)
        self._connection.close()

    def _exchange(self, call: Call) -> tuple[bool, Any]:
        try:
            self._connection.send(call)
        except OSError:
            raise
        except Exception as error:
            raise ValidationError(
                f"{call.function!r} cannot be sent to a child process: {error}. Use a module's function, plain data.",
                field="function",
            ) from error
        reply: tuple[bool, Any] = self._connection.recv()
        return reply


def _serve(connection: Connection, preload: Sequence[str]) -> None:
    """Run calls in the child until the parent goes away."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    for module in preload:
        importlib.import_module(module)
    while True:
        try:
            call: Call = connection.recv()
        except EOFError:
            return
        except Exception as error:
            # The function's module cannot be imported here: the caller has to hear it, not the log of a child.
            connection.send((False, InternalError(f"The child could not read the call: {error!r}")))
            continue
        _reply(connection, call)


def _reply(connection: Connection, call: Call) -> None:
    try:
        reply: tuple[bool, Any] = (True, call.function(*call.arguments, **call.keywords))
    except Exception as error:
        reply = (False, error)
    try:
        connection.send(reply)
    except OSError:
        raise
    except Exception as error:
        what = "result" if reply[0] else "error"
        connection.send((False, InternalError(f"The {what} {reply[1]!r:.200} cannot leave the child: {error!r}")))


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.killpg(os.getpid(), signal.SIGKILL)
