"""The README's own model trains as it stands there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.local_stack import LocalStack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
README = Path(__file__).resolve().parents[2] / "README.md"


@pytest.fixture
def stack_with_own_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalStack]:
    (program,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (tmp_path / "moons.py").write_text(program)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("TOLARIA_TASK_ALLOWLIST", "moons:make_task")
    local = LocalStack(tmp_path / "state")
    local.up()
    yield local
    local.down()


def test_a_model_of_ones_own_grows_or_waits_and_completes(stack_with_own_task: LocalStack) -> None:
    told = stack_with_own_task.esper_json(
        "run", "submit", "moons:make_task", "--epochs", "60", "--follow", timeout_s=200
    )
    assert told["state"] == "COMPLETED"
    assert told["accuracy"] > 0.8
