"""A host compiled block by block is the same host: same names, same arithmetic, and a graft compiles only its seed."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn
from torch._dynamo.utils import counters
from torch._functorch import config as functorch_config
from torch.nn import functional as F

from esper_core.blending import modes
from esper_core.errors import ConfigurationError
from esper_runtime import BlendSpec, Host, Site, capture, restore, stages
from esper_runtime.compiled_block import CompiledBlock
from esper_runtime.compiling import CompiledBlocks, block_modules
from esper_runtime.leaks import watch_leaks
from support.growth import SEED, batch, grow, shake, tiny_host

BACKEND = "eager"
SEED_BLOCK = f"seed:{SEED}"
HOST_BLOCKS = {"body": 1, "middle": 1, "head": 1}


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()
    torch._dynamo.config.fail_on_recompile_limit_hit = False
    functorch_config.donated_buffer = True


def compiled(host: Host, told: list[CompiledBlock] | None = None, backend: str = BACKEND) -> CompiledBlocks:
    return CompiledBlocks(host, backend, (told if told is not None else []).append)


def backward(host: Host) -> list[Tensor]:
    x, y = batch()
    host.model.zero_grad()
    torch.manual_seed(5)
    F.cross_entropy(host.model(x), y).backward()  # type: ignore[no-untyped-call]
    return [p.grad.clone() for p in host.model.parameters() if p.grad is not None]


@pytest.mark.req("TOL-36")
def test_a_graft_compiles_its_own_block_and_no_other() -> None:
    host = tiny_host()
    blocks = compiled(host)
    backward(host)
    assert blocks.graphs == HOST_BLOCKS
    shake(grow(host))
    host.set_stage(SEED, stages.BLENDING)
    blocks.refresh()
    backward(host)
    assert blocks.graphs == {**HOST_BLOCKS, SEED_BLOCK: 1}
    host.set_stage(SEED, stages.PROBATIONARY)
    host.fossilise(SEED)
    blocks.refresh()
    backward(host)
    assert blocks.graphs == {**HOST_BLOCKS, SEED_BLOCK: 1}
    assert counters["stats"]["unique_graphs"] == sum(blocks.graphs.values())
    assert (news := blocks.news()) is not None and news.graphs == 4 and set(news.blocks) == set(blocks.graphs)
    assert blocks.news() is None


@pytest.mark.req("TOL-36")
def test_what_is_frozen_and_thawed_gets_exactly_its_gradients() -> None:
    plain, host = tiny_host(), tiny_host()
    blocks = compiled(host, backend="aot_eager")
    for one in (plain, host):
        shake(grow(one))
    blocks.refresh()
    for stage in (stages.TRAINING, stages.BLENDING, stages.TRAINING, stages.SHADOWING):
        for one in (plain, host):
            one.set_stage(SEED, stage)
        for expected, found in zip(backward(plain), backward(host), strict=True):
            torch.testing.assert_close(found, expected)
    assert blocks.graphs == {"body": 2, "middle": 2, "head": 2, SEED_BLOCK: 2}


@pytest.mark.req("TOL-36")
def test_names_snapshots_and_culls_are_those_of_the_uncompiled_host() -> None:
    plain, host = tiny_host(), tiny_host()
    blocks = compiled(host)
    backward(host)
    original = host.model.get_submodule("body")
    before = capture(host, step=1)
    shake(grow(host))
    grow(plain)
    blocks.refresh()
    assert list(host.model.state_dict()) == list(plain.model.state_dict())
    assert [found.name for found in host.named_parameters()] == [found.name for found in plain.named_parameters()]
    grown = capture(host, step=2)
    host.cull(SEED)
    blocks.refresh()
    assert host.model.get_submodule("body") is original and blocks.graphs == HOST_BLOCKS
    for snapshot in (grown, before):
        restore(host, snapshot)
        blocks.refresh()
        kept = capture(host, step=snapshot.step)
        assert all(torch.equal(kept.parameters[name], value) for name, value in snapshot.parameters.items())
    backward(host)
    blocks.release()
    assert not [name for name, module in host.model.named_modules() if "forward" in vars(module)]


@pytest.mark.req("TOL-36", "KAS-1")
def test_a_thousand_alpha_changes_compile_nothing() -> None:
    host = tiny_host()
    shake(grow(host, blend=BlendSpec(modes.CONVEX)))
    host.set_stage(SEED, stages.BLENDING)
    blocks = compiled(host)
    x, _ = batch(size=4)
    host.model(x)
    first = blocks.graphs
    for step in range(1000):
        host.graft(SEED).set_alpha(step / 1000)
        host.model(x)
    assert blocks.graphs == first and sum(first.values()) == 4


def test_hooks_stay_outside_so_that_watching_compiles_nothing() -> None:
    host, seen = tiny_host(), []
    blocks = compiled(host)
    backward(host)
    for _ in range(3):
        hook = host.model.get_submodule("body").register_forward_hook(lambda m, i, o: seen.append(o.shape))
        backward(host)
        hook.remove()
    assert len(seen) == 3 and blocks.graphs == HOST_BLOCKS


@pytest.mark.req("KAS-8")
def test_a_leak_is_measured_through_a_compiled_seed() -> None:
    class Reaching(nn.Module):
        def __init__(self, borrowed: nn.Linear) -> None:
            super().__init__()
            self.own = nn.Linear(10, 10)
            self.borrowed = [borrowed]

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.own(x), self.borrowed[0].weight)

    found = []
    for backend in ("", "aot_eager"):
        host = tiny_host()
        torch.manual_seed(1)
        host.germinate("hidden", Reaching(host.model.middle), seed_id=SEED)
        host.set_stage(SEED, stages.TRAINING, isolation=stages.STRAIGHT_THROUGH)
        if backend:
            compiled(host, backend=backend)
        with watch_leaks(host, torch.Generator().manual_seed(4)) as meters:
            backward(host)
        found.append(meters[SEED].read())
    assert found[0] == found[1] and found[0].ratio > 0


def test_what_is_measured_compiles_nothing() -> None:
    host = tiny_host()
    blocks = compiled(host)
    with blocks.paused():
        backward(host)
    assert set(blocks.graphs.values()) == {0}
    backward(host)
    assert blocks.graphs == HOST_BLOCKS


@pytest.mark.req("TOL-36")
def test_a_block_that_cannot_be_compiled_runs_as_it_is_and_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(graph: fx.GraphModule, inputs: object) -> object:
        raise RuntimeError("no code for this")

    told: list[CompiledBlock] = []
    plain, host = tiny_host(), tiny_host()
    blocks = compiled(host, told)
    monkeypatch.setattr(blocks._blocks["middle"], "_backend", refuse)
    for _ in range(2):
        for expected, found in zip(backward(plain), backward(host), strict=True):
            assert torch.equal(found, expected)
    assert [block.name for block in told] == ["middle"]
    assert list(blocks.problems) == ["middle"] and "no code for this" in blocks.problems["middle"]
    assert blocks.graphs["body"] == blocks.graphs["head"] == 1


def test_a_block_of_ever_new_shapes_gives_way_and_says_so() -> None:
    told: list[CompiledBlock] = []
    model = nn.Sequential(nn.Linear(4, 4))
    compiled(Host(model, []), told)
    for size in range(2, 14):
        assert model(torch.zeros(size, 4)).shape == (size, 4)
    assert [block.name for block in told] == ["model"] and "limit" in told[0].problem.lower()


def test_blocks_are_the_sites_the_seeds_and_what_lies_around_them() -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(4, 4)
            self.layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4))) for _ in "ab")
            self.heads = nn.ModuleList([nn.Linear(4, 2)])
            self.activation = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            for layer in self.layers:
                x = self.activation(layer(x))
            return self.heads[0](x)  # type: ignore[no-any-return]

    host = Host(Deep(), [Site("a", "layers.0.1", "features"), Site("b", "layers.1", "features")], torch.zeros(2, 4))
    assert [name for name, _ in block_modules(host)] == ["embed", "layers.0.0", "layers.0.1", "layers.1", "heads.0"]


def test_a_copy_of_a_compiled_model_is_a_model_of_its_own() -> None:
    host = tiny_host()
    blocks = compiled(host)
    backward(host)
    other = copy.deepcopy(host.model)
    for parameter in other.parameters():
        parameter.data.zero_()
    x, _ = batch()
    assert torch.count_nonzero(other.eval()(x)) == 0 and torch.count_nonzero(host.model(x)) > 0
    assert blocks.graphs["head"] == 1


def test_a_compiler_that_torch_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="inductor"):
        compiled(tiny_host(), backend="magic")


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler, and this machine has none")
def test_torchs_own_compiler_computes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    # A single matrix product is a call into a library: a kernel in C++ would take a cold compiler many seconds.
    model, told, x = nn.Sequential(nn.Linear(4, 4)), list[CompiledBlock](), torch.randn(8, 4)
    blocks = compiled(Host(model, [Site("whole", "0", "features")], x), told, "inductor")
    with torch.no_grad():
        torch.testing.assert_close(model(x), F.linear(x, model[0].weight, model[0].bias))
    assert blocks.graphs == {"0": 1} and not told
