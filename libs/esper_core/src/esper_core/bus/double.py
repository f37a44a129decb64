"""The bus for unit tests."""

from __future__ import annotations

from esper_core.bus.bus import Bus
from esper_core.bus.memory import InMemoryBroker
from esper_core.bus.retry import DEFAULT_RETRY, RetryPolicy
from esper_core.clocks import SYSTEM_CLOCK, Clock
from esper_core.security import Keyring
from esper_core.telemetry import Instruments


class InMemoryBus(Bus):
    """The bus without Oona: the same client over a broker in memory.

    Parameters
    ----------
    source : str
        Service that publishes and consumes.
    keyring : Keyring, optional
        A fresh one by default; give the same to buses that share a broker.
    broker : InMemoryBroker, optional
        A broker to share; one of its own by default.
    retry : RetryPolicy
        Rules of redelivery, for a broker of its own.
    buffer : int
        Most messages that wait while the broker is away.
    instruments : Instruments, optional
        Where counters and gauges go.
    clock : Clock
        Source of time.

    Attributes
    ----------
    broker : InMemoryBroker
        `broker.messages(stream)` tells what was published, `broker.go_away()` and `come_back()` play an outage.
    """

    def __init__(
        self,
        source: str = "test",
        keyring: Keyring | None = None,
        *,
        broker: InMemoryBroker | None = None,
        retry: RetryPolicy = DEFAULT_RETRY,
        buffer: int = 4096,
        instruments: Instruments | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if keyring is None:
            if broker is not None:
                raise ValueError("buses that share a broker share its keyring; pass it")
            keyring = Keyring.generate()
        self.keyring = keyring
        self.broker = broker or InMemoryBroker(keyring, retry=retry, clock=clock)
        super().__init__(self.broker, source, keyring, buffer=buffer, instruments=instruments, clock=clock)
