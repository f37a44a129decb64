"""Half precision in the forward pass: weights and losses stay whole, small gradients live, and a resume is exact."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from esper_core import leyline
from esper_core.errors import ValidationError
from esper_core.journal import read_journal
from esper_runtime.snapshot_store import read_snapshot, write_snapshot
from support.tolaria_runs import SEED, SmallRun, attach, directive, letter_spec, open_letter, prepare_kernel, small_run
from tolaria.growth.executor import DirectiveExecutor
from tolaria.service.submission import check_spec
from tolaria.state.capture import capture_session, restore_session
from tolaria.training import precision as precision_module
from tolaria.training.loop import TrainingLoop
from tolaria.training.precision import open_precision
from tolaria.training.session import Session
from tolaria.training.step import training_step
from tolaria.training.validation import validate

HALVES = ("bfloat16", "float16")


def half(name: str, **changes: object) -> Session:
    return open_letter(letter_spec(precision=name, **changes), run_id="run")


def state(session: Session) -> dict[str, Tensor]:
    kept = capture_session(session, 0.0)
    assert kept.optimizer is not None
    moments = {f"{name}/{key}": value for name, held in kept.optimizer.tensors.items() for key, value in held.items()}
    return {**kept.parameters, **moments}


def same_bits(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def set_scale(session: Session, scale: float) -> None:
    assert session.precision is not None
    session.precision.load({**session.precision.to_dict(), "scale": scale})


def scale(session: Session) -> float:
    assert session.precision is not None
    return session.precision.scale


@pytest.mark.parametrize("name", HALVES)
def test_half_precision_takes_nearly_the_course_of_float32_and_keeps_whole_weights(name: str) -> None:
    whole, session, seen = open_letter(), half(name), []
    hook = session.host.model.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    losses = [(training_step(whole, 4.0).loss, training_step(session, 4.0).loss) for _ in range(10)]
    hook.remove()
    assert [loss for _, loss in losses] == pytest.approx([loss for loss, _ in losses], rel=2e-2)
    assert losses[0][0] != losses[0][1] and set(seen[-10:]) == {getattr(torch, name)}
    assert {tensor.dtype for tensor in state(session).values()} == {torch.float32}
    assert session.counters == whole.counters


@pytest.mark.parametrize("name", HALVES)
@pytest.mark.parametrize("parts", [1, 4])
def test_a_run_in_half_precision_goes_on_bit_for_bit(name: str, parts: int, tmp_path: Path) -> None:
    session = half(name, gradient_accumulation=parts)
    for _ in range(2):
        training_step(session, 4.0)
    if name == "float16":
        set_scale(session, 1024.0)
    write_snapshot(capture_session(session, 0.0), tmp_path / "kept")
    for _ in range(3):
        training_step(session, 4.0)
    other = half(name, gradient_accumulation=parts)
    restore_session(other, read_snapshot(tmp_path / "kept"))
    assert name != "float16" or scale(other) == 1024.0
    for _ in range(3):
        training_step(other, 4.0)
    assert same_bits(state(other), state(session))


def test_a_snapshot_of_float32_can_be_taken_up_in_half_precision() -> None:
    session = open_letter(run_id="run")
    training_step(session, 4.0)
    other = half("float16")
    restore_session(other, capture_session(session, 0.0))
    assert scale(other) == 65536.0 and training_step(other, 4.0).problem == ""


def overflowing(folder: Path) -> SmallRun:
    run = small_run(folder, letter_spec(precision="float16", max_steps=4))
    set_scale(run.session, 2.0**40)
    return run


def test_overflows_lower_the_scale_and_bring_the_same_batch_again_without_a_rollback(tmp_path: Path) -> None:
    run = overflowing(tmp_path)
    run.parts.keeper.start()
    before, loop = state(run.session), TrainingLoop(run.parts)
    loop.turn()
    assert same_bits(state(run.session), before) and run.session.counters.step == 0
    assert run.session.sampler.cursor.position == 0 and scale(run.session) == 2.0**39
    assert loop.run().how == "completed"
    payloads = read_journal(run.folder.events_path).payloads
    told = [e.speed.reason for e in map(leyline.RunEvent.FromString, payloads) if e.HasField("speed")]
    assert len(told) > 3 and "loss scale of 5.49756e+11" in told[0]
    assert run.session.counters.step == 4 and run.session.counters.rollbacks == 0
    assert run.session.counters.flops == (4 + len(told)) * run.session.cost.step
    run.events.close()


def test_what_stays_bad_at_every_scale_is_rolled_back(tmp_path: Path) -> None:
    run = overflowing(tmp_path)
    set_scale(run.session, 4.0)
    run.parts.keeper.start()
    last = list(run.session.host.model.parameters())[-1]
    hook = last.register_hook(lambda gradient: torch.full_like(gradient, torch.nan))
    found = [training_step(run.session, 4.0).problem for _ in range(3)]
    hook.remove()
    assert found == ["overflow", "overflow", "non_finite_gradient"]
    run.parts.recovery.recover("non_finite_gradient")
    assert scale(run.session) == 4.0 and training_step(run.session, 4.0).problem == ""
    run.events.close()


def test_bfloat16_has_no_scale_to_blame() -> None:
    session = half("bfloat16")
    last = list(session.host.model.parameters())[-1]
    last.register_hook(lambda gradient: torch.full_like(gradient, torch.nan))
    assert training_step(session, 4.0).problem == "non_finite_gradient"


def test_validation_and_probes_are_made_in_the_same_precision(tmp_path: Path) -> None:
    run = small_run(tmp_path, letter_spec(precision="bfloat16"))
    session, seen = run.session, []
    does = DirectiveExecutor(run.parts.operations, lambda: 0)
    prepare_kernel(session, run.links, SEED)
    assert does.apply(attach(session, SEED)).applied
    live = leyline.SetStage(stage=leyline.SEED_STAGE_SHADOWING, isolation=leyline.ISOLATION_MODE_FREEZE)
    assert does.apply(directive(session, SEED, leyline.DIRECTIVE_KIND_SET_STAGE, set_stage=live)).applied
    assert session.cost.step > 0  # Counted now, because that runs the model as well, in float32.
    session.host.model.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    assert validate(session).loss > 0 and run.parts.prober.contribution(SEED).loss_with > 0
    assert run.parts.prober.point().loss > 0
    assert set(seen) == {torch.bfloat16} and not torch.is_autocast_enabled("cpu")
    run.events.close()


def test_what_leaks_is_measured_without_the_loss_scale(tmp_path: Path) -> None:
    run = small_run(tmp_path, letter_spec(precision="float16"), evidence_spacing_ms=0.0)
    session = run.session
    does = DirectiveExecutor(run.parts.operations, lambda: 0)
    prepare_kernel(session, run.links, SEED)
    assert does.apply(attach(session, SEED)).applied
    beside = leyline.SetStage(stage=leyline.SEED_STAGE_TRAINING, isolation=leyline.ISOLATION_MODE_STRAIGHT_THROUGH)
    assert does.apply(directive(session, SEED, leyline.DIRECTIVE_KIND_SET_STAGE, set_stage=beside)).applied
    session.counters.step = 19
    with run.parts.pulse.watching():
        training_step(session, 4.0)
    (meter,) = (one.leak for one in run.parts.pulse._seen.values() if one.leak is not None)
    assert meter._loss_scale == 65536.0
    run.events.close()


def test_a_precision_that_does_not_exist_or_work_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError) as refused:
        check_spec(letter_spec(precision="float8"))
    assert refused.value.field == "spec.precision" and "bfloat16" in refused.value.message
    monkeypatch.setattr(precision_module, "_computes", lambda name, device: name == "float32")
    with pytest.raises(ValidationError) as refused:
        open_precision("bfloat16", torch.device("cpu"))
    assert refused.value.field == "spec.precision" and refused.value.allowed == "float32"
