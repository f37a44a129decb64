"""The policies that ship with Tamiyo, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, TypeAlias

from esper_core.errors import NotFoundError
from tamiyo.actions import Action
from tamiyo.catalogue import BlueprintSnapshot
from tamiyo.memory import RunMemory
from tamiyo.observation import Observation
from tamiyo.policies import heuristic, schedule
from tamiyo.policies.rules import GrowthRules

Propose: TypeAlias = Callable[[RunMemory, Observation, BlueprintSnapshot, GrowthRules, float], Action]
"""A pure function of memory, packet, library, bounds and monotonic time."""

NO_POLICY: Final = "none"


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy with its version."""

    name: str
    version: str
    description: str
    propose: Propose


POLICIES: Final = MappingProxyType(
    {
        module.NAME: Policy(module.NAME, module.VERSION, module.DESCRIPTION, module.propose)
        for module in (schedule, heuristic)
    }
)


def policy_named(name: str) -> Policy:
    """Return a policy.

    Raises
    ------
    NotFoundError
        If there is none of that name.
    """
    if name not in POLICIES:
        known = ", ".join(POLICIES)
        raise NotFoundError(f"There is no policy {name!r} here; choose one of {known}.", details={"policy": name})
    return POLICIES[name]


__all__ = ["NO_POLICY", "POLICIES", "GrowthRules", "Policy", "policy_named"]
