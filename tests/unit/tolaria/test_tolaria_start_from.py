"""A run begins with what another one grew: its whole model, or its topology with new weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from esper_core import leyline
from esper_core.errors import NotFoundError
from support.tolaria_grown import train
from support.tolaria_runs import BLUEPRINT, SEED, SmallRun, attach, letter_spec, open_letter, prepare_kernel, set_stage
from tolaria.growth.executor import DirectiveExecutor
from tolaria.state.checkpoints import CheckpointStore
from tolaria.training.step import training_step
from tolaria.worker.start import begin


def kept_checkpoint(run: SmallRun, executor: DirectiveExecutor, blueprint_id: str = BLUEPRINT) -> Path:
    """Grow a seed, keep it, and return the folder of the checkpoint that holds it."""
    session = run.session
    prepare_kernel(session, run.links, SEED, blueprint_id=blueprint_id)
    executor.apply(attach(session, SEED))
    for stage in (leyline.SEED_STAGE_TRAINING, leyline.SEED_STAGE_SHADOWING, leyline.SEED_STAGE_FOSSILIZED):
        executor.apply(set_stage(session, SEED, stage))
        train(run, 2)
    run.parts.keeper.checkpoint("final")
    (record,) = run.store.records()
    return record.path


def test_a_run_begins_from_the_grown_model_of_another(
    run: SmallRun, executor: DirectiveExecutor, tmp_path: Path
) -> None:
    folder = kept_checkpoint(run, executor)
    other = open_letter(letter_spec(start_from=str(folder)))
    begun = begin(other, CheckpointStore(tmp_path / "none", 2))
    assert not begun.resumed and other.counters.step == 0
    assert other.host.parameter_count() == run.session.host.parameter_count()
    training_step(other, 4.0)
    with pytest.raises(NotFoundError):
        begin(open_letter(letter_spec(start_from=str(tmp_path / "away"))), CheckpointStore(tmp_path / "none", 2))


@pytest.mark.parametrize("blueprint_id", [BLUEPRINT, "widen.v1"])
def test_a_run_begins_with_the_topology_of_another_and_new_weights(
    run: SmallRun, executor: DirectiveExecutor, tmp_path: Path, blueprint_id: str
) -> None:
    spec = letter_spec(start_from=str(kept_checkpoint(run, executor, blueprint_id)), topology_only=True, random_seed=8)
    other = open_letter(spec)
    begin(other, CheckpointStore(tmp_path / "none", 2))
    assert other.host.parameter_count() == other.counters.parameters_initial == run.session.host.parameter_count()
    grown, planted = (dict(session.host.model.named_parameters()) for session in (run.session, other))
    assert list(grown) == list(planted)
    assert not any(torch.equal(grown[name], planted[name]) for name in grown if planted[name].dim() > 1)
    (group,) = other.optimizer.param_groups
    assert {id(tensor) for tensor in group["params"]} == {id(tensor) for tensor in planted.values()}
    before = {name: tensor.detach().clone() for name, tensor in planted.items()}
    training_step(other, 4.0)
    training_step(other, 4.0)
    assert not any(torch.equal(before[name], planted[name]) for name in before)
