"""Compiling in a run: who is told, and what a step does whose compiled backward pass fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from esper_core import leyline
from esper_core.logs import get_logger
from tolaria.training.session import Session

if TYPE_CHECKING:
    # Loading torch's compiler takes a second, which only runs that compile shall pay.
    from esper_runtime.compiled_block import CompiledBlock
    from esper_runtime.compiling import CompiledBlocks

_log = get_logger("compile")


def compile_blocks(session: Session, backend: str, tell: Callable[[leyline.SpeedNote], None]) -> CompiledBlocks:
    """Compile the blocks of a session's host, now and after every change of its topology.

    Parameters
    ----------
    session : Session
        The run.
    backend : str
        A compiler of torch's.
    tell : callable
        Told about every block that runs uncompiled from then on.

    Raises
    ------
    ConfigurationError
        If torch has no such compiler.
    """
    from esper_runtime.compiling import CompiledBlocks

    def gave_way(block: CompiledBlock) -> None:
        _log.warning("a block runs uncompiled", block=block.name, problem=block.problem)
        reason = f"{block.name} runs uncompiled, because compiling it failed: {block.problem}"
        tell(leyline.SpeedNote(what="compile_fallback", blocks=[block.name], reason=reason))

    return CompiledBlocks(session.host, backend, gave_way)


def compiled_note(session: Session) -> leyline.SpeedNote | None:
    """Return what was compiled since the last time, or None."""
    news = None if session.compiled is None else session.compiled.news()
    if news is None:
        return None
    return leyline.SpeedNote(
        what="compiled",
        blocks=news.blocks,
        reason=f"Compiled {news.graphs} graphs of {len(news.blocks)} blocks in {news.seconds:.1f} s.",
        graphs=news.graphs,
        compile_ms=news.seconds * 1000,
    )
