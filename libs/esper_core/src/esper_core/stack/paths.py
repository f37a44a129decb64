"""Where the files of a local stack lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from esper_core.files import ensure_directory
from esper_core.security.keyring import Keyring


@dataclass(frozen=True, slots=True)
class StackPaths:
    """The layout of a state folder.

    Parameters
    ----------
    root : Path
        The state folder; two stacks side by side have two of them.
    """

    root: Path

    @property
    def record(self) -> Path:
        """Who serves what: ports, process ids, restarts."""
        return self.root / "stack.json"

    @property
    def keeper(self) -> Path:
        """The process that keeps Weatherlight alive."""
        return self.root / "keeper.json"

    @property
    def lock(self) -> Path:
        """Held by the keeper for as long as the stack is up."""
        return self.root / "stack.lock"

    @property
    def keyring(self) -> Path:
        """The signing keys of the stack."""
        return self.root / "secrets" / "keyring.json"

    @property
    def bridge(self) -> Path:
        """What training processes tell Weatherlight through shared memory."""
        return self.root / "bridge"

    @property
    def logs(self) -> Path:
        """One log file for each service."""
        return self.root / "logs"

    def log(self, service: str) -> Path:
        """Return the log file of a service."""
        return self.logs / f"{service}.log"

    def data(self, service: str) -> Path:
        """Return the folder in which a service keeps what it knows."""
        return self.root / "data" / service

    def prepare(self) -> Keyring:
        """Create the folders and, the first time, the signing keys; return the keys."""
        ensure_directory(self.root)
        ensure_directory(self.logs)
        ensure_directory(self.keyring.parent, mode=0o700)
        if not self.keyring.exists():
            Keyring.generate().save(self.keyring)
        return Keyring.load(self.keyring)
