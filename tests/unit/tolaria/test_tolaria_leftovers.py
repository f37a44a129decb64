"""A seed that is taken out leaves nothing behind, and whatever is left all the same is named."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from esper_core import leyline
from esper_runtime.optim import SEED_KEY
from esper_runtime.ownership import seed_owner
from support.tolaria_grown import bare_state, train
from support.tolaria_runs import SEED, SmallRun, attach, detach, directive, prepare_kernel, set_stage
from tolaria.growth.executor import DirectiveExecutor


def test_a_detached_seed_leaves_the_host_as_if_it_had_never_been_there(
    run: SmallRun, executor: DirectiveExecutor
) -> None:
    session = run.session
    train(run, 3)
    layers = dict(session.host.model.named_modules())
    prepare_kernel(session, run.links, SEED)
    executor.apply(attach(session, SEED))
    executor.apply(set_stage(session, SEED, leyline.SEED_STAGE_TRAINING))
    held = bare_state(run)
    train(run, 4)
    result = executor.apply(detach(session, SEED))
    assert result.applied and result.removed_cleanly
    assert dict(session.host.model.named_modules()) == layers
    site = {name: value for name, value in bare_state(run).items() if name.startswith("hidden.0")}
    assert all(torch.equal(value, held[name.replace("hidden.0", "hidden.0.host")]) for name, value in site.items())
    assert len(session.optimizer.param_groups) == 1
    reset = executor.apply(directive(session, SEED, leyline.DIRECTIVE_KIND_RESET))
    assert reset.applied and reset.removed_cleanly
    train(run, 2)


STRAY = torch.nn.Parameter(torch.zeros(1))


def leave_hook(run: SmallRun) -> None:
    run.session.host.model.register_forward_hook(training_step_hook)


def training_step_hook(*_: object) -> None:
    """Stand for a hook of ours that somebody forgot to take off."""


training_step_hook.__module__ = "tolaria.growth.observation"


def leave_group(run: SmallRun) -> None:
    run.session.optimizer.param_groups.append({"params": [], SEED_KEY: SEED})


def leave_moments(run: SmallRun) -> None:
    run.session.optimizer.state[STRAY] = {}


def leave_kernel(run: SmallRun) -> None:
    prepare_kernel(run.session, run.links, SEED)


def leave_owner(run: SmallRun) -> None:
    run.session.host.ownership.register(seed_owner(SEED), [("left", STRAY)])


@pytest.mark.parametrize(
    ("leave", "kind"),
    [
        (leave_hook, "hook"),
        (leave_group, "optimizer_group"),
        (leave_moments, "optimizer_group"),
        (leave_kernel, "cache"),
        (leave_owner, "registry"),
    ],
)
def test_whatever_a_removal_leaves_behind_is_named(
    run: SmallRun, executor: DirectiveExecutor, leave: Callable[[SmallRun], None], kind: str
) -> None:
    session = run.session
    prepare_kernel(session, run.links, SEED)
    executor.apply(attach(session, SEED))
    assert "module" in executor.operations.left_behind(SEED)
    assert "parameter" in executor.operations.left_behind(SEED)
    assert executor.apply(detach(session, SEED)).removed_cleanly
    assert executor.operations.left_behind(SEED) == ()
    session.host.model.register_forward_hook(lambda *_: None)
    assert executor.operations.left_behind(SEED) == (), "a hook of the user's is not ours"
    leave(run)
    assert executor.operations.left_behind(SEED) == (kind,)
