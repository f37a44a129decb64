"""The environment in which a service of a local stack runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from esper_core.stack.paths import StackPaths
from esper_core.stack.ports import STORE
from esper_core.stack.processes import STACK_VARIABLE
from esper_core.stack.record import StackRecord

# A latency service gains nothing from a pool of threads, and a pool sized by the machine starves its neighbours.
SINGLE_THREADED: Final = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def service_environment(
    name: str, record: StackRecord, paths: StackPaths, inherited: Mapping[str, str]
) -> dict[str, str]:
    """Return the environment of a service: what is inherited, overruled by what the stack decides."""
    prefix, service = name.upper(), record.services[name]
    peers = {f"ESPER_{peer.upper()}_ADDRESS": other.address for peer, other in record.services.items() if peer != STORE}
    own = {
        f"{prefix}_LISTEN": service.address,
        f"{prefix}_METRICS_LISTEN": service.metrics_address,
        f"{prefix}_DATA_DIR": str(paths.data(name)),
        "ESPER_KEYRING_FILE": str(paths.keyring),
        STACK_VARIABLE: record.stack_id,
    }
    if name == "oona":
        own["OONA_REDIS_URL"] = f"redis://{record.address(STORE)}/0"
    if name in ("tolaria", "weatherlight"):
        own["ESPER_BRIDGE_DIR"] = str(paths.bridge)
    if name == "weatherlight":
        own["WEATHERLIGHT_STATE_DIR"] = str(paths.root)
    return {**SINGLE_THREADED, **inherited, **peers, **own}
