"""Which tasks may be loaded, and what a user is told about those that may not."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn

from esper_core.errors import NotFoundError, PermissionDeniedError, ValidationError
from esper_tasks import Task, known_tasks, load_task

OWN_TASK = """
    import torch
    from torch import nn
    from esper_runtime import Site
    from esper_tasks import ClassificationTask, Split, TaskData

    class Parity(ClassificationTask):
        name = "parity"
        attribution = "made here"

        def build_model(self, seed):
            torch.manual_seed(seed)
            return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))

        def sites(self, model):
            return [Site("hidden", "1", "features")]

        def data(self, seed):
            inputs = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4)
            split = Split(inputs, inputs.sum(1).long() % 2)
            return TaskData(split, split, split, split, seed)

    def make_task():
        return Parity()

    def make_nothing():
        return object()
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = "a_users_own_module"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(OWN_TASK))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, name, raising=False)
    return name


@pytest.mark.parametrize("name", known_tasks())
def test_every_known_task_keeps_the_protocol(name: str) -> None:
    task = load_task(name)
    assert isinstance(task, Task)
    assert task.name == name
    assert task.attribution
    assert {"small", "big"} <= set(task.default_spec().sizes)


def test_an_unknown_task_is_told_with_the_known_ones() -> None:
    with pytest.raises(NotFoundError) as caught:
        load_task("lettre")
    assert all(name in str(caught.value) for name in known_tasks())
    assert caught.value.details["field"] == "task"


def test_an_own_task_must_be_allowed(own_module: str) -> None:
    with pytest.raises(PermissionDeniedError, match="TOLARIA_TASK_ALLOWLIST"):
        load_task(f"{own_module}:make_task", allow=[f"{own_module}:make_nothing"])
    assert own_module not in sys.modules


def test_an_allowed_own_task_is_loaded(own_module: str) -> None:
    reference = f"{own_module}:make_task"
    task = load_task(reference, allow=[reference])
    model = task.build_model(0)
    batch = task.data(0).sampler(4).next_batch()
    losses = task.loss(model(batch.inputs), batch.targets)
    assert isinstance(model, nn.Module)
    assert losses.shape == (4,)
    assert torch.isfinite(losses).all()


def test_what_is_no_task_is_refused_with_what_it_lacks(own_module: str) -> None:
    reference = f"{own_module}:make_nothing"
    with pytest.raises(ValidationError, match="build_model"):
        load_task(reference, allow=[reference])


@pytest.mark.parametrize("reference", ["no_such_module_here:make", "math:no_such_function", ":make", "math:"])
def test_a_reference_to_nothing_is_not_found(reference: str) -> None:
    with pytest.raises(NotFoundError):
        load_task(reference, allow=[reference])
