"""Between Weatherlight's views and their messages."""

from __future__ import annotations

from esper_core import leyline
from esper_core.clocks import to_timestamp
from esper_core.pb.esper.weatherlight.v1 import weatherlight_pb2
from weatherlight.emergencies import Emergency, Routing
from weatherlight.orchestrator import ServiceView, SystemView


def system_status(view: SystemView) -> weatherlight_pb2.SystemStatus:
    """Return the message of a system."""
    return weatherlight_pb2.SystemStatus(
        mode=view.mode,
        mode_reasons=view.reasons,
        services=[service_status(service) for service in view.services],
        observed_at=to_timestamp(view.observed_at),
        stack_id=view.stack_id,
    )


def service_status(view: ServiceView) -> weatherlight_pb2.ServiceStatus:
    """Return the message of a service."""
    return weatherlight_pb2.ServiceStatus(
        name=view.name,
        address=view.address,
        health=view.health,
        reason=view.reason,
        pid=view.pid,
        restarts=view.restarts,
        started_at=to_timestamp(view.started_at) if view.started_at is not None else None,
        depends_on=view.depends_on,
        supervised=view.supervised,
        metrics_address=view.metrics_address,
        memory_mb=view.memory_mb,
        crash_looping=view.crash_looping,
    )


def emergency(signal: leyline.EmergencySignal) -> Emergency:
    """Return the emergency that a verified signal tells."""
    return Emergency(signal.signal_id, signal.level, signal.reason, signal.origin, signal.training_run_id)


def emergency_routing(routing: Routing) -> weatherlight_pb2.EmergencyRouting:
    """Return the message of a routing."""
    return weatherlight_pb2.EmergencyRouting(
        signal_id=routing.signal_id,
        actions=routing.actions,
        training_run_ids=routing.runs,
        duplicate=routing.duplicate,
    )
