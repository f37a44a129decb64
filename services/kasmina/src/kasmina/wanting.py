"""Which kernels a run may want, and asking for all of them before any is needed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from typing import Final

from esper_core.errors import EsperError
from esper_core.logs import get_logger
from esper_core.rpc import Backoff
from kasmina.catalogue import Catalogue
from kasmina.kernels import KernelKey
from kasmina.loading import KernelLoadManager
from kasmina.run import Greeting

_BACKOFF: Final = Backoff(first_s=0.5, longest_s=10.0)
_log = get_logger("kernels")


async def prefetch_all(loader: KernelLoadManager, greeting: Greeting, catalogue: Catalogue) -> None:
    """Ask for a kernel of every allowed blueprint at every site that it fits, with default parameters.

    Comes back until Urza has told all allowed blueprints and every request went out, so that it does not matter
    in which order the services started.
    """
    failures, chance = 0, random.Random()
    while not await _prefetch_known(loader, greeting, catalogue):
        failures += 1
        await asyncio.sleep(_BACKOFF.wait_s(failures, chance))


async def _prefetch_known(loader: KernelLoadManager, greeting: Greeting, catalogue: Catalogue) -> bool:
    complete = all(catalogue.get(name) is not None for name in greeting.blueprint_ids)
    for key in wanted_keys(greeting, catalogue):
        try:
            await loader.prefetch(greeting.run_id, key)
        except EsperError as error:
            _log.warning("prefetch not sent", blueprint=key.blueprint_id, code=error.code, reason=error.message)
            complete = False
    return complete


def wanted_keys(greeting: Greeting, catalogue: Catalogue) -> Iterable[KernelKey]:
    """Return every kernel that a run may want: allowed, eligible, fitting, with default parameters, each once."""
    seen: set[KernelKey] = set()
    for blueprint_id in greeting.blueprint_ids:
        item = catalogue.get(blueprint_id)
        if item is None or item.ineligible(greeting.allow_restricted):
            continue
        for site in greeting.sites:
            key = KernelKey.of(blueprint_id, item.blueprint.complete({}), site.contract)
            if site.admits(item.blueprint) and key not in seen:
                seen.add(key)
                yield key
