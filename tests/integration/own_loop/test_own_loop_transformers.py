"""A session inside Hugging Face's Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn
from torch.nn import functional as F

from esper_core.errors import DependencyViolationError
from esper_runtime import GrowthStep, HeldOut, Site
from esper_runtime.own_loop import Pace, Rules
from support.growth import batch, equal_bits, tiny_model
from support.sources import script

transformers = pytest.importorskip("transformers", reason="the extra esper-runtime[transformers] is not installed")
pytest.importorskip("accelerate", reason="the extra esper-runtime[transformers] is not installed")

RULES = Rules(Pace(training=4, blending=6, shadowing=2, probationary=2, pulse=5))


class Net(nn.Module):
    def __init__(self, spoiled_at: int = -1) -> None:
        super().__init__()
        self.net = tiny_model()
        self.spoiled_at, self.calls = spoiled_at, 0

    def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.net(inputs)
        loss = F.cross_entropy(logits, labels)
        self.calls += self.training
        return {
            "loss": loss * float("nan") if self.training and self.calls == self.spoiled_at else loss,
            "logits": logits,
        }


def losses(model: nn.Module, part: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(model(**part)["logits"], part["labels"], reduction="none")


def callback(at: float | None = None) -> Any:
    from esper_runtime.integrations.transformers import GrowthTrainerCallback

    plan = [] if at is None else [GrowthStep(at, "hidden", "mlp_residual.v1", {"expansion": 0.8})]
    x, y = batch(1000, 512)
    held_out = HeldOut([{"inputs": x, "labels": y}], losses)
    return GrowthTrainerCallback([Site("hidden", "net.body", "features")], held_out, plan, rules=RULES)


def train(folder: Path, model: Net, *callbacks: Any, steps: int = 40) -> dict[int, dict[str, Tensor]]:
    """Train and answer with the state after every step."""
    states: dict[int, dict[str, Tensor]] = {}

    class Recorder(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            states[state.global_step] = {name: value.clone() for name, value in model.state_dict().items()}

    x, y = batch(5, 256)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=32,
        learning_rate=0.02,
        use_cpu=True,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        seed=3,
    )
    rows = [{"inputs": one, "labels": label} for one, label in zip(x, y, strict=True)]
    transformers.Trainer(model, arguments, train_dataset=rows, callbacks=[*callbacks, Recorder()]).train()
    return states


def test_a_dormant_callback_changes_no_bit(tmp_path: Path) -> None:
    bare, watched = train(tmp_path, Net()), train(tmp_path, Net(), callback(0.6))
    assert all(equal_bits(bare[step], watched[step]) for step in range(1, 24))


def test_a_seed_is_grown_and_settled_under_the_trainers_schedule(tmp_path: Path) -> None:
    growth = callback(0.2)
    train(tmp_path, Net(), growth)
    told = [event.what for event in growth.session.history]
    assert told[:4] == ["germinated", "training", "blending", "shadowing"] and told[-1] in ("fossilised", "culled")
    assert growth.session.steps_made == 40
    assert {group["lr"] for group in growth.session.optimizer.param_groups} == {0.0}


def test_a_loss_that_is_not_finite_rolls_back_inside_the_trainer(tmp_path: Path) -> None:
    growth = callback()
    states = train(tmp_path, Net(spoiled_at=8), growth, steps=9)
    assert [event.what for event in growth.session.history] == ["rolled_back"]
    assert equal_bits(states[8], states[5]) and not equal_bits(states[9], states[8])


def test_there_is_no_session_before_training() -> None:
    with pytest.raises(DependencyViolationError):
        _ = callback().session


def test_the_transformers_example_grows(capsys: pytest.CaptureFixture[str]) -> None:
    module = script("examples/transformers_loop.py")
    assert "fossilised" in [event.what for event in module.main(300).session.history]
    assert "seeds kept: 1" in capsys.readouterr().out
