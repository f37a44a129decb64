"""The exported model is the grown model: it loads without services and gives the same outputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from esper_core import leyline
from esper_core.errors import AlreadyExistsError, NotFoundError
from esper_runtime.export import load_exported
from support.tolaria_runs import SEED, attach, prepare_kernel, set_stage, small_run
from tolaria.growth.executor import DirectiveExecutor
from tolaria.reporting.layers import topology_digest
from tolaria.state.export import export_run
from tolaria.training.step import training_step


def test_a_grown_model_is_exported_and_loaded(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run")
    with pytest.raises(NotFoundError):
        export_run(tmp_path / "run", tmp_path / "out")
    session = run.session
    executor = DirectiveExecutor(run.parts.operations, lambda: session.counters.step)
    prepare_kernel(session, run.links, SEED)
    executor.apply(attach(session, SEED))
    for stage in (
        leyline.SEED_STAGE_TRAINING,
        leyline.SEED_STAGE_BLENDING,
        leyline.SEED_STAGE_SHADOWING,
        leyline.SEED_STAGE_PROBATIONARY,
        leyline.SEED_STAGE_FOSSILIZED,
    ):
        assert executor.apply(set_stage(session, SEED, stage)).applied
        training_step(session, 4.0)
    run.parts.keeper.checkpoint("final")
    digest = export_run(tmp_path / "run", tmp_path / "out")
    assert digest == topology_digest(session.host)
    inputs = session.data.test.inputs[:64]
    session.host.model.eval()
    with torch.no_grad():
        assert torch.equal(load_exported(tmp_path / "out")(inputs), session.host.model(inputs))
    with pytest.raises(AlreadyExistsError):
        export_run(tmp_path / "run", tmp_path / "out")
    run.events.close()
