"""Supervisors in a folder of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.tolaria_supervised import Room


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Room]]:
    """Makes supervisors on one folder, as one service after the other would be; ends their workers."""
    rooms: list[Room] = []

    def build(**choices: object) -> Room:
        rooms.append(Room(tmp_path, **choices))  # type: ignore[arg-type]
        return rooms[-1]

    yield build
    for room in rooms:
        room.sleepers.sweep()
