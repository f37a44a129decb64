"""One kernel on trial: everything that can be observed about it at the shape it was made for."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import nn

from esper_core.blueprints import KernelSpec, SiteContract, SiteContractError
from esper_runtime import check_module
from esper_runtime.blueprints import flops, parameter_count
from urabrask.assessment.observations import Learning, Observations, Precision
from urabrask.trial.feeding import load_fed
from urabrask.trial.learning import AdamRule, SgdRule, teach
from urabrask.trial.limits import memory_is_limited, resident_bytes
from urabrask.trial.memory import WatchedRule
from urabrask.trial.numbers import inputs
from urabrask.trial.passes import observe_forward, observe_gradients, observe_robustness
from urabrask.trial.speed import compare_precision, measure_profile

BATCH_SIZES: Final = (1, 32, 128)
REFERENCE_BATCH: Final = 32
PRECISION_BATCH: Final = 8
_MOST_VALUES: Final = 1 << 21
_ABSENT: Final = "accelerator: trials run on the processor"
# A plain string: torch's own class of version would make the parent load torch to read it.
_VERSION: Final = str(torch.__version__)
_LOWER: Final = (torch.bfloat16, torch.float16)


class Trial:
    """One trial.

    Parameters
    ----------
    kernel : KernelSpec
        What the kernel is.
    weights : bytes
        Its safetensors.
    seed : int
        Seed of all inputs.
    """

    def __init__(self, kernel: KernelSpec, weights: bytes, seed: int) -> None:
        self._kernel = kernel
        self._weights = weights
        self._seed = seed
        self._missing = [_ABSENT]
        self._batches = self._fitting_batches(kernel.contract)
        self._batch = min(REFERENCE_BATCH, self._batches[-1])

    def run(self) -> Observations:
        """Observe everything that can be observed."""
        fresh = self._load()
        counts = (
            sum(parameter.numel() for parameter in fresh.parameters()),
            parameter_count(self._kernel.blueprint_id, self._kernel.parameters, self._kernel.contract),
        )
        try:
            return self._observed(fresh, counts)
        except SiteContractError as error:
            return Observations(False, *counts, _VERSION, not_measured=(f"everything else: {error.message}",))

    def _observed(self, fresh: nn.Module, counts: tuple[int, int]) -> Observations:
        contract = self._kernel.contract
        check_module(fresh, contract)
        taught, learning, growth = self._teach()
        return Observations(
            True,
            *counts,
            _VERSION,
            forward=observe_forward(fresh, contract, self._batches, self._seed),
            gradients=observe_gradients(fresh, taught, contract, self._batch, self._seed),
            robustness=observe_robustness(taught, contract, self._batch, self._seed),
            learning=learning,
            precisions=self._precisions(taught),
            profiles=tuple(measure_profile(taught, inputs(contract, batch, self._seed)) for batch in self._batches),
            memory_growth_bytes=growth,
            flops_per_example=declared_flops(self._kernel),
            values_per_example=math.prod(contract.shape(1)),
            not_measured=tuple(self._missing),
        )

    def _load(self) -> nn.Module:
        return load_fed(self._kernel, self._weights)

    def _teach(self) -> tuple[nn.Module, tuple[Learning, ...], int | None]:
        contract, taught = self._kernel.contract, self._load()
        adam = teach(taught, AdamRule(), contract, self._batch, self._seed)
        # The first series has filled torch's pools. The second module has to outlive it, with what it keeps.
        second, watched = self._load(), WatchedRule(SgdRule(), resident_bytes)
        sgd = teach(second, watched, contract, self._batch, self._seed)
        growth = watched.steady_growth() if memory_is_limited() else None
        if growth is None:
            self._missing.append("memory: this system does not tell the memory of a process")
        return taught, (adam, sgd), growth

    def _precisions(self, taught: nn.Module) -> tuple[Precision, ...]:
        found = []
        x = inputs(self._kernel.contract, PRECISION_BATCH, self._seed)
        for dtype in _LOWER:
            try:
                found.append(compare_precision(taught, x, dtype))
            except RuntimeError as error:
                self._missing.append(f"{str(dtype).removeprefix('torch.')}: {str(error).splitlines()[0][:200]}")
        return tuple(found)

    def _fitting_batches(self, contract: SiteContract) -> tuple[int, ...]:
        values = math.prod(contract.shape(1))
        fitting = [batch for batch in BATCH_SIZES if batch == 1 or batch * values <= _MOST_VALUES]
        left_out = [batch for batch in BATCH_SIZES if batch not in fitting]
        self._missing.extend(f"batch={batch}: more than {_MOST_VALUES} values at this shape" for batch in left_out)
        return tuple(fitting)


def declared_flops(kernel: KernelSpec) -> int | None:
    """Return the forward FLOPs per example that the vocabulary promises; None where an extent is left open."""
    try:
        return flops(kernel.blueprint_id, kernel.parameters, kernel.contract)
    except SiteContractError:
        return None
