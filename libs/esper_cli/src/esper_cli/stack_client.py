"""Finds the services of a stack and talks to them with an operator's rights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from esper_core.errors import NotFoundError
from esper_core.rpc import blocking_channel, mapped_errors, tls_from_environment
from esper_core.security import Keyring, TokenSource
from esper_core.stack import StackPaths, StackRecord


@dataclass(frozen=True, slots=True)
class StackClient:
    """A stack as the command line sees it.

    Parameters
    ----------
    paths : StackPaths
        Its files.
    record : StackRecord
        Its addresses.
    """

    paths: StackPaths
    record: StackRecord

    @classmethod
    def of(cls, state_dir: Path) -> StackClient:
        """Open the stack in a state folder.

        Raises
        ------
        NotFoundError
            If no stack is up there.
        """
        paths = StackPaths(state_dir.expanduser().absolute())
        record = StackRecord.load(paths.record)
        if not record.living():
            raise NotFoundError(
                f"The stack in {paths.root} is down. Start it with `esper up --state-dir {paths.root}`."
            )
        return cls(paths, record)

    def tokens(self) -> TokenSource:
        """Return a source of operator tokens."""
        return TokenSource(Keyring.load(self.paths.keyring), "esper-cli", "operator")

    @contextmanager
    def channel(self, service: str) -> Iterator[grpc.Channel]:
        """Open a channel to a service; errors of its calls come out as Esper's own."""
        address = self.record.address(service)
        channel = blocking_channel(address, self.tokens(), "esper-cli", tls_from_environment())
        try:
            with mapped_errors(service):
                yield channel
        finally:
            channel.close()
