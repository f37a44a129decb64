"""Directives do at a fence what they say, once, on the generation they were decided on, and leave nothing behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch

from esper_cli.follow import told
from esper_core import leyline
from esper_core.blending import BlendSpec, blend_to_message, modes
from esper_core.clocks import to_timestamp
from esper_core.errors import NotFoundError
from esper_core.journal import read_journal
from esper_core.telemetry import TelemetryEmitter
from esper_runtime.errors import IsolationViolationError
from esper_runtime.leaks import Leak
from esper_runtime.optim import SEED_KEY
from esper_runtime.ownership import seed_owner
from kasmina.convert.evidence import evidence_from_message
from kasmina.gates import judge_gradient_health
from kasmina.gates.limits import GateLimits
from support.tolaria_runs import (
    BLUEPRINT,
    SmallRun,
    attach,
    detach,
    directive,
    letter_spec,
    open_letter,
    prepare_kernel,
    set_blend,
    set_stage,
    small_run,
)
from tolaria.growth.executor import DirectiveExecutor
from tolaria.reporting.metering import meter
from tolaria.state.checkpoints import CheckpointStore
from tolaria.training.links import BoundaryMark
from tolaria.training.step import training_step
from tolaria.worker.start import begin

SEED = "01M7YZA3SEEM54XTFHCAEHJ41J/hidden1/0"


@pytest.fixture
def run(tmp_path: Path) -> Iterator[SmallRun]:
    made = small_run(tmp_path)
    yield made
    made.events.close()


@pytest.fixture
def executor(run: SmallRun) -> DirectiveExecutor:
    return DirectiveExecutor(run.parts.operations, lambda: run.session.counters.step)


def train(run: SmallRun, steps: int) -> None:
    for _ in range(steps):
        run.parts.fence.cross()
        with run.parts.pulse.watching() if run.parts.pulse.watches() else nullcontext():
            assert not training_step(run.session, 4.0).problem
        run.parts.pulse.beat()


def bare_state(run: SmallRun) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in run.session.host.model.state_dict().items()}


def test_a_seed_goes_its_whole_way(run: SmallRun, executor: DirectiveExecutor) -> None:
    session = run.session
    train(run, 5)
    kernel = prepare_kernel(session, run.links, SEED)
    before = session.host.parameter_count()
    result = executor.apply(attach(session, SEED))
    assert result.applied and result.generation == 1 and result.parameter_count == kernel.parameter_count
    assert executor.apply(set_stage(session, SEED, leyline.SEED_STAGE_TRAINING)).applied
    frozen = bare_state(run)
    train(run, 5)
    host = {name: value for name, value in bare_state(run).items() if ".seed." not in name}
    assert all(torch.equal(value, frozen[name]) for name, value in host.items())
    assert executor.apply(set_blend(session, SEED, 4)).applied
    assert executor.apply(set_stage(session, SEED, leyline.SEED_STAGE_BLENDING)).applied
    alphas = []
    for _ in range(6):
        train(run, 1)
        alphas.append(session.host.seed(SEED).alpha)
    assert alphas == sorted(alphas) and alphas[-1] == 1.0
    assert executor.apply(set_stage(session, SEED, leyline.SEED_STAGE_SHADOWING)).applied
    assert executor.apply(set_stage(session, SEED, leyline.SEED_STAGE_PROBATIONARY)).applied
    assert executor.apply(set_stage(session, SEED, leyline.SEED_STAGE_FOSSILIZED)).applied
    assert session.host.parameter_count() == before + kernel.parameter_count
    train(run, 3)
    assert not session.book.unsettled()


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
    assert all(torch.equal(value, held[name.replace("hidden.0", "hidden.0.host")]) for name, value in _first(run))
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


def _first(run: SmallRun) -> list[tuple[str, torch.Tensor]]:
    return [(name, value) for name, value in bare_state(run).items() if name.startswith("hidden.0")]


def test_a_directive_is_applied_once(run: SmallRun, executor: DirectiveExecutor) -> None:
    prepare_kernel(run.session, run.links, SEED)
    order = attach(run.session, SEED)
    first = executor.apply(order)
    assert executor.apply(order) is first
    assert run.session.host.generation == 1


def test_a_stale_or_late_directive_is_refused(run: SmallRun, executor: DirectiveExecutor) -> None:
    session = run.session
    prepare_kernel(session, run.links, SEED)
    stale = executor.apply(attach(session, SEED, generation=9))
    assert not stale.applied and stale.error_code == "ESP-1016"
    past = to_timestamp(datetime.now(UTC) - timedelta(seconds=1))
    late = executor.apply(attach(session, SEED, deadline=past))
    assert not late.applied and late.error_code == "ESP-1020"
    assert session.host.generation == 0


def test_what_is_not_prepared_cannot_be_attached(run: SmallRun, executor: DirectiveExecutor) -> None:
    result = executor.apply(attach(run.session, SEED))
    assert result.error_code == "ESP-1005" and "Prepare" in result.message


def test_an_unknown_seed_is_a_typed_failure(run: SmallRun, executor: DirectiveExecutor) -> None:
    result = executor.apply(detach(run.session, SEED))
    assert not result.applied and result.error_code == "ESP-1006"


def test_evidence_tells_what_the_gates_need(run: SmallRun, executor: DirectiveExecutor) -> None:
    session = run.session
    train(run, 10)
    prepare_kernel(session, run.links, SEED)
    executor.apply(attach(session, SEED))
    executor.apply(set_stage(session, SEED, leyline.SEED_STAGE_TRAINING))
    run.links.to_kasmina.take()
    train(run, 20)
    evidence = [item for item in run.links.to_kasmina.take() if isinstance(item, leyline.SeedEvidence)][-1]
    assert evidence.finite and evidence.gradient_norm > 0 and evidence.isolation_violations == 0
    assert evidence.output_norm >= 0 and evidence.host_output_norm > 0 and evidence.HasField("latency_ms")
    assert evidence.loss > 0 and evidence.loss_at_germination > 0
    assert "hidden.0" in evidence.host_layers_present
    assert not evidence.HasField("contribution")


def test_a_counterfactual_is_made_in_shadowing_and_paid_for(run: SmallRun, executor: DirectiveExecutor) -> None:
    session = run.session
    train(run, 10)
    prepare_kernel(session, run.links, SEED)
    executor.apply(attach(session, SEED))
    for stage in (leyline.SEED_STAGE_TRAINING, leyline.SEED_STAGE_BLENDING, leyline.SEED_STAGE_SHADOWING):
        executor.apply(set_stage(session, SEED, stage))
    run.links.to_kasmina.take()
    before = session.counters.flops
    train(run, 10)
    evidence = [item for item in run.links.to_kasmina.take() if isinstance(item, leyline.SeedEvidence)]
    probed = [item for item in evidence if item.HasField("contribution")]
    assert probed and probed[0].contribution.examples == 1024
    spent = session.counters.flops - before - 10 * session.cost.step
    assert spent == 2 * 1024 * session.cost.inference_per_example * len(probed)


def test_a_seed_in_shadow_learns_while_the_host_s_gradients_stay_untouched(
    run: SmallRun, executor: DirectiveExecutor
) -> None:
    session = run.session
    train(run, 3)
    prepare_kernel(session, run.links, SEED)
    executor.apply(attach(session, SEED))
    plain = session.cost.step
    shadow = leyline.SetStage(stage=leyline.SEED_STAGE_TRAINING, isolation=leyline.ISOLATION_MODE_SHADOW)
    assert executor.apply(directive(session, SEED, leyline.DIRECTIVE_KIND_SET_STAGE, set_stage=shadow)).applied
    assert session.shadowed == (SEED,) and session.cost.step > plain
    seed = [parameter.detach().clone() for parameter in session.host.graft(SEED).seed.parameters()]
    host = [found.tensor.detach().clone() for found in session.host.named_parameters() if found.seed_id is None]
    train(run, 3)
    learned = session.host.graft(SEED).seed.parameters()
    assert any(not torch.equal(before, after) for before, after in zip(seed, learned, strict=True))
    now = [found.tensor for found in session.host.named_parameters() if found.seed_id is None]
    assert any(not torch.equal(before, after) for before, after in zip(host, now, strict=True))


def _beside(run: SmallRun) -> leyline.Directive:
    stage = leyline.SetStage(stage=leyline.SEED_STAGE_TRAINING, isolation=leyline.ISOLATION_MODE_STRAIGHT_THROUGH)
    return directive(run.session, SEED, leyline.DIRECTIVE_KIND_SET_STAGE, set_stage=stage)


def _evidence(run: SmallRun) -> leyline.SeedEvidence:
    return [item for item in run.links.to_kasmina.take() if isinstance(item, leyline.SeedEvidence)][-1]


@pytest.mark.req("KAS-8")
def test_evidence_says_that_a_seed_learns_apart(run: SmallRun, executor: DirectiveExecutor) -> None:
    prepare_kernel(run.session, run.links, SEED)
    executor.apply(attach(run.session, SEED))
    assert executor.apply(_beside(run)).applied
    train(run, 20)
    evidence = _evidence(run)
    assert evidence.HasField("isolation_cosine") and evidence.isolation_cosine == 0.0
    assert evidence.isolation_violations == 0 and evidence.host_gradient_norm > 0 and evidence.gradient_norm > 0


@pytest.mark.req("KAS-8")
def test_a_seed_that_reaches_into_its_host_is_told_and_ends_a_strict_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KASMINA_STRICT_ISOLATION", "1")
    run = small_run(tmp_path)
    kernel = prepare_kernel(run.session, run.links, SEED)
    weight = next(found.tensor for found in run.session.host.named_parameters() if found.name.startswith("hidden"))
    kernel.module.register_forward_hook(lambda module, inputs, output: output + weight.mean())
    executor = DirectiveExecutor(run.parts.operations, lambda: run.session.counters.step)
    executor.apply(attach(run.session, SEED))
    executor.apply(_beside(run))
    with pytest.raises(IsolationViolationError, match="to the host"):
        train(run, 60)
    evidence = _evidence(run)
    assert evidence.isolation_violations == 1 and evidence.isolation_cosine != 0.0
    assert judge_gradient_health(evidence_from_message(evidence), GateLimits()).reason == "isolation_violated"
    run.events.close()


@pytest.mark.req("KAS-3")
def test_a_blend_on_logits_that_nobody_supplies_is_refused_at_the_fence(
    run: SmallRun, executor: DirectiveExecutor
) -> None:
    blend = blend_to_message(BlendSpec(modes.CONFIDENCE, gate_k=1.0, gate_tau=0.0, alpha_lo=0.0, alpha_hi=1.0))
    prepare_kernel(run.session, run.links, SEED)
    assert executor.apply(attach(run.session, SEED, blend=blend)).error_code == "ESP-1005"
    assert executor.apply(attach(run.session, SEED)).applied
    chosen = executor.apply(directive(run.session, SEED, leyline.DIRECTIVE_KIND_SET_BLEND, blend=blend))
    assert not chosen.applied and "another blend mode" in chosen.message
    train(run, 2)


@pytest.mark.req("KAS-15")
def test_evidence_says_what_a_blend_does(run: SmallRun, executor: DirectiveExecutor) -> None:
    prepare_kernel(run.session, run.links, SEED)
    executor.apply(attach(run.session, SEED))
    executor.apply(set_blend(run.session, SEED, 100))
    for stage in (leyline.SEED_STAGE_TRAINING, leyline.SEED_STAGE_BLENDING):
        executor.apply(set_stage(run.session, SEED, stage))
    train(run, 20)
    evidence = _evidence(run)
    assert evidence.alpha_mean == evidence.alpha_p95 == pytest.approx(evidence.alpha)
    assert 0 < evidence.alpha < 1 and evidence.sparsity == 0.0 and not evidence.HasField("gate_mean")


@pytest.mark.req("KAS-8")
async def test_no_seed_is_attached_while_the_isolation_breaker_is_open_which_is_told(
    run: SmallRun, executor: DirectiveExecutor
) -> None:
    for _ in range(3):
        assert run.session.isolation.judge(SEED, Leak(0.5, 0.5))
    prepare_kernel(run.session, run.links, SEED)
    refused = executor.apply(attach(run.session, SEED))
    assert refused.error_code == "ESP-1019" and run.session.host.generation == 0
    run.session.isolation.breaker.reset()
    assert executor.apply(attach(run.session, SEED)).applied
    happened = [leyline.RunEvent.FromString(payload) for payload in read_journal(run.folder.events_path).payloads]
    moves = [event for event in happened if event.HasField("breaker")]
    assert [event.breaker.to_state for event in moves] == [leyline.CIRCUIT_STATE_OPEN, leyline.CIRCUIT_STATE_CLOSED]
    assert moves[0].breaker.breaker == "runtime.isolation" and SEED in moves[0].breaker.reason
    assert told(moves[0]).startswith("breaker runtime.isolation OPEN: Seed")
    packets: list[leyline.TelemetryPacket] = []

    async def keep(packet: leyline.TelemetryPacket) -> None:
        packets.append(packet)

    emitter = TelemetryEmitter("tolaria", keep)
    meter(emitter, moves[0])
    assert await emitter.flush()
    assert {"esper.breaker.state", "esper.breaker.transitions_total"} <= {p.name for x in packets for p in x.metrics}
    assert [event.name for packet in packets for event in packet.events] == ["breaker_transition"]


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


@pytest.mark.parametrize(("spacing_ms", "in_epoch"), [(0.0, [2, 4, 6]), (3_600_000.0, [2])])
def test_steps_that_are_faster_than_the_spacing_tell_only_ends_of_epochs(
    tmp_path: Path, spacing_ms: float, in_epoch: list[int]
) -> None:
    run = small_run(tmp_path, evidence_interval_steps=2, evidence_spacing_ms=spacing_ms)
    pulse, counters, epoch_end = run.parts.pulse, run.session.counters, run.session.sampler.batches_per_epoch
    for step in (1, 2, 3, 4, 5, 6, epoch_end):
        counters.step = step - 1
        assert not pulse.watches(), "there is no seed to watch"
        counters.step = step
        pulse.beat()
    marks = [item.step for item in run.links.to_kasmina.take() if isinstance(item, BoundaryMark)]
    assert marks == [*in_epoch, epoch_end]
    run.events.close()
