"""Kernels without Urza and Urabrask: built from their spec in this process, from the same seed that Urabrask takes."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from esper_core import leyline
from esper_core.blueprints import KernelSpec, sha256_hex
from esper_core.blueprints.messages import contract_from_message, parameters_from_messages
from esper_runtime.contracts import check_module
from esper_runtime.kernels import load_kernel, materialise
from kasmina.kernels import Kernel, KernelKey
from tolaria.growth.prepared import PreparedKernel

Spoil = Callable[[nn.Module], None]


class Kernels:
    """Makes kernels and the modules that are built from them.

    Parameters
    ----------
    spoil : callable, optional
        Changes a module before it is attached; for toxic blueprints.
    """

    def __init__(self, spoil: Spoil | None = None) -> None:
        self._spoil = spoil
        self._weights: dict[str, bytes] = {}

    def obtain(self, key: KernelKey) -> Kernel:
        """Materialise a kernel and describe it as Urza would."""
        spec = KernelSpec(key.blueprint_id, key.contract, dict(key.parameters))
        weights = materialise(spec, int(spec.digest[:15], 16))
        digest = sha256_hex(weights)
        self._weights[digest] = weights
        count = sum(parameter.numel() for parameter in load_kernel(spec, weights).parameters())
        return Kernel(key, digest, spec.digest, len(weights), count)

    def prepare(self, seed_id: str, order: leyline.PrepareKernel) -> PreparedKernel:
        """Build the module for one seed as the worker's mediator does."""
        contract, parameters = contract_from_message(order.contract), parameters_from_messages(order.parameters)
        spec = KernelSpec(order.blueprint_id, contract, parameters)
        module = load_kernel(spec, self._weights[order.kernel_digest], digest=order.kernel_digest)
        check_module(module, spec.contract)
        if self._spoil is not None:
            self._spoil(module)
        count = sum(parameter.numel() for parameter in module.parameters())
        return PreparedKernel(seed_id, module, spec, order.kernel_digest, count)
