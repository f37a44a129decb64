"""Settings of Simic."""

from __future__ import annotations

from pydantic_settings import SettingsConfigDict

from esper_core.settings import ServiceSettings


class SimicSettings(ServiceSettings):
    """Everything that can be set about Simic."""

    model_config = SettingsConfigDict(env_prefix="SIMIC_")
    required_peers = ("oona",)
