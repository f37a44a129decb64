"""Which port each service of a local stack gets; once chosen it stays, so that clients merely reconnect."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

from esper_core.settings import split_host_port
from esper_core.settings.service import SERVICE_NAMES
from esper_core.stack.record import ServiceRecord, StackRecord

LOOPBACK: Final = "127.0.0.1"
STORE: Final = "valkey"


def with_ports(record: StackRecord) -> StackRecord:
    """Return the record with an address for every service.

    A port stays as it was, unless its service does not run and somebody else has taken the port meanwhile.
    """
    living = record.living()
    with ExitStack() as held:
        ports = _free_ports(held)
        for name in (STORE, *SERVICE_NAMES):
            known = record.services.get(name)
            if known is not None and (name in living or _is_free(known.address)):
                continue
            metrics = "" if name == STORE else f"{LOOPBACK}:{next(ports)}"
            record = record.with_service(ServiceRecord(name, f"{LOOPBACK}:{next(ports)}", metrics))
    return record


def _free_ports(held: ExitStack) -> Iterator[int]:
    # The sockets stay bound until all ports are chosen, so that no port is handed out twice.
    while True:
        probe = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        probe.bind((LOOPBACK, 0))
        yield int(probe.getsockname()[1])


def _is_free(address: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(split_host_port(address))
        except OSError:
            return False
    return True
