"""A profile of some training steps: one bounded window, written as a trace; a profiler that fails never ends a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch.profiler import ProfilerActivity, profile

from esper_core.errors import SettingsError
from esper_core.files import ensure_directory
from esper_core.logs import get_logger

LONGEST_WINDOW: Final = 200
"""Traces grow by some hundred kilobytes a step and are kept in memory until they are written."""
_KINDS: Final = (ProfilerActivity.CPU, ProfilerActivity.CUDA)
_log = get_logger("profiler")


@dataclass(frozen=True, slots=True)
class Window:
    """Which steps are profiled, and where the trace goes.

    Attributes
    ----------
    from_step : int
        First step that is profiled, counted from 1.
    steps : int
        How many, at most `LONGEST_WINDOW`.
    folder : Path
        Where the trace is written.
    """

    from_step: int
    steps: int
    folder: Path

    @classmethod
    def of(cls, from_step: int, steps: int, folder: Path | None) -> Window | None:
        """Return the window of some settings; None where no step is named.

        Raises
        ------
        SettingsError
            If steps are to be profiled but no folder is named.
        """
        if from_step == 0:
            return None
        if folder is None:
            raise SettingsError(
                "Steps are to be profiled, but no folder for the trace is named. Set TOLARIA_PROFILE_DIR.",
                variable="TOLARIA_PROFILE_DIR",
            )
        return cls(from_step, steps, folder)


class StepProfiler:
    """Profiles one window of steps; called on the training thread before every step.

    Parameters
    ----------
    window : Window or None
        What is profiled; None for nothing.
    run_id : str
        Names the trace.
    tell : callable
        Told, as a sentence, where profiling is impossible or failed; the run goes on without it.
    """

    def __init__(self, window: Window | None, run_id: str, tell: Callable[[str], None]) -> None:
        self._window = window
        self._run_id = run_id
        self._tell = tell
        self._active: Any = None
        self._ends_before = 0

    def before_step(self, step: int) -> None:
        """Begin or end the window where it is time; costs a comparison otherwise.

        Parameters
        ----------
        step : int
            Number of the step that comes, from 1.
        """
        window = self._window
        if window is None:
            return
        if self._active is None and step >= window.from_step:
            self._guarded(lambda: self._begin(window, step))
        elif self._active is not None and step >= self._ends_before:
            self.close()

    def close(self) -> None:
        """Write the trace of a window that is open, also one that the run's end cut short."""
        window = self._window
        if self._active is not None and window is not None:
            self._guarded(lambda: self._write(window))

    def _begin(self, window: Window, step: int) -> None:
        able = torch.profiler.supported_activities()  # type: ignore[no-untyped-call]
        if ProfilerActivity.CPU not in able:
            raise RuntimeError("this build of torch cannot profile")
        ensure_directory(window.folder)
        active = profile(activities=[kind for kind in _KINDS if kind in able])
        active.start()
        self._active, self._ends_before = active, step + window.steps

    def _write(self, window: Window) -> None:
        active, self._active, self._window = self._active, None, None
        active.stop()
        path = window.folder / f"{self._run_id}-{window.from_step}.trace.json"
        active.export_chrome_trace(str(path))
        _log.info("a trace was written", path=str(path))

    def _guarded(self, action: Callable[[], None]) -> None:
        """Do it, or tell why not and profile no more."""
        try:
            action()
        except Exception as error:  # Whatever a profiler raises, it must not end the run.
            self._window, self._active = None, None
            _log.error("the profiler failed", exc_info=error)
            self._tell(f"The profiler failed and is off: {error}")
