"""What a removed seed has left behind: module, parameters, hooks, optimizer group, registry; in a sound run nothing."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from esper_core.errors import NotFoundError
from esper_runtime.errors import UnknownSeedError
from esper_runtime.optim import SEED_KEY
from esper_runtime.ownership import seed_owner
from tolaria.training.session import Session

_OURS = ("esper_runtime", "tolaria")


def is_attached(session: Session, seed_id: str) -> bool:
    """Tell whether the host still holds a seed."""
    try:
        session.host.seed(seed_id)
    except (UnknownSeedError, NotFoundError):
        return False
    return True


def left_behind(session: Session, seed_id: str) -> tuple[str, ...]:
    """Name what is still there of a seed that was taken out.

    Returns
    -------
    tuple of str
        Of "module", "parameter", "hook", "optimizer_group" and "registry"; empty when nothing is left.
    """
    groups = session.optimizer.param_groups
    known = {id(parameter) for group in groups for parameter in group["params"]}
    checks = {
        "module": is_attached(session, seed_id),
        "parameter": any(found.seed_id == seed_id for found in session.host.named_parameters()),
        "hook": any(_our_hooks(session.host.model)),
        "optimizer_group": any(group.get(SEED_KEY) == seed_id for group in groups)
        or any(id(parameter) not in known for parameter in session.optimizer.state),
        "registry": bool(session.host.ownership.parameters(seed_owner(seed_id))),
    }
    return tuple(name for name, found in checks.items() if found)


def _our_hooks(model: nn.Module) -> Iterator[object]:
    """Yield the hooks that Esper has put on any module; at a fence there are none, and a user's own are not ours."""
    for module in model.modules():
        for table in (module._forward_pre_hooks, module._forward_hooks, module._backward_hooks):
            yield from (hook for hook in table.values() if _is_ours(hook))


def _is_ours(hook: object) -> bool:
    return str(getattr(hook, "__module__", "")).partition(".")[0] in _OURS
