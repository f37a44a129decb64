"""Which services there are, what each needs, and the order in which they start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from esper_core.stack import STORE


@dataclass(frozen=True, slots=True)
class Node:
    """One service of the system.

    Parameters
    ----------
    name : str
        Service name.
    depends_on : tuple[str, ...]
        Services that must answer before it can do its job.
    grpc : bool
        False for valkey, which speaks the Redis protocol.
    critical : bool
        Whether growth must stop while it is away.
    """

    name: str
    depends_on: tuple[str, ...] = ()
    grpc: bool = True
    critical: bool = False


# In the order of start: each stands behind everything it needs.
SYSTEM: Final[tuple[Node, ...]] = (
    Node(STORE, grpc=False),
    Node("oona", (STORE,), critical=True),
    Node("urza", critical=True),
    Node("urabrask", ("urza", "oona")),
    Node("kasmina", ("urza",), critical=True),
    Node("tamiyo", ("urza",), critical=True),
    Node("simic", ("oona",)),
    Node("nissa", ("oona",)),
    Node("tolaria", critical=True),
)
NODES: Final = {node.name: node for node in SYSTEM}
SELF: Final = "weatherlight"


def dependents(name: str) -> list[str]:
    """Return the services that need `name`, near and far, in the order of start."""
    reached = {name}
    for node in SYSTEM:
        if reached.intersection(node.depends_on):
            reached.add(node.name)
    return [node.name for node in SYSTEM if node.name in reached and node.name != name]


def stop_waves() -> list[list[str]]:
    """Return the services in waves, each wave needed by nobody who is left."""
    left, waves = list(SYSTEM), []
    while left:
        needed = {name for node in left for name in node.depends_on}
        wave = [node for node in left if node.name not in needed]
        waves.append([node.name for node in wave])
        left = [node for node in left if node not in wave]
    return waves
