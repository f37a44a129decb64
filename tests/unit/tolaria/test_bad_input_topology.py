"""A site that is removed and a checkpoint of another topology: refused with a type, told, and nothing changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from torch import nn

from esper_core import leyline
from esper_core.errors import EsperError
from esper_core.journal import read_journal
from esper_runtime.errors import SnapshotIntegrityError, TopologyMismatchError, UnknownSiteError
from esper_runtime.snapshot import capture
from esper_runtime.snapshot_store import write_snapshot
from support.noisy_runs import KEPT, SEED, TRAINING, bits, events, executor, grow, noisy_run, same, told_as, turns
from support.tolaria_runs import SmallRun, attach, letter_spec, open_letter, prepare_kernel
from tolaria.rundir import RunDirectory, RunRequest
from tolaria.settings import WorkerSettings
from tolaria.state.capture import capture_session
from tolaria.state.checkpoints import CheckpointStore
from tolaria.training.loop import TrainingLoop
from tolaria.worker.run import work
from tolaria.worker.start import begin


@pytest.fixture
def run(tmp_path: Path) -> Iterator[SmallRun]:
    torch.manual_seed(1)
    made = noisy_run(tmp_path / "run")
    yield made
    made.parts.keeper.close()
    made.events.close()


def layers(run: SmallRun) -> nn.ModuleList:
    found = run.session.host.model.get_submodule("hidden")
    assert isinstance(found, nn.ModuleList)
    return found


async def test_a_seed_that_other_code_takes_out_is_settled_and_told(run: SmallRun) -> None:
    turns(run, 3)
    before = bits(run.session)
    grow(run, *TRAINING)
    graft, hidden = run.session.host.graft(SEED), layers(run)
    hidden[0] = graft.host
    assert not run.session.host.stands(SEED)
    with pytest.raises(TopologyMismatchError, match="other code has taken it out"):
        capture_session(run.session, 0.0)
    hidden[0] = graft

    def take_out(module: nn.Module, inputs: object) -> None:
        hidden[0] = graft.host

    in_mid_step = run.session.host.model.get_submodule("readout").register_forward_pre_hook(take_out)
    assert TrainingLoop(run.parts).turn() is None
    in_mid_step.remove()
    now = bits(run.session)
    assert all(torch.equal(now[name], before[name]) for name in before.keys() - {"random", "passes"})
    assert not run.session.host.seeds()
    (told,) = events(run, "seed")
    assert "Other code has taken the seed out" in told.seed.reason
    assert ("tolaria.seeds.aborted_total", "removed") in await told_as([told])
    turns(run, 6)
    assert not same(bits(run.session), now), "the host learns again"


def test_a_rollback_brings_back_a_kept_seed_that_other_code_took_out(run: SmallRun) -> None:
    turns(run, 3)
    grow(run, *KEPT)
    turns(run, 5)
    run.parts.keeper.start()
    before = capture_session(run.session, 0.0).parameters
    layers(run)[0] = run.session.host.graft(SEED).host
    assert run.parts.recovery._rollback.go_back("operator").restored
    now = capture_session(run.session, 0.0).parameters
    assert now.keys() == before.keys() and all(torch.equal(now[name], before[name]) for name in before)
    turns(run, 7)


def test_a_site_that_is_gone_is_named_with_a_type(run: SmallRun) -> None:
    turns(run, 3)
    before = bits(run.session)
    hidden, run.session.host.model.hidden = layers(run), nn.Identity()
    prepare_kernel(run.session, run.links, SEED)
    refused = executor(run).apply(attach(run.session, SEED))
    assert refused.error_code == "ESP-1006" and "'hidden.0'" in refused.message
    del run.session.host.model.hidden
    with pytest.raises(UnknownSiteError, match=r"hidden\.0"):
        TrainingLoop(run.parts).turn()
    run.session.host.model.hidden = hidden
    assert same({**bits(run.session), "random": before["random"]}, {**before, "passes": before["passes"] + 1})


def grown_checkpoint(run: SmallRun) -> Path:
    grow(run, *KEPT)
    run.parts.keeper.checkpoint("final")
    return run.store.records()[0].path


def wider() -> leyline.RunSpec:
    return letter_spec(parameters=[leyline.TaskParameter(name="width", integer=20)])


def elsewhere() -> leyline.RunSpec:
    return letter_spec(growth=leyline.GrowthSpec(policy="heuristic", sites=["stem"]))


@pytest.mark.parametrize(("spec", "error"), [(wider, TopologyMismatchError), (elsewhere, UnknownSiteError)])
def test_a_checkpoint_of_another_topology_is_refused_and_changes_nothing(
    run: SmallRun, tmp_path: Path, spec: Callable[[], leyline.RunSpec], error: type[EsperError]
) -> None:
    folder, changed = grown_checkpoint(run), spec()
    changed.start_from = str(folder)
    for other, store in (
        (open_letter(changed), CheckpointStore(tmp_path / "none", 2)),
        (open_letter(spec()), CheckpointStore(run.folder.checkpoints_path, 2)),
    ):
        before = bits(other)
        with pytest.raises(error):
            begin(other, store)
        assert same(bits(other), before) and other.host.generation == 0 and other.counters.step == 0


def test_a_checkpoint_that_no_run_wrote_is_refused_and_changes_nothing(run: SmallRun, tmp_path: Path) -> None:
    turns(run, 2)
    write_snapshot(
        capture(run.session.host, step=2, optimizer=run.session.optimizer), tmp_path / "c" / "0000000002-final"
    )
    other = open_letter()
    other.host.model.register_buffer("passes", torch.zeros(()))
    before = bits(other)
    with pytest.raises(SnapshotIntegrityError, match="not written by a run"):
        begin(other, CheckpointStore(tmp_path / "c", 2))
    assert same(bits(other), before)


async def test_a_run_that_begins_from_another_topology_fails_with_its_code(run: SmallRun, tmp_path: Path) -> None:
    spec, folder = wider(), RunDirectory(tmp_path / "other")
    spec.start_from = str(grown_checkpoint(run))
    folder.write_request(RunRequest("01M7YZA3SEEM54XTFHCAEHJ41K", spec, datetime.now(UTC)))
    assert work(folder, WorkerSettings()) != 0
    status = folder.read_status()
    assert status is not None and status.state == leyline.RUN_STATE_FAILED and status.error_code == "ESP-1013"
    assert "hidden.0.0.weight" in status.reason
    told = [leyline.RunEvent.FromString(payload) for payload in read_journal(folder.events_path).payloads]
    assert {("tolaria.runs.finished_total", ""), ("run_failed", "")} <= await told_as(told)
