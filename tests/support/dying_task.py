"""A task of a user's own that kills every worker that opens it; a check of it finds nothing wrong."""

from __future__ import annotations

import os
import sys

from esper_tasks import TaskData
from esper_tasks.letter import LetterTask


class DyingTask(LetterTask):
    """Letter, until a worker asks for the data."""

    name = "dying"

    def data(self, seed: int) -> TaskData:
        """Return the data, unless this is a worker."""
        if "tolaria.worker" in sys.orig_argv:
            os._exit(9)
        return super().data(seed)


def make() -> DyingTask:
    """Return the task."""
    return DyingTask()
