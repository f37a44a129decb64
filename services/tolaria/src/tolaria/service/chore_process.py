"""Running chores: one short-lived process each, bounded in time and number, killed with its caller."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from typing import Any, Final

from esper_core.errors import TimeoutExceededError, WorkerCrashedError, from_code

_AT_A_TIME: Final = 2
_SHOWN: Final = 400


class Chores:
    """Runs the chores of `tolaria.service.chores`.

    Parameters
    ----------
    timeout_s : float
        Longest time of one, the wait for its turn included.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._turns = asyncio.Semaphore(_AT_A_TIME)

    async def do(self, name: str, request: Mapping[str, Any]) -> Any:
        """Do a chore and return its answer.

        Raises
        ------
        TimeoutExceededError
            If it takes too long; its process is killed.
        WorkerCrashedError
            If its process dies.
        EsperError
            What the chore itself raised.
        """
        try:
            async with asyncio.timeout(self._timeout_s), self._turns:
                output = await _run(name, json.dumps(request).encode())
        except TimeoutError as error:
            raise TimeoutExceededError(f"{name!r} took longer than {self._timeout_s:g} s and was stopped.") from error
        answer = json.loads(output.splitlines()[-1])
        if "error" in answer:
            refused = answer["error"]
            raise from_code(refused["code"], refused["message"], refused["details"])
        return answer["answer"]


async def _run(name: str, request: bytes) -> bytes:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tolaria.service.chores",
        name,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, complaint = await process.communicate(request)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode or not output.strip():
        last = complaint.decode(errors="replace").strip().splitlines()[-1:] or [""]
        raise WorkerCrashedError(
            f"The process of {name!r} ended with status {process.returncode}: {last[0][:_SHOWN]}. Try again."
        )
    return output
