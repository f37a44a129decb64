"""Structured logs: one JSON object per line, readable text on a terminal, secrets hidden, the service named on each."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, TextIO, cast

import structlog
from structlog.typing import FilteringBoundLogger, Processor

from esper_core.settings.redaction import HIDDEN, is_secret_name, redact_text

Logger = FilteringBoundLogger


def configure_logging(
    service: str, *, level: str = "INFO", file: Path | None = None, human: bool | None = None
) -> None:
    """Set up logging of the process, once, at start.

    Parameters
    ----------
    service : str
        Bound to every line as `service`.
    level : str
        Lowest level that is written.
    file : Path, optional
        Append there instead of stderr.
    human : bool, optional
        Readable text instead of JSON; by default when stderr is a terminal and no file is given.
    """
    stream: TextIO = sys.stderr if file is None else file.open("a", encoding="utf-8", buffering=1)
    readable = (file is None and sys.stderr.isatty()) if human is None else human
    threshold = logging.getLevelNamesMapping()[level]
    structlog.configure(
        processors=[*_chain(), _renderer(readable)],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(service=service)
    _route_standard_logging(stream, threshold, readable, service)


def get_logger(name: str = "", **bound: object) -> Logger:
    """Return a logger; `name` is bound as `component`, other arguments under their own names."""
    fields = {"component": name, **bound} if name else bound
    return cast("Logger", structlog.get_logger(**fields))


def hide_secrets(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Structlog processor that hides secrets by name, and tokens and URL passwords inside texts."""
    for name, value in event.items():
        event[name] = HIDDEN if is_secret_name(name) else _hidden_inside(value)
    return event


def _hidden_inside(value: object) -> object:
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, dict):
        return {name: HIDDEN if is_secret_name(str(name)) else _hidden_inside(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_hidden_inside(item) for item in value]
    return value


def _chain() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        hide_secrets,
    ]


def _renderer(readable: bool) -> Processor:
    if readable:
        return structlog.dev.ConsoleRenderer()
    return structlog.processors.JSONRenderer(default=str, ensure_ascii=False)


def _route_standard_logging(stream: TextIO, threshold: int, readable: bool, service: str) -> None:
    """Give lines of libraries that use `logging` the same form."""

    def bind_service(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.setdefault("service", service)
        return event

    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[bind_service, structlog.stdlib.add_logger_name, *_chain()],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _renderer(readable)],
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(threshold, logging.WARNING))
