"""A compiled run is the run: same steps, same resume; what cannot be compiled runs as it is, and that is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._functorch import config as functorch_config

from esper_core import leyline
from esper_core.journal import read_journal
from support.metered import metered
from support.teaching import ended_run, taught_by
from support.tolaria_runs import SEED, SmallRun, attach, letter_spec, open_letter, prepare_kernel, set_stage, small_run
from tolaria.growth.executor import DirectiveExecutor
from tolaria.state.capture import capture_session, restore_session
from tolaria.training.compilation import compile_blocks
from tolaria.training.loop import TrainingLoop
from tolaria.training.session import Session
from tolaria.training.step import training_step
from tolaria.worker.start import begin_teaching


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
    torch._dynamo.config.fail_on_recompile_limit_hit = False
    functorch_config.donated_buffer = True


@pytest.fixture
def run(tmp_path: Path) -> Iterator[SmallRun]:
    made = compiled_run(tmp_path)
    yield made
    made.events.close()


def compiled_run(folder: Path, **settings: object) -> SmallRun:
    spec = letter_spec(compile=True, max_steps=12, validation_interval_steps=4)
    return small_run(folder, spec, compile_backend="eager", **settings)


def notes(run: SmallRun) -> list[leyline.SpeedNote]:
    told = (leyline.RunEvent.FromString(payload) for payload in read_journal(run.folder.events_path).payloads)
    return [event.speed for event in told if event.HasField("speed")]


def state(session: Session) -> list[Tensor]:
    moments = (value for kept in session.optimizer.state.values() for value in kept.values())
    return [tensor.detach().clone() for tensor in (*session.host.model.parameters(), *moments)]


def same_bits(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def germinate(run: SmallRun, stage: int = leyline.SEED_STAGE_TRAINING) -> None:
    does = DirectiveExecutor(run.parts.operations, lambda: run.session.counters.step)
    prepare_kernel(run.session, run.links, SEED)
    assert does.apply(attach(run.session, SEED)).applied
    assert does.apply(set_stage(run.session, SEED, stage)).applied


def turns(run: SmallRun, count: int) -> None:
    loop = TrainingLoop(run.parts)
    for _ in range(count):
        assert loop.turn() is None


@pytest.mark.req("TOL-36", "KAS-17")
def test_a_compiled_run_that_grows_makes_the_steps_of_the_plain_one_and_goes_on_from_its_snapshot(
    run: SmallRun, tmp_path: Path
) -> None:
    plain = small_run(tmp_path / "plain", letter_spec(max_steps=12, validation_interval_steps=4))
    for one in (run, plain):
        turns(one, 3)
        germinate(one)
        turns(one, 3)
    assert same_bits(state(run.session), state(plain.session))
    assert run.session.counters == plain.session.counters and run.session.cost == plain.session.cost
    assert run.session.compiled is not None
    assert run.session.compiled.graphs == {"hidden.0": 2, "readout": 2, f"seed:{SEED}": 1}
    snapshot = capture_session(run.session, 0.0)
    turns(run, 3)
    other = compiled_run(tmp_path / "other")
    restore_session(other.session, snapshot)
    turns(other, 3)
    assert same_bits(state(other.session), state(run.session))
    told = notes(run)
    assert [note.what for note in told] == ["compiled", "compiled"]
    assert f"seed:{SEED}" in told[1].blocks and sum(note.graphs for note in told) == 5
    assert run.session.compiles(SEED) is True
    assert run.parts.operations.detach(SEED) and run.session.compiles(SEED) is None
    for one in (plain, other):
        one.events.close()


@pytest.mark.req("TOL-36")
def test_compiling_counts_neither_as_time_of_the_seed_nor_of_the_step(tmp_path: Path) -> None:
    run = compiled_run(tmp_path, evidence_interval_steps=1, evidence_spacing_ms=0.0)
    germinate(run)
    latencies, steps = [], []
    for _ in range(2):
        turns(run, 1)
        (evidence,) = [item for item in run.links.to_kasmina.take() if isinstance(item, leyline.SeedEvidence)]
        latencies.append(evidence.HasField("latency_ms"))
        steps.append(run.parts.reporter.record().metrics["step_latency_ms"])
    (told,) = notes(run)
    assert latencies == [False, True] and evidence.compiled
    assert steps[0] is not None and steps[0] < told.compile_ms
    run.events.close()


@pytest.mark.req("TOL-36", "KAS-17")
def test_a_block_that_cannot_be_compiled_runs_as_it_is_and_the_run_tells(
    run: SmallRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("no code for this")

    germinate(run)
    assert run.session.compiled is not None
    monkeypatch.setattr(run.session.compiled._blocks[f"seed:{SEED}"], "_backend", refuse)
    turns(run, 2)
    assert run.session.counters.step == 2 and run.session.compiles(SEED) is False
    (told,) = [note for note in notes(run) if note.what == "compile_fallback"]
    assert list(told.blocks) == [f"seed:{SEED}"] and "no code for this" in told.reason


@pytest.mark.req("TOL-36")
def test_a_backward_pass_that_only_fails_compiled_is_made_uncompiled(
    run: SmallRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoilt(graph: torch.fx.GraphModule, inputs: object) -> object:
        def call(*args: object) -> object:
            outputs = graph.forward(*args)
            outputs[0].register_hook(refuse)
            return outputs

        return call

    def refuse(gradient: Tensor) -> None:
        raise RuntimeError("no backward for this")

    assert run.session.compiled is not None
    monkeypatch.setattr(run.session.compiled._blocks["readout"], "_backend", spoilt)
    turns(run, 2)
    assert run.session.counters.step == 2 and run.session.sampler.cursor.position == 2 * run.session.sampler.batch_size
    assert all("no backward for this" in problem for problem in run.session.compiled.problems.values())
    assert [list(note.blocks) for note in notes(run) if note.what == "compile_fallback"] == [["hidden.0"], ["readout"]]


@pytest.mark.req("TOL-36")
def test_two_losses_that_meet_go_back_through_one_compiled_pass_in_half_precision(tmp_path: Path) -> None:
    source, sessions = ended_run(tmp_path, steps=2), []
    for compile in (False, True):
        taught = letter_spec(teacher=taught_by(source), gradient_aggregation="pcgrad", precision="bfloat16")
        session = open_letter(taught, run_id="run")
        begin_teaching(session)
        if compile:
            session.compiled = compile_blocks(session, "aot_eager", lambda note: pytest.fail(note.reason))
        for _ in range(2):
            assert training_step(session, 4.0).distillation_loss is not None
        sessions.append(session)
    assert same_bits(*map(state, sessions)) and sessions[1].graphs == 2


def test_a_seed_that_raises_is_to_blame_and_not_its_compiling(run: SmallRun) -> None:
    def forward(*_: object) -> None:
        raise ValueError("seed is broken")

    germinate(run)
    assert run.session.cost.step > 0  # Measured now, because that runs the model as well.
    run.session.host.graft(SEED).seed.forward = forward
    turns(run, 2)
    assert not run.session.host.seeds() and run.session.compiled is not None and not run.session.compiled.problems


@pytest.mark.req("TOL-36")
def test_a_seed_that_gets_no_gradient_is_taken_out_with_a_typed_error(tmp_path: Path) -> None:
    made = compiled_run(tmp_path)
    germinate(made, leyline.SEED_STAGE_SHADOWING)
    graft = made.session.host.graft(SEED)
    hook = graft.seed.register_forward_hook(lambda module, inputs, output: output.detach())
    turns(made, 1)
    hook.remove()
    assert not made.session.host.seeds()
    payloads = read_journal(made.folder.events_path).payloads
    (told,) = [e.seed for e in map(leyline.RunEvent.FromString, payloads) if e.HasField("seed")]
    assert told.to_stage == leyline.SEED_STAGE_CULLED and "No gradient reaches seed" in told.reason
    assert told.aborted_because == "unreached"
    made.events.close()


async def test_what_was_compiled_and_what_gave_way_is_counted() -> None:
    notes = (
        leyline.SpeedNote(what="compiled", graphs=3, compile_ms=20.0),
        leyline.SpeedNote(what="compile_fallback", reason="No code."),
        leyline.SpeedNote(what="graph_fallback", reason="No graph."),
        leyline.SpeedNote(what="overflow"),
    )
    heard = await metered(leyline.RunEvent(kind=leyline.RUN_EVENT_KIND_SPEED, speed=note) for note in notes)
    points = {point.name: point.value for point in heard.points}
    assert points["tolaria.compile.graphs_total"] == 3 and points["tolaria.compile.latency_ms"] == 20.0
    for name in ("tolaria.compile.fallbacks_total", "tolaria.graph_fallback_total", "tolaria.amp.overflows_total"):
        assert points[name] == 1
    assert {event.name for event in heard.events} == {"compile_fallback", "graph_fallback"}
