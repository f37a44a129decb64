"""Settings of Urza."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from esper_core.settings import ServiceSettings


class UrzaSettings(ServiceSettings):
    """Everything that can be set about Urza."""

    model_config = SettingsConfigDict(env_prefix="URZA_")

    database_url: str | None = Field(
        default=None,
        description="SQLAlchemy URL of the catalogue; a SQLite file in the data folder when it is not set.",
    )
    max_kernel_bytes: int = Field(
        default=256 * 1024 * 1024, ge=1, description="Largest kernel that is taken, in bytes."
    )
