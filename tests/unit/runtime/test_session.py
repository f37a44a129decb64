"""A session in a plain loop: untouched while dormant, safe while it grows."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from esper_core.errors import QuarantinedError, RunFailedError, ValidationError
from esper_runtime import Distillation, GrowthStep, HeldOut, Session, load_exported, stages, teacher_owner
from esper_runtime.errors import UnknownSeedError, UnknownSiteError
from esper_runtime.graft import Graft
from esper_runtime.own_loop import Pace, Rules
from support.growth import SITES, TinyNet, batch, equal_bits, state_of, tiny_model

PACE = Pace(training=4, blending=6, shadowing=2, probationary=2, pulse=2)
RULES = Rules(PACE)
STEPS = 100


def losses(model: nn.Module, part: Any) -> Tensor:
    return F.cross_entropy(model(part[0]), part[1], reduction="none")


HELD_OUT = HeldOut([batch(1000), batch(1001, 512)], losses)
PLAN = (GrowthStep(0.2, "hidden", "mlp_residual.v1", {"expansion": 0.8}),)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=0.02)


def session_on(model: nn.Module, plan: Sequence[GrowthStep] = PLAN, **options: Any) -> Session:
    return Session(model, SITES, adam(model), held_out=HELD_OUT, steps=STEPS, plan=plan, **{"rules": RULES, **options})


def loss_of(model: nn.Module, step: int) -> Tensor:
    x, y = batch(step)
    return F.cross_entropy(model(x), y)


def run(session: Session, first: int, last: int) -> None:
    for step in range(first, last):
        session.optimizer.zero_grad()
        loss = loss_of(session.host.model, step)
        loss.backward()  # type: ignore[no-untyped-call]
        session.step(loss)


def moments(optimizer: torch.optim.Optimizer) -> dict[tuple[int, int, str], Tensor]:
    return {
        (group, index, key): value.clone()
        for group, options in enumerate(optimizer.param_groups)
        for index, parameter in enumerate(options["params"])
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def told(session: Session) -> list[str]:
    return [event.what for event in session.history]


def test_a_dormant_session_trains_bit_for_bit_like_the_plain_loop() -> None:
    bare, model = tiny_model(), tiny_model()
    optimizer = adam(bare)
    torch.manual_seed(1)
    for step in range(20):
        optimizer.zero_grad()
        loss_of(bare, step).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    after = torch.get_rng_state()
    torch.manual_seed(1)
    rows = list(zip(*batch(1000), strict=True))
    # A data loader draws from torch's generator whenever it is walked.
    held_out = HeldOut(DataLoader(rows, batch_size=16), losses)  # type: ignore[arg-type]
    plan = (GrowthStep(0.5, "hidden", "norm.v1"),)
    session = Session(model, SITES, adam(model), held_out=held_out, steps=STEPS, plan=plan, rules=RULES)
    run(session, 0, 20)
    assert equal_bits(model.state_dict(), bare.state_dict()) and list(model.state_dict()) == list(bare.state_dict())
    assert torch.equal(torch.get_rng_state(), after)
    assert not any(isinstance(module, Graft) or module._forward_hooks for module in model.modules())
    assert [list(state) for state in optimizer.state.values()] == [list(s) for s in session.optimizer.state.values()]
    assert session.history == () and session.explain().startswith("steps: 20, seeds kept: 0, culled: 0")


def test_a_seed_that_helps_goes_through_its_stages_and_is_kept() -> None:
    session = session_on(tiny_model())
    seen: dict[int, str] = {}
    for step in range(STEPS):
        run(session, step, step + 1)
        records = session.host.seeds()
        seen[step + 1] = stages.stage_name(records[0].stage) if records else ""
    assert (seen[19], seen[20], seen[24], seen[30], seen[32]) == (
        "", "TRAINING", "BLENDING", "SHADOWING", "PROBATIONARY",
    )  # fmt: skip
    assert seen[34] == "FOSSILIZED", session.explain()
    assert told(session) == ["germinated", "training", "blending", "shadowing", "probationary", "fossilised"]
    assert session.history[-1].numbers["contribution_low"] > 0
    assert "It is part of the model now." in session.explain("hidden/1")


def test_the_host_is_frozen_while_a_seed_learns_and_alpha_rises_linearly() -> None:
    model = tiny_model()
    session = session_on(model)
    run(session, 0, 20)
    seed = session.host.seeds()[0].seed_id
    weights, kept = model.middle.weight.detach().clone(), moments(session.optimizer)
    assert len(session.optimizer.param_groups) == 2
    assert not any(parameter in session.optimizer.state for parameter in session.optimizer.param_groups[1]["params"])
    run(session, 20, 23)
    assert torch.equal(model.middle.weight, weights)
    assert all(torch.equal(value, moments(session.optimizer)[key]) for key, value in kept.items())
    alphas = []
    for step in range(23, 30):
        run(session, step, step + 1)
        alphas.append(round(session.host.seed(seed).alpha, 4))
    assert alphas == [round(0.5 + 0.5 * part / 6, 4) for part in range(7)]
    assert not torch.equal(model.middle.weight, weights)


@pytest.mark.parametrize(
    ("value", "reason"), [(0.0, "cannot be told from nothing"), (30.0, "held-out loss"), (float("nan"), "not finite")]
)
def test_a_useless_or_harmful_seed_is_culled_and_the_host_is_what_it_was(value: float, reason: str) -> None:
    model = tiny_model()
    original = model.body
    session = session_on(model)
    run(session, 0, 19)
    session.optimizer.zero_grad()
    loss = loss_of(model, 19)
    loss.backward()  # type: ignore[no-untyped-call]
    assert session.check(loss)
    session.optimizer.step()
    before, kept = state_of(session.host), moments(session.optimizer)
    session.advance()
    step = 20
    while told(session)[-1] != "culled" and step <= 20 + PACE.life:
        _tamper(session, value)
        run(session, step, step + 1)
        step += 1
    assert told(session)[-1] == "culled" and reason in session.history[-1].sentence
    assert equal_bits(state_of(session.host), before) and model.body is original
    found = moments(session.optimizer)
    assert found.keys() == kept.keys() and all(torch.equal(value, found[key]) for key, value in kept.items())
    assert len(session.optimizer.param_groups) == 1
    assert all(parameter.requires_grad for parameter in model.parameters())
    run(session, step, step + 3)


def _tamper(session: Session, value: float) -> None:
    """Give a seed one value everywhere and keep it from learning better."""
    with torch.no_grad():
        for parameter in session.host.graft("hidden/1").seed.parameters():
            parameter.fill_(value)
            parameter.register_hook(torch.zeros_like)


@pytest.mark.parametrize("blueprint", ["nan_injection.v1", "toxic_weights.v1"])
def test_a_drill_with_a_fixture_leaves_the_model_unharmed(blueprint: str) -> None:
    plan = (GrowthStep(0.2, "hidden", blueprint, {"scale": 64.0, "expansion": 0.8} if "toxic" in blueprint else {}),)
    with pytest.raises(QuarantinedError):
        session_on(tiny_model(), plan)
    session = session_on(tiny_model(), plan, rules=Rules(PACE, drill=True))
    run(session, 0, STEPS)
    assert told(session)[-1] == "culled" and not session.host.seeds()
    assert all(torch.isfinite(parameter).all() for parameter in session.host.model.parameters())


def test_a_loss_that_is_not_finite_rolls_back_weights_and_moments() -> None:
    model = tiny_model()
    session = session_on(model, ())
    run(session, 0, 10)
    good, kept = state_of(session.host), moments(session.optimizer)
    run(session, 10, 11)
    assert not equal_bits(state_of(session.host), good)
    session.optimizer.zero_grad()
    loss = loss_of(model, 11) * float("nan")
    loss.backward()  # type: ignore[no-untyped-call]
    before = torch.get_rng_state()
    assert session.step(loss) is False
    assert torch.equal(torch.get_rng_state(), before)
    assert equal_bits(state_of(session.host), good)
    assert all(torch.equal(value, moments(session.optimizer)[key]) for key, value in kept.items())
    assert told(session) == ["rolled_back"] and "step 10" in session.explain()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_rollback_brings_back_a_seed_that_was_there() -> None:
    session = session_on(tiny_model())
    run(session, 0, 22)
    good, topology = state_of(session.host), session.host.topology()
    run(session, 22, 23)
    assert not session.check(float("inf"))
    assert equal_bits(state_of(session.host), good)
    assert session.host.topology().grafts == topology.grafts and len(session.optimizer.param_groups) == 2
    run(session, 23, STEPS)
    assert "rolled_back" in told(session) and told(session)[-1] in ("fossilised", "culled")


def test_weights_that_a_step_spoiled_are_noticed_before_they_are_kept() -> None:
    model = tiny_model()
    session = session_on(model)
    run(session, 0, 19)
    with torch.no_grad():
        model.head.weight[0, 0] = float("nan")
    session.advance()
    assert told(session) == ["rolled_back"] and bool(torch.isfinite(model.head.weight).all())


def test_the_session_gives_up_in_a_good_state_when_going_back_does_not_help() -> None:
    session = session_on(tiny_model(), ())
    run(session, 0, 4)
    good = state_of(session.host)
    with pytest.raises(RunFailedError, match="learning rate"):
        for _ in range(9):
            session.check(float("nan"))
    assert equal_bits(state_of(session.host), good) and told(session) == ["rolled_back"] * 4


def test_the_session_gives_up_also_where_every_step_keeps_a_state() -> None:
    session = session_on(tiny_model(), (), rules=Rules(replace(PACE, pulse=1)))
    run(session, 0, 4)
    with pytest.raises(RunFailedError):
        for _ in range(9):
            session.step(float("nan"))
    assert told(session) == ["rolled_back"] * 4


def test_several_workers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(ValidationError, match="one process"):
        session_on(tiny_model())


def test_gradients_stand_in_for_a_loss_that_is_not_told() -> None:
    model = tiny_model()
    session = session_on(model, ())
    loss_of(model, 0).backward()  # type: ignore[no-untyped-call]
    assert session.check(None)
    (loss_of(model, 0) * float("inf")).backward()  # type: ignore[no-untyped-call]
    assert not session.check(None)
    before = state_of(session.host)
    session.optimizer.step()
    assert equal_bits(state_of(session.host), before)


@pytest.mark.parametrize(
    "make",
    [
        lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.99**step),
        lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS),
        lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, STEPS),
        lambda optimizer: torch.optim.lr_scheduler.SequentialLR(
            optimizer,
            [
                torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=25),
                torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS - 25),
            ],
            [25],
        ),
    ],
    ids=["lambda", "cosine", "one-cycle", "sequential"],
)
def test_seeds_follow_the_schedule_and_a_rollback_leaves_it_alone(make: Any) -> None:
    model, twin = tiny_model(), tiny_model()
    optimizer, bare = adam(model), adam(twin)
    scheduler, reference = make(optimizer), make(bare)
    session = Session(
        model, SITES, optimizer, held_out=HELD_OUT, steps=STEPS, plan=PLAN, rules=RULES, schedulers=[scheduler]
    )
    for step in range(50):
        optimizer.zero_grad()
        loss = loss_of(model, step)
        loss.backward()  # type: ignore[no-untyped-call]
        session.step(loss if step != 26 else float("nan"))
        bare.step()
        scheduler.step()
        reference.step()
        rates = {round(float(group["lr"]), 12) for group in optimizer.param_groups}
        assert rates == {round(float(bare.param_groups[0]["lr"]), 12)}, step


def test_an_unsettled_seed_is_settled_at_the_end_of_the_loop(tmp_path: Path) -> None:
    model = tiny_model()
    before = list(model.state_dict())
    with session_on(model, (*PLAN, GrowthStep(0.5, "deep", "norm.v1"))) as session:
        run(session, 0, 26)
    assert told(session)[-2:] == ["skipped", "culled"] and list(model.state_dict()) == before
    assert "BLENDING" in session.history[-1].sentence
    session.export(tmp_path / "grown", factory="support.growth:tiny_model")
    x, _ = batch()
    assert torch.equal(load_exported(tmp_path / "grown")(x), model.eval()(x))


@pytest.mark.parametrize("saved_at", [10, 23, 40])
def test_a_saved_session_goes_on_in_another_process_bit_for_bit(saved_at: int, tmp_path: Path) -> None:
    torch.manual_seed(4)
    whole = session_on(tiny_model(), (*PLAN, GrowthStep(0.5, "deep", "norm.v1")))
    run(whole, 0, saved_at)
    whole.save(tmp_path / "saved")
    run(whole, saved_at, 60)
    again = session_on(tiny_model(), (*PLAN, GrowthStep(0.5, "deep", "norm.v1")))
    first = again.resume(tmp_path / "saved")
    assert first == (20 if saved_at == 23 else saved_at)
    run(again, first, 60)
    assert again.history == whole.history and again.steps_made == 60
    assert equal_bits(state_of(again.host), state_of(whole.host))
    found = moments(again.optimizer)
    assert all(torch.equal(value, found[key]) for key, value in moments(whole.optimizer).items())


def test_a_model_that_carries_seeds_is_refused() -> None:
    session = session_on(tiny_model())
    run(session, 0, 22)
    with pytest.raises(ValidationError, match="resume"):
        session_on(session.host.model)


def test_one_seed_after_the_other_and_none_too_late() -> None:
    late = (STEPS - PACE.life) / STEPS
    plan = [*PLAN, GrowthStep(0.22, "deep", "norm.v1"), *(GrowthStep(late, "deep", "norm.v1") for _ in range(2))]
    session = session_on(tiny_model(), plan)
    for step in range(STEPS):
        run(session, step, step + 1)
        assert sum(record.stage != stages.FOSSILIZED for record in session.host.seeds()) <= 1
    session.finish()
    germinated = [event.step for event in session.history if event.what == "germinated"]
    assert germinated == [20, 35, 86] and told(session).count("skipped") == 1


def test_what_cannot_work_is_refused_before_the_first_step() -> None:
    model = tiny_model()
    before = copy.deepcopy(model.state_dict())
    refused: list[tuple[type[Exception], GrowthStep]] = [
        (UnknownSiteError, GrowthStep(0.1, "nowhere", "norm.v1")),
        (ValidationError, GrowthStep(0.95, "hidden", "norm.v1")),
        (ValidationError, GrowthStep(-0.1, "hidden", "norm.v1")),
        (ValidationError, GrowthStep(0.1, "hidden", "conv2d_residual.v1")),
        (ValidationError, GrowthStep(0.1, "hidden", "norm.v1", {"size": 3})),
    ]
    for error, planned in refused:
        with pytest.raises(error):
            session_on(model, [planned])
    with pytest.raises(ValidationError, match="cannot work"):
        session_on(model, [GrowthStep(0.3, "hidden", "norm.v1"), GrowthStep(0.1, "hidden", "norm.v1")])
    with pytest.raises(ValidationError, match="smaller steps"):
        session_on(TinyNet(40), [GrowthStep(0.1, "hidden", "mlp_residual.v1", {"expansion": 4.0})])
    with pytest.raises(ValidationError, match="only once"):
        HeldOut(iter([batch()]), losses)
    with pytest.raises(ValidationError, match="no held-out"):
        HeldOut([], losses).first()
    with pytest.raises(ValidationError, match="compiled"):
        session_on(torch.compile(tiny_model(), backend="eager"))  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="budget"):
        Session(model, SITES, adam(model), held_out=HELD_OUT, steps=0, plan=())
    with pytest.raises(UnknownSeedError):
        session_on(model).explain("hidden/1")
    assert equal_bits(model.state_dict(), before)


@pytest.mark.req("KAS-18")
def test_a_model_grows_while_a_teacher_stands_beside_it() -> None:
    session = session_on(tiny_model())
    teacher = tiny_model()
    distillation = Distillation(session.host.ownership)
    distillation.register("teacher", teacher)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    for step in range(STEPS):
        session.optimizer.zero_grad()
        x, y = batch(step)
        logits = session.host.model(x)
        loss = F.cross_entropy(logits, y) + distillation.loss(logits, distillation.answer(x))
        loss.backward()
        session.step(loss)
    session.finish()
    assert "germinated" in told(session)
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert teacher_owner("teacher") in session.host.ownership.owners()
    assert distillation.reset()
