"""Learning rate schedulers of torch keep one entry per optimizer group; groups that come and go must be followed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from torch.optim import Optimizer

_PER_GROUP: Final = ("base_lrs", "_last_lr", "lr_lambdas", "min_lrs", "max_lrs", "base_momentums", "max_momentums")


def follow_groups(schedulers: Iterable[Any], optimizer: Optimizer) -> None:
    """Let every scheduler treat the groups of seeds as it treats the first group.

    Seeds' groups stand behind the user's own, so that the lists of a scheduler are extended or cut at their ends.
    """
    for scheduler in schedulers:
        follow_groups(getattr(scheduler, "_schedulers", ()), optimizer)
        for name in _PER_GROUP:
            entries = getattr(scheduler, name, None)
            if isinstance(entries, list) and entries:
                missing = len(optimizer.param_groups) - len(entries)
                setattr(scheduler, name, [*entries, *entries[:1] * missing][: len(optimizer.param_groups)])
