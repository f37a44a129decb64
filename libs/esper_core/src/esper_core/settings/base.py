"""Typed settings: read once from the environment, frozen, explained, and refused in one sentence when wrong."""

from __future__ import annotations

import os
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Final, TypeVar

import pydantic
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from esper_core.errors import SettingsError
from esper_core.settings.redaction import redact

_BASE_CONFIG: Final = SettingsConfigDict(
    frozen=True,
    extra="forbid",
    validate_default=True,
    validate_by_name=True,
    validate_by_alias=True,
    env_ignore_empty=True,
    hide_input_in_errors=True,
)


class EsperSettings(BaseSettings):
    """Base of every settings class.

    A subclass sets `model_config = SettingsConfigDict(env_prefix="NAME_")`, describes every field, puts the unit in the
    name of every quantity (`step_timeout_ms`) and uses `SecretStr` for secrets. Resolve it once with `load` and pass
    the object on.
    """

    model_config = _BASE_CONFIG

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        nameless = [name for name, info in cls.model_fields.items() if not info.description]
        if nameless:
            raise TypeError(f"{cls.__name__} has fields without a description: {', '.join(nameless)}")

    def redacted(self) -> dict[str, str]:
        """Return every field as text that is safe to print: secrets and passwords in URLs are hidden."""
        return {name: redact(name, getattr(self, name)) for name in type(self).model_fields}


S = TypeVar("S", bound=EsperSettings)


def load(settings_class: type[S]) -> S:
    """Resolve settings from the environment.

    Raises
    ------
    SettingsError
        One sentence about the first variable that is missing or malformed, and how many more there are.
    """
    try:
        return settings_class()
    except pydantic.ValidationError as error:
        raise _first_sentence(settings_class, error) from None


def variable_of(settings_class: type[EsperSettings], field_name: str) -> str:
    """Return the environment variable that fills a field."""
    info = settings_class.model_fields[field_name]
    if isinstance(info.validation_alias, str):
        return info.validation_alias
    return f"{settings_class.model_config.get('env_prefix', '')}{field_name}".upper()


def unknown_variables(settings_class: type[EsperSettings], environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return variables with the class's prefix that fill nothing, each with the nearest known name or "".

    Kubernetes adds `<SERVICE>_SERVICE_*` and `<SERVICE>_PORT*` to every pod, so these are passed over.
    """
    prefix = settings_class.model_config.get("env_prefix", "").upper()
    known = {variable_of(settings_class, name) for name in settings_class.model_fields}
    strays = [name for name in environ if prefix and name.upper().startswith(prefix) and name.upper() not in known]
    injected = (f"{prefix}SERVICE_", f"{prefix}PORT")
    return {name: _nearest(name, known) for name in strays if not name.upper().startswith(injected)}


def _nearest(name: str, known: set[str]) -> str:
    return next(iter(get_close_matches(name.upper(), sorted(known), n=1)), "")


def _first_sentence(settings_class: type[EsperSettings], error: pydantic.ValidationError) -> SettingsError:
    problems = error.errors(include_url=False, include_context=False)
    variable, info = _located(settings_class, problems[0])
    sentence = _sentence(variable, info, problems[0])
    if len(problems) > 1:
        others = sorted({_located(settings_class, problem)[0] for problem in problems[1:]})
        sentence += f" Wrong as well: {', '.join(others)}."
    return SettingsError(sentence, variable=variable)


def _located(settings_class: type[EsperSettings], problem: ErrorDetails) -> tuple[str, FieldInfo | None]:
    where = str(problem["loc"][0]) if problem["loc"] else ""
    for name, info in settings_class.model_fields.items():
        if where in (name, info.validation_alias):
            return variable_of(settings_class, name), info
    return where or settings_class.__name__, None


def _sentence(variable: str, info: FieldInfo | None, problem: ErrorDetails) -> str:
    meaning = f" It is: {info.description}" if info is not None and info.description else ""
    if problem["type"] == "missing":
        return f"{variable} is not set. Set this environment variable and start again.{meaning}"
    shown = "" if _is_secret(info) else f" {problem['input']!r}"
    return f"{variable} has a value{shown} that is not allowed: {problem['msg']}.{meaning}"


def _is_secret(info: FieldInfo | None) -> bool:
    return info is not None and info.annotation is SecretStr
