"""The one server host: every service of Esper is a servicer inside it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final

import grpc
from grpc_channelz.v1 import channelz
from grpc_reflection.v1alpha import reflection
from prometheus_client import REGISTRY, CollectorRegistry

from esper_core.errors import InternalError, StateConflictError
from esper_core.logs import get_logger
from esper_core.rpc import layers
from esper_core.rpc.access import CHANNELZ_SERVICE, HEALTH_SERVICE, REFLECTION_SERVICE, AccessRules
from esper_core.rpc.background import Hook, TaskGroupOwner, run_hooks
from esper_core.rpc.drain import finish_calls
from esper_core.rpc.exposition import MetricsEndpoint, bind_error
from esper_core.rpc.health import Dependency, HealthBoard, Probe
from esper_core.rpc.metrics import message_sizes, rpc_metrics
from esper_core.rpc.network import require_protected
from esper_core.rpc.options import server_options
from esper_core.rpc.server_call import LiveStreams, Pipeline
from esper_core.rpc.server_config import ServerConfig
from esper_core.security.keyring import Keyring
from esper_core.settings import ServiceSettings

_log: Final = get_logger("rpc")


class ServerHost:
    """A gRPC server with health, reflection, authentication, deadlines, metrics, tracing, error mapping and drain.

    Build it inside the event loop that will run it.

    Parameters
    ----------
    service_name : str
        Import name of the service, `urza`.
    listen : str
        `host:port`; port 0 lets the system choose, see `port`.
    keyring : Keyring
        Verifies the tokens of callers.
    config : ServerConfig, optional
        Everything else.
    registry : CollectorRegistry, optional
        Where metrics are registered and what `metrics_listen` serves; the process-wide one by default.
    """

    def __init__(
        self,
        service_name: str,
        listen: str,
        keyring: Keyring,
        config: ServerConfig | None = None,
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        self.service_name = service_name
        self.registry = registry
        self.draining = asyncio.Event()
        self.health = HealthBoard()
        self._config = config or ServerConfig()
        self._listen = listen
        self._rules = AccessRules()
        self._streams = LiveStreams()
        self._names: list[str] = []
        self._validated: set[str] = set()
        self._hooks: list[Hook] = []
        self._pending: list[tuple[str, Callable[[], Coroutine[Any, Any, object]]]] = []
        self._tasks = TaskGroupOwner(self._crashed)
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._crash: BaseException | None = None
        self._metrics_endpoint: MetricsEndpoint | None = None
        self._port = 0
        require_protected(listen, self._config.tls, insecure_network=self._config.insecure_network)
        self._server = grpc.aio.server(
            interceptors=[self._pipeline(keyring)], options=server_options(channelz=self._config.channelz)
        )
        self.health.register(self._server)

    @classmethod
    def from_settings(cls, service_name: str, settings: ServiceSettings) -> ServerHost:
        """Build the host of a service from its settings and the shared network settings of the environment."""
        config = ServerConfig.from_settings(settings)
        return cls(service_name, settings.listen, Keyring.load(settings.keyring_file), config)

    def _pipeline(self, keyring: Keyring) -> Pipeline:
        counters, sizes = rpc_metrics("server", self.registry), message_sizes(self.registry)
        return Pipeline(
            [
                layers.metered,
                layers.mapped,
                layers.authenticated(keyring, self._rules),
                layers.limited(self._config.max_unary_s),
                layers.traced,
                self._streams.layer,
            ],
            lambda name: counters.method(name, sizes),
            self._validated.__contains__,
        )

    def add(
        self,
        servicer: Any,
        add_fn: Callable[[Any, Any], None],
        full_service_name: str,
        *,
        read_only_methods: Iterable[str] = (),
        service_only_methods: Iterable[str] = (),
        validate_requests: bool = False,
    ) -> None:
        """Add a servicer before the start.

        Parameters
        ----------
        servicer : object
            Implementation of the generated servicer class, with `async def` methods.
        add_fn : Callable
            The generated `add_<Service>Servicer_to_server`.
        full_service_name : str
            `esper.urza.v1.Library`.
        read_only_methods : Iterable[str]
            Methods that viewers may call as well.
        service_only_methods : Iterable[str]
            Methods that only services may call.
        validate_requests : bool
            Check version and enums of every request (`esper_core.contract.validate`), streamed ones included, before
            the servicer sees it.
        """
        add_fn(servicer, self._server)
        self._names.append(full_service_name)
        if validate_requests:
            self._validated.add(full_service_name)
        self._rules.declare(full_service_name, read_only=read_only_methods, service_only=service_only_methods)
        self.health.add_service(full_service_name)

    def watch_dependency(self, name: str, probe: Probe, interval_s: float = 2.0, timeout_s: float = 2.0) -> None:
        """Report SERVING only while `probe` answers: it returns in time, and not False."""
        dependency = Dependency(name, probe, interval_s, timeout_s)
        self.health.add_dependency(dependency)
        self.run_in_background(f"watch {name}", lambda: self.health.watch(dependency))

    def run_in_background(self, name: str, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Run `work()` from the start to the drain. If it raises, the host stops with that error."""
        if self._port:
            self._tasks.start(name, work())
        else:
            self._pending.append((name, work))

    def on_shutdown(self, hook: Hook) -> None:
        """Run `hook` after the last call has ended; hooks run in reverse order of their registration."""
        self._hooks.append(hook)

    @property
    def port(self) -> int:
        """The bound port; 0 before the start."""
        return self._port

    @property
    def address(self) -> str:
        """`host:port` under which this machine reaches the server."""
        host = self._listen.rpartition(":")[0]
        return f"{'127.0.0.1' if host in ('0.0.0.0', '[::]') else host}:{self._port}"

    @property
    def metrics_port(self) -> int:
        """The bound port of the metrics endpoint; 0 where there is none."""
        return self._metrics_endpoint.port if self._metrics_endpoint else 0

    async def start(self) -> None:
        """Bind and serve.

        Raises
        ------
        PortInUseError
            If a port is taken.
        """
        if self._port:
            raise StateConflictError(f"The server of {self.service_name} is running. Start it once.")
        if self._config.metrics_listen:
            self._metrics_endpoint = MetricsEndpoint.open(self._config.metrics_listen, self.registry)
        try:
            port = self._bind()
            self._add_introspection()
            await self._server.start()
        except BaseException:
            self._close_metrics()
            raise
        self._port = port
        for name, work in self._pending:
            self._tasks.start(name, work())
        _log.info("listening", address=self.address, metrics_port=self.metrics_port)

    def _bind(self) -> int:
        try:
            if self._config.tls is None:
                return self._server.add_insecure_port(self._listen)
            return self._server.add_secure_port(self._listen, self._config.tls.server_credentials())
        except RuntimeError as error:
            raise bind_error(self._listen, "gRPC") from error

    def _add_introspection(self) -> None:
        names = [*self._names, HEALTH_SERVICE, REFLECTION_SERVICE]
        if self._config.channelz:
            channelz.add_channelz_servicer(self._server)
            names.append(CHANNELZ_SERVICE)
        reflection.enable_server_reflection(names, self._server)

    def request_stop(self) -> None:
        """Begin the drain; a second request ends it at once."""
        (self._hurry if self._stopping.is_set() else self._stopping).set()

    async def run_until_stopped(self) -> None:
        """Serve until SIGTERM, SIGINT or `request_stop`, then drain.

        Raises
        ------
        InternalError
            If a background task crashed.
        """
        if not self._port:
            await self.start()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.request_stop)
        try:
            await self._stopping.wait()
        finally:
            await self.stop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
        if self._crash is not None:
            raise InternalError(f"{self.service_name} stopped: {self._crash}.") from self._crash

    async def stop(self) -> None:
        """Drain: say NOT_SERVING, let calls end, run the shutdown hooks."""
        if self.draining.is_set():
            return
        self._stopping.set()
        self.draining.set()
        _log.info("draining", streams=len(self._streams))
        await self.health.drain()
        config = self._config
        await finish_calls(self._server, self._streams, self._hurry, config.stream_grace_s, config.shutdown_grace_s)
        await self._tasks.cancel_and_join()
        await run_hooks(self._hooks, self._config.hook_timeout_s)
        self._close_metrics()
        _log.info("stopped")

    def _close_metrics(self) -> None:
        if self._metrics_endpoint is not None:
            self._metrics_endpoint.close()
            self._metrics_endpoint = None

    def _crashed(self, name: str, error: BaseException) -> None:
        _log.critical("a background task crashed; the service stops", task=name, exc_info=error)
        self._crash = self._crash or error
        self._stopping.set()
