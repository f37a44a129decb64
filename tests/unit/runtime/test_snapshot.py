"""Snapshots: whatever happens in between, training goes on from one bit for bit."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from esper_core.errors import AlreadyExistsError
from esper_runtime import (
    Host,
    Site,
    add_seed_group,
    capture,
    capture_optimizer,
    read_snapshot,
    remove_seed_group,
    restore,
    seed_owner,
    stages,
    write_snapshot,
)
from esper_runtime.errors import SnapshotIntegrityError, TopologyMismatchError
from support.growth import SEED, batch, equal_bits, grow, state_of, tiny_host, tiny_model, train


def adam(host: Host) -> torch.optim.Optimizer:
    return torch.optim.AdamW(host.model.parameters(), lr=0.01, betas=(0.8, 0.9))


def grown() -> tuple[Host, torch.optim.Optimizer]:
    """A host in the middle of blending, with a kept seed below."""
    host = tiny_host()
    optimizer = adam(host)
    train(host, optimizer, 2)
    for seed_id in ("kept", SEED):
        grow(host, "hidden", seed_id)
        add_seed_group(host, optimizer, seed_id)
        host.set_stage(seed_id, stages.TRAINING)
        train(host, optimizer, 2, 2)
        if seed_id == "kept":
            host.set_stage(seed_id, stages.SHADOWING)
            host.fossilise(seed_id)
    host.set_stage(SEED, stages.BLENDING)
    host.set_blend(SEED, host.seed(SEED).blend, start_step=6, end_step=12)
    train(host, optimizer, 2, 6)
    return host, optimizer


def fate(host: Host, optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Where training leads from here: tensors, and moments by name."""
    train(host, optimizer, 3, 8)
    moments = capture_optimizer(host, optimizer).tensors
    return state_of(host), {f"{name}/{key}": value for name, m in moments.items() for key, value in m.items()}


def cull(host: Host, optimizer: torch.optim.Optimizer) -> None:
    host.cull(SEED)
    remove_seed_group(optimizer, SEED)


def keep(host: Host, optimizer: torch.optim.Optimizer) -> None:
    host.set_stage(SEED, stages.SHADOWING)
    host.fossilise(SEED)


def grow_more(host: Host, optimizer: torch.optim.Optimizer) -> None:
    grow(host, "deep", "more")
    add_seed_group(host, optimizer, "more")
    host.set_stage("more", stages.TRAINING)


def poison(host: Host, optimizer: torch.optim.Optimizer) -> None:
    with torch.no_grad():
        for item in host.named_parameters():
            item.tensor.fill_(float("nan"))


ACCIDENTS: dict[str, Callable[[Host, torch.optim.Optimizer], None]] = {
    "cull": cull,
    "keep": keep,
    "grow_more": grow_more,
    "poison": poison,
}


@given(accidents=st.lists(st.sampled_from(sorted(ACCIDENTS)), unique=True, max_size=4), steps=st.integers(0, 2))
@settings(max_examples=15, deadline=None)
def test_a_rollback_leads_to_the_same_bits_whatever_happened(accidents: list[str], steps: int) -> None:
    if {"cull", "keep"} <= set(accidents):
        accidents.remove("keep")
    host, optimizer = grown()
    snapshot = capture(host, step=8, optimizer=optimizer)
    expected = fate(host, optimizer)
    for accident in accidents:
        ACCIDENTS[accident](host, optimizer)
        train(host, optimizer, steps, 11)
    generation = host.generation
    restore(host, snapshot, optimizer=optimizer)
    assert host.topology().grafts == snapshot.topology.grafts and host.generation >= generation
    assert set(host.ownership.parameters(seed_owner(SEED))) == {n for n in snapshot.parameters if SEED in n}
    assert all(item.tensor.grad is None for item in host.named_parameters())
    found = fate(host, optimizer)
    assert equal_bits(found[0], expected[0]) and equal_bits(found[1], expected[1])


def test_another_process_goes_on_from_disk_bit_for_bit(tmp_path: Path) -> None:
    host, optimizer = grown()
    draws = torch.Generator().manual_seed(4)
    snapshot = capture(
        host, step=8, optimizer=optimizer, scheduler={"t": 3}, cursor={"epoch": 1}, generators={"order": draws}
    )
    write_snapshot(snapshot, tmp_path / "step-8")
    expected = fate(host, optimizer)
    expected_draw = torch.rand(3, generator=draws)

    found = read_snapshot(tmp_path / "step-8")
    fresh = Host(tiny_model(), host.sites)
    other = adam(fresh)
    generator = torch.Generator()
    torch.manual_seed(999)
    restore(fresh, found, optimizer=other, generators={"order": generator})
    assert (found.step, found.scheduler, found.cursor) == (8, {"t": 3}, {"epoch": 1})
    assert other.param_groups[0]["betas"] == (0.8, 0.9) and found.nbytes == snapshot.nbytes
    again = fate(fresh, other)
    assert equal_bits(again[0], expected[0]) and equal_bits(again[1], expected[1])
    assert torch.equal(torch.rand(3, generator=generator), expected_draw)


