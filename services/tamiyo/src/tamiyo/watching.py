"""Keeps the snapshot of the library current: Urza tells every change, and a probe tells that silence is no absence."""

from __future__ import annotations

import asyncio
import random
from typing import Any, Final

from esper_core import leyline
from esper_core.errors import EsperError
from esper_core.logs import get_logger
from esper_core.pb.esper.urza.v1 import urza_pb2
from esper_core.rpc import Backoff, mapped_errors
from tamiyo.catalogue import Catalogue
from tamiyo.convert.blueprints import card_of

_BACKOFF: Final = Backoff(first_s=0.2, longest_s=5.0)
_log = get_logger("catalogue")


class CatalogueWatch:
    """Follows Urza, and comes back after it was away; a snapshot comes first each time."""

    def __init__(self, urza: Any, catalogue: Catalogue) -> None:
        self._urza = urza
        self._catalogue = catalogue
        self._random = random.Random()
        self.following = False

    async def run(self) -> None:
        """Follow until cancelled."""
        failures = 0
        while True:
            try:
                with mapped_errors("urza"):
                    async for update in self._urza.Watch(urza_pb2.WatchRequest(after_sequence=0)):
                        failures = 0
                        self.following = True
                        self.take(update)
            except EsperError as error:
                _log.warning("urza is away", code=error.code, reason=error.message)
            finally:
                self.following = False
            failures += 1
            await asyncio.sleep(_BACKOFF.wait_s(failures, self._random))

    def take(self, update: leyline.CatalogUpdate) -> None:
        """Take one change; a blueprint that cannot be read is told and passed over."""
        self._catalogue.contact()
        if not update.HasField("blueprint"):
            return
        try:
            self._catalogue.put(card_of(update.blueprint))
        except EsperError as error:
            _log.error("blueprint cannot be read", blueprint=update.blueprint_id, reason=error.message)

    def answered(self) -> None:
        """Note that Urza answered a probe; while the watch stands too, what is held is current."""
        if self.following:
            self._catalogue.contact()
