"""Settings of Weatherlight."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from esper_core.settings import ServiceSettings


class WeatherlightSettings(ServiceSettings):
    """Everything that can be set about Weatherlight."""

    model_config = SettingsConfigDict(env_prefix="WEATHERLIGHT_")

    state_dir: Path | None = Field(
        default=None,
        description="State folder of a local stack to supervise; not set where others run the services.",
    )
    bridge_dir: Path | None = Field(
        default=None,
        validation_alias="ESPER_BRIDGE_DIR",
        description="Folder through which training processes of this host tell of emergencies without the network.",
    )
    bridge_interval_ms: int = Field(default=50, ge=5, description="Pause between two looks at that folder.")
    health_interval_ms: int = Field(default=500, ge=50, description="Pause between two health checks of a service.")
    health_timeout_ms: int = Field(default=2000, ge=50, description="How long a health check may take.")
    silence_limit_s: float = Field(
        default=30.0, gt=0, description="A living service that is silent for so many seconds is killed and restarted."
    )
    stop_grace_s: float = Field(default=20.0, gt=0, description="Seconds a service has to end after SIGTERM.")
    restart_first_s: float = Field(default=2.0, gt=0, description="First wait before a dead service is started again.")
    restart_longest_s: float = Field(default=30.0, gt=0, description="Longest such wait in seconds.")
