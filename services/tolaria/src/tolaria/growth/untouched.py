"""What a step that fails in the middle has used up already, held so that it can be made again from its beginning."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from esper_runtime.undisturbed import SavedBuffers, put_back, save_buffers
from esper_tasks import Cursor
from tolaria.training.session import Session


@dataclass(frozen=True, slots=True)
class Untouched:
    """Data cursor, torch's random state, and the buffers that a forward pass may write, such as running statistics.

    Weights and moments need no copy: a step that fails never reaches the optimizer.
    """

    cursor: Cursor
    random: tuple[Tensor, ...]
    buffers: SavedBuffers

    @classmethod
    def hold(cls, session: Session) -> Untouched:
        """Hold what the coming step may use up."""
        cuda = torch.cuda.get_rng_state_all() if session.device.type == "cuda" else ()
        return cls(session.sampler.cursor, (torch.get_rng_state(), *cuda), save_buffers(session.buffered))

    def give_back(self, session: Session) -> None:
        """Put everything back as it was held."""
        session.sampler.seek(self.cursor)
        cpu, *cuda = self.random
        torch.set_rng_state(cpu)
        for index, state in enumerate(cuda):
            torch.cuda.set_rng_state(state, index)
        put_back(self.buffers)