def test_all_generators_are_put_back() -> None:
    host = tiny_host()
    snapshot = capture(host, step=0)
    expected = (random.random(), float(np.random.rand()), float(torch.rand(1)))
    restore(host, snapshot)
    assert (random.random(), float(np.random.rand()), float(torch.rand(1))) == expected


def test_a_snapshot_is_a_copy_of_its_own() -> None:
    host = tiny_host()
    snapshot = capture(host, step=0)
    train(host, adam(host), 1)
    assert not equal_bits(snapshot.parameters, dict(host.ownership.parameters("host")))


def test_host_parameters_stay_the_same_objects() -> None:
    host, optimizer = grown()
    before = {item.name: id(item.tensor) for item in host.named_parameters()}
    snapshot = capture(host, step=8, optimizer=optimizer)
    train(host, optimizer, 1, 8)
    restore(host, snapshot, optimizer=optimizer)
    assert {item.name: id(item.tensor) for item in host.named_parameters()} == before
    assert host.generation == snapshot.topology.generation


def test_a_snapshot_of_another_host_is_refused_before_anything_changes() -> None:
    host, optimizer = grown()
    snapshot = capture(host, step=8, optimizer=optimizer)
    other = Host(tiny_model(width=11), host.sites[:0])
    before = state_of(other)
    with pytest.raises(TopologyMismatchError):
        restore(Host(tiny_model(width=11), [Site("hidden", "body", "features")], sample=batch()[0]), snapshot)
    assert equal_bits(state_of(other), before)


def test_a_module_without_blueprint_cannot_be_invented() -> None:
    host = tiny_host()
    host.germinate("hidden", nn.Linear(10, 10), seed_id=SEED)
    snapshot = capture(host, step=0)
    restore(host, snapshot)
    host.cull(SEED)
    with pytest.raises(TopologyMismatchError, match="blueprint"):
        restore(host, snapshot)


def test_a_seed_group_comes_and_goes_and_leaves_the_others_alone() -> None:
    host = tiny_host()
    optimizer = adam(host)
    train(host, optimizer, 2)
    moments = capture_optimizer(host, optimizer)
    grow(host)
    add_seed_group(host, optimizer, SEED)
    with pytest.raises(AlreadyExistsError):
        add_seed_group(host, optimizer, SEED)
    assert optimizer.param_groups[1]["lr"] == 0.01 and not set(optimizer.state) & set(
        host.graft(SEED).seed.parameters()
    )
    host.set_stage(SEED, stages.TRAINING)
    train(host, optimizer, 1)
    assert remove_seed_group(optimizer, SEED) and not remove_seed_group(optimizer, SEED)
    host.cull(SEED)
    after = capture_optimizer(host, optimizer)
    assert after.groups == moments.groups
    for name, state in moments.tensors.items():
        assert equal_bits(state, after.tensors[name])


def damage_truncate(folder: Path) -> None:
    data = (folder / "tensors.safetensors").read_bytes()
    (folder / "tensors.safetensors").write_bytes(data[:-7])


def damage_flip(folder: Path) -> None:
    data = bytearray((folder / "tensors.safetensors").read_bytes())
    data[-5] ^= 1
    (folder / "tensors.safetensors").write_bytes(bytes(data))


def damage_manifest(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["step"] += 1
    (folder / "manifest.json").write_text(json.dumps(manifest))


def damage_version(folder: Path) -> None:
    (folder / "manifest.json").write_text(json.dumps({"format": "esper-snapshot", "version": 99}))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (damage_truncate, "tensors_truncated"),
        (damage_flip, "tensors_digest"),
        (damage_manifest, "manifest_digest"),
        (damage_version, "version"),
        (lambda folder: (folder / "tensors.safetensors").unlink(), "tensors_missing"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest_missing"),
        (lambda folder: (folder / "manifest.json").write_text('{"step": 1'), "manifest_truncated"),
    ],
)
def test_a_damaged_checkpoint_is_told_apart(tmp_path: Path, damage: Callable[[Path], None], reason: str) -> None:
    host = tiny_host()
    write_snapshot(capture(host, step=1, optimizer=adam(host)), tmp_path / "one")
    damage(tmp_path / "one")
    with pytest.raises(SnapshotIntegrityError) as refusal:
        read_snapshot(tmp_path / "one")
    assert refusal.value.details["reason"] == reason


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    script = (
        "import resource, sys; from pathlib import Path\n"
        "from esper_core.errors import StorageError\n"
        "from esper_runtime import capture, write_snapshot\n"
        "from support.growth import tiny_host\n"
        "snapshot = capture(tiny_host(), step=1)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n    write_snapshot(snapshot, Path(sys.argv[1]) / 'one')\n"
        "except StorageError as error:\n    print(error.code, error)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], check=True, capture_output=True, text=True)
    assert "ESP-1022" in done.stdout and "File too large" in done.stdout and not list(tmp_path.iterdir())


@pytest.mark.req("TOL-25")
def test_a_checkpoint_is_safetensors_and_json_and_is_never_overwritten(tmp_path: Path) -> None:
    snapshot = capture(tiny_host(), step=1)
    write_snapshot(snapshot, tmp_path / "one")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["manifest.json", "one", "tensors.safetensors"]
    with pytest.raises(AlreadyExistsError):
        write_snapshot(snapshot, tmp_path / "one")
