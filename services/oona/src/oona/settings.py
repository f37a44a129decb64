"""Settings of Oona."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from esper_core.settings import ServiceSettings


class OonaSettings(ServiceSettings):
    """Everything that can be set about Oona."""

    model_config = SettingsConfigDict(env_prefix="OONA_")

    redis_url: str = Field(description="Address of Redis 7 or Valkey, redis://host:port/database.")
    redis_timeout_ms: int = Field(default=5000, ge=100, description="Longest wait for an answer of Redis, in ms.")

    stream_normal: str = Field(default="oona.normal", min_length=1, description="Stream of everything else.")
    stream_emergency: str = Field(
        default="oona.emergency", min_length=1, description="Stream of HIGH and CRITICAL messages."
    )
    stream_telemetry: str = Field(default="oona.telemetry", min_length=1, description="Stream of telemetry.")
    stream_policy: str = Field(default="oona.policy", min_length=1, description="Stream of policy updates.")
    stream_kernels_requests: str = Field(
        default="oona.kernels.requests", min_length=1, description="Stream of kernel prefetch requests."
    )
    stream_kernels_ready: str = Field(
        default="oona.kernels.ready", min_length=1, description="Stream of kernels that are ready."
    )
    stream_kernels_errors: str = Field(
        default="oona.kernels.errors", min_length=1, description="Stream of kernels that could not be made."
    )
    stream_deadletter: str = Field(default="oona.deadletter", min_length=1, description="Stream of dead letters.")

    emergency_max_per_min: int = Field(
        default=120, ge=1, description="HIGH messages that one source may publish per minute; CRITICAL is not limited."
    )
    emergency_threshold: int = Field(
        default=1000,
        ge=1,
        description="Unacknowledged messages on the emergency stream from which HIGH is refused; CRITICAL never is.",
    )
    backpressure_enter: int = Field(
        default=4000, ge=1, description="Lag plus pending of a group from which LOW messages to its stream are refused."
    )
    backpressure_enter_normal: int = Field(
        default=8000, ge=1, description="Lag plus pending of a group from which NORMAL messages are refused as well."
    )
    backpressure_leave: int = Field(default=1000, ge=0, description="Lag plus pending at which back-pressure may end.")
    backpressure_min_s: float = Field(default=60.0, ge=0, description="Shortest time of back-pressure, in seconds.")
    abandoned_group_s: float = Field(
        default=3600.0,
        gt=0,
        description="Time without any consumer after which a group no longer holds back publishers or trimming, in s.",
    )

    retry_max_attempts: int = Field(default=5, ge=1, description="Failures of a handler until the dead letters.")
    retry_max_deliveries: int = Field(
        default=20, ge=1, description="Deliveries without an answer until the dead letters."
    )
    retry_first_delay_ms: int = Field(default=500, ge=0, description="Wait after the first failure, in ms; it doubles.")
    retry_longest_delay_ms: int = Field(default=30_000, ge=0, description="Longest wait between attempts, in ms.")
    claim_idle_ms: int = Field(
        default=15_000, ge=100, description="Time without a sign of its consumer after which a delivery is claimed, ms."
    )
    delivery_timeout_s: float = Field(
        default=900.0, gt=0, description="Time that a living consumer may take for one delivery, in seconds."
    )

    retention_s: float = Field(
        default=86_400.0, gt=0, description="Age from which acknowledged messages are trimmed, in seconds."
    )
    stream_max_length: int = Field(
        default=200_000, ge=1000, description="Entries that a stream never exceeds by much, read or not."
    )
    deadletter_max_length: int = Field(default=20_000, ge=100, description="Dead letters that are kept.")
    spill_max_messages: int = Field(
        default=10_000, ge=1, description="CRITICAL messages that the local journal takes while Redis is away."
    )
    breaker_failures: int = Field(default=3, ge=1, description="Failures in a row that open a breaker.")
    breaker_open_ms: int = Field(default=1000, ge=1, description="Time that a breaker stays open, in ms.")
