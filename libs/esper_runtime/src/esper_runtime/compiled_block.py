"""One module whose forward pass is compiled, in place, and which runs as it is where compiling fails."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from types import CodeType, FunctionType
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor, fx, nn
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

Backend: TypeAlias = Callable[[fx.GraphModule, Sequence[Tensor]], Any]
"""Takes a graph and example inputs, as torch asks of a compiler, and answers with something to call."""

_FAILURES: Final = (TorchDynamoException, FailOnRecompileLimitHit)


class CompiledBlock:
    """Stands in for the `forward` of one module; module, parameters, hooks and state-dict keys stay as they are.

    Only `forward` is replaced, not the module's whole call as `nn.Module.compile` would do it: hooks then stay outside
    of the graph, and a step that is observed runs the same compiled code as the one before it.

    Parameters
    ----------
    name : str
        Stable name of the block.
    module : nn.Module
        The module.
    backend : Backend
        Compiles.
    gave_way : callable
        Told once if compiling fails; from then on the block runs as it is, on the device where it stands.

    Attributes
    ----------
    graphs : int
        Graphs compiled so far: one at first, one more for every change of what is frozen.
    compile_s : float
        Time of the calls that compiled, in seconds.
    problem : str
        Why the block runs uncompiled; empty while it is compiled.
    paused : bool
        True where the block runs as it is for a while.
    """

    def __init__(
        self, name: str, module: nn.Module, backend: Backend, gave_way: Callable[[CompiledBlock], None]
    ) -> None:
        self.name = name
        self.module = module
        self.graphs = 0
        self.compile_s = 0.0
        self.problem = ""
        self.paused = False
        self._told = (0, 0.0)
        self._backend = backend
        self._gave_way = gave_way
        self._own = module.__dict__.get("forward")
        self._plain: Callable[..., Any] = module.forward
        self._compiled = torch.compile(_with_code_of_its_own(self._plain), backend=self._compile, dynamic=False)
        module.forward = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the block, compiled where that works."""
        if self.problem or self.paused:
            return self._plain(*args, **kwargs)
        graphs, began = self.graphs, time.perf_counter()
        try:
            outputs = self._compiled(*args, **kwargs)
        except _FAILURES as error:
            self.give_way(_reason(error))
            return self._plain(*args, **kwargs)
        if self.graphs != graphs:
            self.compile_s += time.perf_counter() - began
        return outputs

    def give_way(self, problem: str) -> None:
        """Run uncompiled from now on, and tell it once."""
        if not self.problem:
            self.problem = problem
            self._gave_way(self)

    def news(self) -> tuple[int, float]:
        """Return how many graphs were compiled since the last time, and how long that took in seconds."""
        before, self._told = self._told, (self.graphs, self.compile_s)
        return self.graphs - before[0], self.compile_s - before[1]

    def release(self) -> None:
        """Give the module its own forward back; one that somebody else has put there since then stays."""
        if self.module.__dict__.get("forward") is not self:
            return
        if self._own is None:
            del self.module.forward
        else:
            self.module.forward = self._own

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        # A copy of the module is a module of its own and must not run this one; it is not compiled.
        bound_to = getattr(self._plain, "__self__", None)
        if bound_to is not self.module:
            return copy.deepcopy(self._plain, memo)
        return type(self.module).forward.__get__(copy.deepcopy(self.module, memo))

    def _compile(self, graph: fx.GraphModule, inputs: Sequence[Tensor]) -> Any:
        made = self._backend(graph, inputs)
        self.graphs += 1
        return made


def _with_code_of_its_own(plain: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a forward in a function of its own code: torch bounds recompiles per code, which blocks must not share."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        return plain(*args, **kwargs)

    code: CodeType = forward.__code__.replace()
    return FunctionType(code, forward.__globals__, "forward", None, forward.__closure__)


def _reason(error: Exception) -> str:
    """Return what went wrong as one line, without torch's advice about its own logs."""
    inner = getattr(error, "inner_exception", error)
    lines = (line.strip() for line in str(inner).splitlines())
    return f"{type(inner).__name__}: {next((line for line in lines if line), 'no reason given')}"
