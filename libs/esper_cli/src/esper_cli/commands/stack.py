"""Commands about the stack itself: up, down, status, restart, probe, token."""

from __future__ import annotations

from pathlib import Path
from subprocess import Popen
from typing import Annotated, Any

import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.status import Status

from esper_cli.options import DEFAULT_STATE_DIR, Json, StateDir
from esper_cli.output import ERR, OUT, print_json, print_table, say
from esper_cli.stack_client import StackClient
from esper_cli.stack_control import start_keeper, take_down, wait_until_healthy
from esper_cli.stopping import StopRequest
from esper_core import leyline
from esper_core.errors import EsperError
from esper_core.pb.esper.weatherlight.v1 import weatherlight_pb2, weatherlight_pb2_grpc
from esper_core.stack import STORE, StackPaths

_WORDS = {
    leyline.HEALTH_STATUS_HEALTHY: "healthy",
    leyline.HEALTH_STATUS_DEGRADED: "degraded",
    leyline.HEALTH_STATUS_UNHEALTHY: "unhealthy",
}
Detach = Annotated[bool, typer.Option("--detach", "-d", help="Return once the stack is up, and leave it running.")]
Within = Annotated[float, typer.Option("--timeout", help="Seconds to wait until every service is healthy.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (up, down, status, restart, probe, token):
        app.command()(command)


def up(
    state_dir: StateDir = DEFAULT_STATE_DIR, detach: Detach = False, timeout: Within = 90.0, as_json: Json = False
) -> None:
    """Start all services on this machine and keep them alive; Ctrl-C stops them again."""
    paths = state_paths(state_dir)
    with StopRequest() as stop:
        keeper = start_keeper(paths)
        try:
            system = _await_health(paths, keeper, timeout, stop)
        except (KeyboardInterrupt, EsperError):
            take_down(paths)
            raise
        print_json(system) if as_json else _print_system(system)
        if detach and not stop.asked:
            return
        say("The stack is up. Ctrl-C stops it; `esper run submit letter --follow` in another terminal trains on it.")
        stop.outlast(keeper)
    if stop.asked:
        say("Stopping the stack.")
        take_down(paths)


def down(state_dir: StateDir = DEFAULT_STATE_DIR, as_json: Json = False) -> None:
    """Stop everything that belongs to the stack; running trainings are halted with a checkpoint."""
    paths = state_paths(state_dir)
    stopped = take_down(paths)
    if as_json:
        print_json({"stopped": stopped, "state_dir": str(paths.root)})
    else:
        say("The stack is down." if stopped else f"No stack was up in {paths.root}.")


def status(state_dir: StateDir = DEFAULT_STATE_DIR, as_json: Json = False) -> None:
    """Tell how the system is: mode, services, health, restarts, memory."""
    with StackClient.of(state_dir).channel("weatherlight") as channel:
        stub: Any = weatherlight_pb2_grpc.OrchestratorStub(channel)
        system = stub.GetSystem(weatherlight_pb2.GetSystemRequest())
    print_json(system) if as_json else _print_system(system)
    if any(service.health != leyline.HEALTH_STATUS_HEALTHY for service in system.services):
        raise typer.Exit(1)


def restart(
    service: Annotated[str, typer.Argument(help="Name of the service.")],
    state_dir: StateDir = DEFAULT_STATE_DIR,
    as_json: Json = False,
) -> None:
    """Restart one service of the stack."""
    with StackClient.of(state_dir).channel("weatherlight") as channel:
        stub: Any = weatherlight_pb2_grpc.OrchestratorStub(channel)
        request = weatherlight_pb2.RestartServiceRequest(name=service, reason="asked for on the command line")
        answer = stub.RestartService(request, timeout=30.0)
    print_json(answer) if as_json else say(f"{answer.name} is being restarted.")


def probe(state_dir: StateDir = DEFAULT_STATE_DIR, as_json: Json = False) -> None:
    """Ask every service by the standard gRPC health check; exit status 1 unless all say SERVING."""
    client = StackClient.of(state_dir)
    answers = {name: _probe(client, name) for name in client.record.services if name != STORE}
    if as_json:
        print_json({"services": answers})
    else:
        rows = ((name, client.record.address(name), answer) for name, answer in answers.items())
        print_table("", ("service", "address", "health"), rows)
    if set(answers.values()) != {"SERVING"}:
        raise typer.Exit(1)


def token(state_dir: StateDir = DEFAULT_STATE_DIR) -> None:
    """Print an operator's token for grpcurl: -H "authorization: Bearer $(esper token)"."""
    OUT.print(StackClient.of(state_dir).tokens().token(), soft_wrap=True)


def _probe(client: StackClient, service: str) -> str:
    try:
        with client.channel(service) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=2.0)
    except EsperError as error:
        return f"UNREACHABLE ({error.code})"
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


def _await_health(
    paths: StackPaths, keeper: Popen[bytes], timeout_s: float, stop: StopRequest
) -> weatherlight_pb2.SystemStatus:
    with ERR.status("Starting Weatherlight") as line:
        return wait_until_healthy(paths, keeper, timeout_s, lambda system: _show_progress(line, system), stop)


def _show_progress(line: Status, system: weatherlight_pb2.SystemStatus) -> None:
    healthy = [row.name for row in system.services if row.health == leyline.HEALTH_STATUS_HEALTHY]
    waiting = [row.name for row in system.services if row.health != leyline.HEALTH_STATUS_HEALTHY]
    line.update(f"{len(healthy)} of {len(system.services)} services healthy; waiting for {', '.join(waiting)}")


def _print_system(system: weatherlight_pb2.SystemStatus) -> None:
    mode = leyline.SystemMode.Name(system.mode).removeprefix("SYSTEM_MODE_")
    OUT.print(f"stack {system.stack_id}  mode {mode}")
    for reason in system.mode_reasons:
        OUT.print(f"  {reason}")
    print_table("", ("service", "health", "address", "pid", "restarts", "MiB", "why"), map(_row, system.services))


def _row(service: weatherlight_pb2.ServiceStatus) -> tuple[object, ...]:
    memory = f"{service.memory_mb:.0f}" if service.HasField("memory_mb") else ""
    health = _WORDS.get(service.health, "unknown")
    return service.name, health, service.address, service.pid or "", service.restarts, memory, service.reason


def state_paths(state_dir: Path) -> StackPaths:
    """Return the paths of a stack, whatever the form in which its folder was given."""
    return StackPaths(state_dir.expanduser().absolute())
