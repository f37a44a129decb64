"""The grown model, alone: another process evaluates it to the same bits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from esper_runtime import BlendSpec, Host, add_seed_group, count_flops, export_model, load_exported, modes, stages
from esper_runtime.errors import ExportError
from support.growth import batch, grow, tiny_host, tiny_model, train


def grown(tmp_path: Path) -> Host:
    host = tiny_host()
    optimizer = torch.optim.Adam(host.model.parameters(), lr=0.01)
    for seed_id, site, mode in (
        ("a", "hidden", modes.RESIDUAL),
        ("b", "hidden", modes.CONVEX),
        ("c", "deep", modes.RESIDUAL),
    ):
        grow(host, site, seed_id, BlendSpec(mode, target_alpha=0.9))
        add_seed_group(host, optimizer, seed_id)
        host.set_stage(seed_id, stages.SHADOWING)
        train(host, optimizer, 3)
        host.fossilise(seed_id)
    export_model(host, tmp_path, factory="support.growth:tiny_model", kwargs={"width": 10})
    return host


def test_an_exported_model_gives_the_same_bits(tmp_path: Path) -> None:
    host = grown(tmp_path)
    host.model.eval()
    model = load_exported(tmp_path)
    x, _ = batch(77)
    assert torch.equal(model(x), host.model(x)) and not model.training


def test_a_short_script_evaluates_it_in_another_process(tmp_path: Path) -> None:
    host = grown(tmp_path)
    x, y = batch(77)
    save_file({"x": x, "y": y}, tmp_path / "data.safetensors")
    host.model.eval()
    accuracy = float((host.model(x).argmax(-1) == y).float().mean())
    script = (
        "from safetensors.torch import load_file\n"
        "from esper_runtime import load_exported\n"
        f"model, data = load_exported({str(tmp_path)!r}), load_file({str(tmp_path / 'data.safetensors')!r})\n"
        "print(float((model(data['x']).argmax(-1) == data['y']).float().mean()))\n"
    )
    tests = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=tests, check=True, capture_output=True, text=True)
    assert float(done.stdout) == accuracy


def test_an_unsettled_or_foreign_seed_is_not_exported(tmp_path: Path) -> None:
    host = tiny_host()
    grow(host)
    with pytest.raises(ExportError, match="GERMINATED"):
        export_model(host, tmp_path, factory="support.growth:tiny_model")
    with pytest.raises(ExportError, match="module:function"):
        export_model(tiny_host(), tmp_path, factory="tiny_model")


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    grown(tmp_path)
    with pytest.raises(ExportError, match="shape"):
        load_exported(tmp_path, factory=lambda width: tiny_model(width + 1))
    record = json.loads((tmp_path / "topology.json").read_text())
    (tmp_path / "topology.json").write_text(json.dumps({**record, "factory": "support.growth:nothing"}))
    with pytest.raises(ExportError, match="imported"):
        load_exported(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ExportError, match="digest"):
        load_exported(tmp_path, factory=tiny_model)
    with pytest.raises(ExportError, match="exported model"):
        load_exported(tmp_path / "nowhere")


def test_flops_are_counted_without_a_trace() -> None:
    host = tiny_host()
    x, _ = batch(size=8)
    before = torch.get_rng_state()
    full = count_flops(host.model, x, backward=True)
    assert full.forward == 2 * 8 * (4 * 10 + 10 * 10 + 10 * 3) and full.backward > full.forward
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in host.model.parameters())
    grow(host)
    host.set_stage("run/hidden/1", stages.TRAINING)
    grown_count = count_flops(host.model, x, backward=True)
    assert grown_count.forward == full.forward + 2 * 8 * 200 and grown_count.backward < 2 * grown_count.forward
