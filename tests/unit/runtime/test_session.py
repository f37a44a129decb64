"""A session in a plain loop: untouched while dormant, and its seeds go through their stages to the end."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

from esper_runtime import Distillation, GrowthStep, HeldOut, Session, load_exported, stages, teacher_owner
from esper_runtime.graft import Graft
from support.growing_session import PACE, PLAN, RULES, STEPS, adam, loss_of, losses, moments, run, session_on, told
from support.growth import SITES, batch, equal_bits, state_of, tiny_model


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
