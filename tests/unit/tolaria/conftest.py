"""Fixtures for the tests of the trainer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.teaching import ended_run, taught_by
from support.tolaria_runs import SmallRun, letter_spec, small_run
from tolaria.growth.executor import DirectiveExecutor
from tolaria.worker.start import begin_teaching


@pytest.fixture
def run(tmp_path: Path) -> Iterator[SmallRun]:
    """A small run with all its parts."""
    made = small_run(tmp_path)
    yield made
    made.events.close()


@pytest.fixture
def executor(run: SmallRun) -> DirectiveExecutor:
    """What carries out the directives of `run`."""
    return DirectiveExecutor(run.parts.operations, lambda: run.session.counters.step)


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last checkpoint of a run that has ended: a teacher. Nothing writes to it."""
    return ended_run(tmp_path_factory.mktemp("teacher"))


@pytest.fixture
def taught(source: Path, tmp_path: Path) -> Iterator[SmallRun]:
    """A run that has begun to learn from `source` and has told so."""
    run = small_run(tmp_path, letter_spec(teacher=taught_by(source)))
    change = begin_teaching(run.session)
    assert change is not None
    run.parts.reporter.tell(change)
    yield run
    run.events.close()
