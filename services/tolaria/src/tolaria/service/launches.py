"""What the service itself remembers about a run's worker: which process it started, and whether starts get anywhere."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from esper_core.errors import IntegrityError
from esper_core.files import atomic_write_json, read_json
from esper_core.stack import ProcessIdentity


@dataclass(frozen=True, slots=True)
class LaunchRecord:
    """The last start of a worker.

    Attributes
    ----------
    pid, started_ticks : int
        Its process; 0 where none was started.
    best_step : int
        Furthest step at which a worker of this run died.
    stalled : int
        Starts in a row that did not get beyond it.
    """

    pid: int = 0
    started_ticks: int = 0
    best_step: int = -1
    stalled: int = 0

    @classmethod
    def load(cls, run_folder: Path) -> Self:
        """Read the record of a run; an empty one where none was written.

        Raises
        ------
        IntegrityError
            If the file holds something else.
        """
        path = _path(run_folder)
        if not path.exists():
            return cls()
        document: Any = read_json(path)
        try:
            return cls(**{name: int(value) for name, value in document.items()})
        except (AttributeError, TypeError, ValueError) as error:
            raise IntegrityError(f"{path} is no record of a start ({error}). Delete it.") from error

    def save(self, run_folder: Path) -> None:
        """Write the record."""
        atomic_write_json(_path(run_folder), asdict(self))

    @property
    def process(self) -> ProcessIdentity | None:
        """The process that was started, dead or alive."""
        return ProcessIdentity(self.pid, self.started_ticks) if self.pid else None

    def started(self, process: ProcessIdentity) -> LaunchRecord:
        """Return the record after a start."""
        return replace(self, pid=process.pid, started_ticks=process.started_ticks)

    def died(self, step: int) -> LaunchRecord:
        """Return the record after a death at a step."""
        if step > self.best_step:
            return replace(self, best_step=step, stalled=0)
        return replace(self, stalled=self.stalled + 1)

    def resumed(self) -> LaunchRecord:
        """Return the record after a person asked for the run to go on: earlier deaths are forgiven."""
        return replace(self, stalled=0)


def _path(run_folder: Path) -> Path:
    return run_folder / "launch.json"
