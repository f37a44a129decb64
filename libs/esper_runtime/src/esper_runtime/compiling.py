"""Compile a host block by block, so that a graft compiles its own seed and leaves every other block's graph alone.

A block is the module at a site, a seed, or the largest part of the model around them that has parameters and no site.
What lies between blocks, the blending of a seed with its host among it, runs as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, cast

import torch._dynamo
from torch import nn
from torch._dynamo.exc import InvalidBackend
from torch._functorch import config as functorch_config

from esper_core.errors import ConfigurationError
from esper_runtime.compiled_block import Backend, CompiledBlock
from esper_runtime.graft import Graft
from esper_runtime.host import Host
from esper_runtime.naming import seed_tensor_name

DEFAULT_BACKEND: Final = "inductor"
_NEVER_CALLED: Final = (nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True, slots=True)
class Compiled:
    """What was compiled since somebody last asked.

    Attributes
    ----------
    blocks : tuple of str
        Names of the blocks.
    graphs : int
        Graphs, over all of them.
    seconds : float
        Time that it took.
    """

    blocks: tuple[str, ...]
    graphs: int
    seconds: float


class CompiledBlocks:
    """The blocks of one host, compiled where and when they first run.

    Parameters
    ----------
    host : Host
        The model.
    backend : str
        Name of a compiler of torch's.
    gave_way : callable
        Told about each block that runs uncompiled from now on because compiling it failed.

    Raises
    ------
    ConfigurationError
        If torch has no such compiler.
    """

    def __init__(self, host: Host, backend: str, gave_way: Callable[[CompiledBlock], None]) -> None:
        self._host = host
        self._backend = _compiler(backend)
        self._gave_way = gave_way
        self._blocks: dict[str, CompiledBlock] = {}
        # Else torch would run a block uncompiled after some recompiles, with a line in the log and nothing more.
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        # Measuring a leak sends a gradient through a seed's graph a second time, whose buffers must be there still.
        functorch_config.donated_buffer = False
        self.refresh()

    def refresh(self) -> None:
        """Take in what was attached and let go of what was removed; blocks that stay keep their graphs."""
        wanted = dict(block_modules(self._host))
        for name, block in list(self._blocks.items()):
            if wanted.get(name) is not block.module:
                self._blocks.pop(name).release()
        for name, module in wanted.items():
            if name not in self._blocks:
                self._blocks[name] = CompiledBlock(name, module, self._backend, self._gave_way)

    @property
    def graphs(self) -> dict[str, int]:
        """Graphs compiled so far, by block."""
        return {name: block.graphs for name, block in self._blocks.items()}

    @property
    def problems(self) -> dict[str, str]:
        """Why blocks run uncompiled, by block."""
        return {name: block.problem for name, block in self._blocks.items() if block.problem}

    def compiles(self, seed_id: str) -> bool | None:
        """Say whether a seed runs compiled, or None where it has no block of its own."""
        block = self._blocks.get(_seed_block(seed_id))
        return None if block is None else not block.problem

    def news(self) -> Compiled | None:
        """Return what was compiled since the last time, or None."""
        new = [(name, block.news()) for name, block in self._blocks.items()]
        new = [(name, (graphs, seconds)) for name, (graphs, seconds) in new if graphs]
        if not new:
            return None
        return Compiled(
            tuple(name for name, _ in new), sum(graphs for _, (graphs, _) in new), sum(spent for _, (_, spent) in new)
        )

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Run every block as it is: what is only measured has other shapes and modes, each of which would compile."""
        self._pause(True)
        try:
            yield
        finally:
            self._pause(False)

    def give_way(self, problem: str) -> None:
        """Let every block run uncompiled from now on."""
        for block in self._blocks.values():
            block.give_way(problem)

    def release(self) -> None:
        """Give every module its own forward back."""
        for block in self._blocks.values():
            block.release()
        self._blocks.clear()

    def _pause(self, paused: bool) -> None:
        for block in self._blocks.values():
            block.paused = paused


def block_modules(host: Host) -> Iterator[tuple[str, nn.Module]]:
    """Yield the blocks of a host under stable names: paths in the bare model, and `seed:<seed_id>`."""
    return _walk(host.model, "", {site.module_path for site in host.sites})


def _walk(module: nn.Module, path: str, sites: Collection[str]) -> Iterator[tuple[str, nn.Module]]:
    if isinstance(module, Graft):
        yield from _walk(module.host, path, sites)
        if _learns(module.seed):
            yield _seed_block(module.seed_id), module.seed
        return
    below = f"{path}." if path else ""
    if isinstance(module, _NEVER_CALLED) or any(site.startswith(below) for site in sites if site != path):
        for name, child in module.named_children():
            yield from _walk(child, below + name, sites)
    elif _learns(module):
        yield path or "model", module


def _seed_block(seed_id: str) -> str:
    return seed_tensor_name(seed_id, "").removesuffix(":")


def _learns(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _compiler(name: str) -> Backend:
    try:
        return cast(Backend, torch._dynamo.lookup_backend(name))
    except InvalidBackend as error:
        known = ", ".join(torch._dynamo.list_backends(exclude_tags=()))
        raise ConfigurationError(f"torch has no compiler {name!r}. It has: {known}.") from error
