"""CUDA graphs of the model's forward and backward pass, for the steps between two changes of the topology.

A graph replays the same kernels on the same memory, so it is used only where nothing moves: no seed is unsettled. Every
generation of the topology is captured anew, in one pool of memory. The loss is computed outside of the graph, from the
outputs of this very replay. Off unless asked for, and not measured on a GPU so far.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn

from esper_core import leyline
from esper_core.errors import ConfigurationError
from esper_runtime.host import Host
from esper_runtime.undisturbed import preserved_buffers, preserved_random_state
from tolaria.training.session import Session

Capture: TypeAlias = Callable[[nn.Module, Tensor], Callable[[Tensor], Tensor]]
"""Captures a module on sample inputs and answers with what replays it on others of the same shape."""


class CapturedModel:
    """Runs a host's model by replay, and as it is where that cannot be.

    Parameters
    ----------
    host : Host
        The model.
    capture : Capture
        Captures.
    gave_way : callable
        Told once why the model runs as it is from now on.

    Attributes
    ----------
    captures : int
        Graphs captured so far.
    """

    def __init__(self, host: Host, capture: Capture, gave_way: Callable[[str], None]) -> None:
        self.captures = 0
        self._host = host
        self._capture = capture
        self._gave_way = gave_way
        self._generation = -1
        self._shape: torch.Size | None = None
        self._replay: Callable[[Tensor], Tensor] | None = None
        self._broken = False

    def outputs(self, inputs: Tensor) -> Tensor:
        """Run the model on inputs; those of another shape than the first of a generation are not replayed."""
        if self._generation != self._host.generation and not self._broken:
            self._capture_now(inputs)
        if self._replay is None or inputs.shape != self._shape:
            return self._host.model(inputs)  # type: ignore[no-any-return]
        return self._replay(inputs)

    def _capture_now(self, sample: Tensor) -> None:
        self._replay = None
        self._generation, self._shape = self._host.generation, sample.shape
        try:
            self._replay = self._capture(self._host.model, sample)
        except RuntimeError as error:
            self._broken = True
            self._gave_way(f"The model runs without CUDA graphs, because capturing failed: {error}")
            return
        self.captures += 1


def capture_model(session: Session, tell: Callable[[leyline.SpeedNote], None]) -> CapturedModel:
    """Let a session's model run by replay wherever it can.

    Raises
    ------
    ConfigurationError
        If the run trains elsewhere than on CUDA, or in a way that graphs do not go with.
    """
    plan = session.plan
    if session.device.type != "cuda":
        raise ConfigurationError(
            f"CUDA graphs need a CUDA device, and this run trains on {session.device}. Unset TOLARIA_CUDA_GRAPHS."
        )
    if plan.compile or plan.precision != "float32" or plan.gradient_accumulation > 1 or session.losses_apart > 1:
        raise ConfigurationError(
            "CUDA graphs go with whole batches in float32 that are not compiled, and with one backward pass. Unset "
            "TOLARIA_CUDA_GRAPHS, or leave out compile, precision, gradient_accumulation and gradient_aggregation."
        )
    return CapturedModel(
        session.host, _cuda_capture(), lambda why: tell(leyline.SpeedNote(what="graph_fallback", reason=why))
    )


class _Whole(nn.Module):
    """Holds the model, so that capturing changes this module and not the user's."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        return self.model(inputs)  # type: ignore[no-any-return]


def _cuda_capture() -> Capture:
    pool = torch.cuda.graph_pool_handle()

    def capture(model: nn.Module, sample: Tensor) -> Callable[[Tensor], Tensor]:
        # Capturing runs the model some times first, which must leave no trace in statistics and random state.
        with preserved_random_state(), preserved_buffers(model.modules()):
            replay = torch.cuda.make_graphed_callables(_Whole(model), (sample.clone(),), pool=pool)
        return cast(Callable[[Tensor], Tensor], replay)

    return capture
