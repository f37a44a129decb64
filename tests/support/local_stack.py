"""A whole local stack for tests, brought up and driven by the `esper` command as a person would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esper_cli.run_client import RunClient
from esper_cli.stack_client import StackClient
from esper_core.stack import ProcessIdentity, StackPaths, StackRecord
from support.waiting import wait_until

UP_WITHIN_S = 120.0


@dataclass(slots=True)
class LocalStack:
    """A stack in a state folder of its own.

    Parameters
    ----------
    folder : Path
        The state folder.
    """

    folder: Path

    @property
    def paths(self) -> StackPaths:
        """Where its files are."""
        return StackPaths(self.folder)

    @property
    def client(self) -> StackClient:
        """The stack as the command line sees it."""
        return StackClient.of(self.folder)

    @property
    def runs(self) -> RunClient:
        """Its runs."""
        return RunClient(self.client)

    def up(self) -> None:
        """Start it and wait until every service is healthy."""
        done = self.esper("up", "--detach", "--timeout", str(UP_WITHIN_S))
        assert done.returncode == 0, done.stderr + self.logs()

    def down(self) -> None:
        """Stop it."""
        done = self.esper("down")
        assert done.returncode == 0, done.stderr

    def esper(self, *arguments: str, timeout_s: float = 150.0) -> subprocess.CompletedProcess[str]:
        """Run an `esper` command against this stack."""
        return subprocess.run(
            self._command(*arguments),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env=self._environment(),
        )

    def esper_json(self, *arguments: str, timeout_s: float = 150.0) -> Any:
        """Run a command with --json and return what it printed."""
        done = self.esper(*arguments, "--json", timeout_s=timeout_s)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        (line,) = done.stdout.splitlines()
        return json.loads(line)

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """Begin an `esper` command and leave it running."""
        return subprocess.Popen(
            self._command(*arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment(),
        )

    def process(self, service: str) -> ProcessIdentity:
        """Return the living process of a service."""
        found = StackRecord.load(self.paths.record).services[service].process
        assert found is not None, f"{service} was never started"
        return found

    def kill(self, service: str) -> None:
        """End a service as a crash would, and wait until another process has taken its place and is healthy."""
        victim = self.process(service)
        assert victim.send(signal.SIGKILL), f"{service} was dead already"
        wait_until(lambda: self._replaced(service, victim), 60.0, what=f"{service} coming back")

    def healthy(self) -> bool:
        """Return whether every service says SERVING."""
        return self.esper("probe").returncode == 0

    def logs(self) -> str:
        """Return the end of every log, for the message of a failed test."""
        parts = (f"--- {log.name}\n{log.read_text()[-1500:]}" for log in sorted(self.paths.logs.glob("*.log")))
        return "\n".join(parts)

    def _replaced(self, service: str, victim: ProcessIdentity) -> bool:
        process = StackRecord.load(self.paths.record).services[service].process
        return process is not None and process != victim and process.is_alive()

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "esper_cli", *arguments, "--state-dir", str(self.folder)]

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
