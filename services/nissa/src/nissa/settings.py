"""Settings of Nissa."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from esper_core.settings import ServiceSettings


class NissaSettings(ServiceSettings):
    """Everything that can be set about Nissa."""

    model_config = SettingsConfigDict(env_prefix="NISSA_")
    required_peers = ("oona",)

    max_series: int = Field(default=10_000, ge=1, description="Most metric series that are kept.")
