"""Keeps the snapshot of the catalogue current: Urza tells every change."""

from __future__ import annotations

import asyncio
import random
from typing import Any, Final

from esper_core import leyline
from esper_core.errors import EsperError
from esper_core.logs import get_logger
from esper_core.pb.esper.urza.v1 import urza_pb2
from esper_core.rpc import Backoff, mapped_errors
from kasmina.catalogue import Catalogue
from kasmina.convert.catalogue import item_from_message
from kasmina.loading import KernelLoadManager

_BACKOFF: Final = Backoff(first_s=0.2, longest_s=5.0)
_log = get_logger("catalogue")


class CatalogueWatch:
    """Follows Urza, and comes back after it was away; a snapshot comes first each time."""

    def __init__(self, urza: Any, catalogue: Catalogue, kernels: KernelLoadManager) -> None:
        self._urza = urza
        self._catalogue = catalogue
        self._kernels = kernels
        self._random = random.Random()

    async def run(self) -> None:
        """Follow until cancelled."""
        failures = 0
        while True:
            try:
                with mapped_errors("urza"):
                    async for update in self._urza.Watch(urza_pb2.WatchRequest(after_sequence=0)):
                        failures = 0
                        self.take(update)
            except EsperError as error:
                _log.warning("urza is away", code=error.code, reason=error.message)
            failures += 1
            await asyncio.sleep(_BACKOFF.wait_s(failures, self._random))

    def take(self, update: leyline.CatalogUpdate) -> None:
        """Take one change; a blueprint that cannot be read is told and passed over."""
        if update.HasField("kernel"):
            self._kernels.take(update.kernel)
        if not update.HasField("blueprint"):
            return
        try:
            item = item_from_message(update.blueprint)
        except EsperError as error:
            _log.error("blueprint cannot be read", blueprint=update.blueprint_id, reason=error.message)
            return
        self._catalogue.put(item)
        why = item.ineligible(allow_restricted=True)
        if why:
            self._kernels.retire(item.blueprint.blueprint_id, why)
