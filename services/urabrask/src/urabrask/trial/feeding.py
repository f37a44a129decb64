"""Kernels that read what a site's submodule receives, tried like all others: with one input."""

from __future__ import annotations

from torch import Tensor, nn

from esper_core.blueprints import KernelSpec
from esper_runtime import load_kernel


class Fed(nn.Module):
    """Gives a kernel its second input, made of the first: its columns, repeated or cut to the declared width.

    So that a bad value in an example reaches the kernel by both ways, and its gradient comes back by both.
    """

    def __init__(self, kernel: nn.Module, inputs: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.inputs = inputs

    def forward(self, x: Tensor) -> Tensor:
        """Return the kernel's answer, of the shape of x."""
        times = -(-self.inputs // x.shape[-1])
        received = x.repeat(*[1] * (x.dim() - 1), times)[..., : self.inputs]
        answer: Tensor = self.kernel(x, received)
        return answer


def load_fed(kernel: KernelSpec, weights: bytes) -> nn.Module:
    """Build a kernel in evaluation mode so that it takes one input, whatever it reads."""
    module = load_kernel(kernel, weights).eval()
    return Fed(module, kernel.contract.inputs) if module.wants_input else module
