"""A session inside Lightning's Trainer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from esper_core.errors import DependencyViolationError, ValidationError
from esper_runtime import GrowthStep, HeldOut, Site
from esper_runtime.own_loop import Pace, Rules
from support.growth import batch, equal_bits, tiny_model
from support.sources import script

lightning = pytest.importorskip("lightning.pytorch", reason="the extra esper-runtime[lightning] is not installed")

RULES = Rules(Pace(training=4, blending=6, shadowing=2, probationary=2, pulse=5))
QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
}


class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
    def __init__(self, spoiled_at: int = -1) -> None:
        super().__init__()
        self.net = tiny_model()
        self.spoiled_at = spoiled_at
        self.states: dict[int, dict[str, Tensor]] = {}

    def training_step(self, part: tuple[Tensor, Tensor], index: int) -> Tensor:
        loss = F.cross_entropy(self.net(part[0]), part[1])
        return loss * float("nan") if self.global_step == self.spoiled_at else loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.02)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_batch_end(self, outputs: Any, part: Any, index: int) -> None:
        self.states[self.global_step] = {name: value.clone() for name, value in self.state_dict().items()}


class ByHand(Module):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


def losses(module: nn.Module, part: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(module.get_submodule("net")(part[0]), part[1], reduction="none")


def callback(at: float | None = None) -> Any:
    from esper_runtime.integrations.lightning import GrowthCallback

    plan = [] if at is None else [GrowthStep(at, "hidden", "mlp_residual.v1", {"expansion": 0.8})]
    return GrowthCallback(
        [Site("hidden", "net.body", "features")], HeldOut([batch(1000, 512)], losses), plan, rules=RULES
    )


def fit(module: Module, *callbacks: Any, steps: int = 40, **options: Any) -> Module:
    x, y = batch(5, 256)
    torch.manual_seed(2)
    loader = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)
    lightning.Trainer(max_steps=steps, callbacks=list(callbacks), **QUIET, **options).fit(module, loader)
    return module


def test_a_dormant_callback_changes_no_bit() -> None:
    bare, watched = fit(Module()), fit(Module(), callback(0.6))
    assert all(equal_bits(bare.states[step], watched.states[step]) for step in range(1, 24))


def test_a_seed_is_grown_and_settled_under_a_schedule_and_accumulation() -> None:
    growth = callback(0.2)
    module = fit(Module(), growth, accumulate_grad_batches=2)
    told = [event.what for event in growth.session.history]
    assert told[:4] == ["germinated", "training", "blending", "shadowing"] and told[-1] in ("fossilised", "culled")
    assert growth.session.steps_made == module.global_step == 40
    rates = {group["lr"] for group in growth.session.optimizer.param_groups}
    assert len(rates) == 1


def test_a_loss_that_is_not_finite_rolls_back_inside_the_trainer() -> None:
    growth = callback()
    module = fit(Module(spoiled_at=7), growth, steps=9)
    assert [event.what for event in growth.session.history] == ["rolled_back"]
    assert equal_bits(module.states[8], module.states[5]) and not equal_bits(module.states[9], module.states[8])


def test_what_a_callback_cannot_look_after_is_refused() -> None:
    with pytest.raises(DependencyViolationError):
        _ = callback().session
    with pytest.raises(ValidationError, match="one optimizer"):
        fit(ByHand(), callback())
    with pytest.raises(ValidationError, match="give the callback steps"):
        fit(Module(), callback(), steps=-1, max_epochs=-1)


def test_the_lightning_example_grows(capsys: pytest.CaptureFixture[str]) -> None:
    module = script("examples/lightning_loop.py")
    assert "fossilised" in [event.what for event in module.main(300).session.history]
    assert "seeds kept: 1" in capsys.readouterr().out
