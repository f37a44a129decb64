"""The start-up frame of every service: help, settings, logs, event loop, exit status."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Coroutine, Sequence
from textwrap import indent
from typing import Any, TypeVar

from esper_core.errors import EXIT_OK, EsperError, to_exit_code
from esper_core.logs import configure_logging, get_logger
from esper_core.rpc.network import NetworkSettings
from esper_core.settings import EsperSettings, ServiceSettings, load, unknown_variables, variable_of
from esper_core.settings.redaction import redact

S = TypeVar("S", bound=ServiceSettings)

_EXIT_STATUSES = "Exit status 0 after a drain; any other is explained in docs/errors.md (78: a setting is wrong)."


def run_service(
    service_name: str,
    settings_class: type[S],
    build: Callable[[S], Coroutine[Any, Any, None]],
    arguments: Sequence[str] | None = None,
) -> int:
    """Run a service to its end and return the exit status of the process.

    Parameters
    ----------
    service_name : str
        Import name of the service.
    settings_class : type
        Its settings.
    build : Callable
        `async def main(settings)`: wires the service and returns when it has stopped.
    arguments : Sequence[str], optional
        Command line; that of the process by default.
    """
    _parse(service_name, settings_class, arguments)
    try:
        settings = load(settings_class)
        load(NetworkSettings)
    except EsperError as error:
        return _refuse(error)
    configure_logging(service_name, level=settings.log_level)
    _tell_settings(settings)
    return _run(build(settings))


def _run(work: Coroutine[Any, Any, None]) -> int:
    log = get_logger("main")
    try:
        asyncio.run(work)
    except EsperError as error:
        log.critical("the service ends", code=error.code, reason=error.message, exc_info=error.__cause__)
        return _refuse(error)
    except KeyboardInterrupt as error:
        return to_exit_code(error)
    except Exception as error:
        log.critical("the service ends by an unexpected error", exc_info=error)
        return to_exit_code(error)
    return EXIT_OK


def _refuse(error: EsperError) -> int:
    print(f"{error.message} ({error.code})", file=sys.stderr)
    return to_exit_code(error)


def _tell_settings(settings: ServiceSettings) -> None:
    log = get_logger("main")
    log.info("settings", **settings.redacted())
    for name, meant in unknown_variables(type(settings)).items():
        log.warning("an environment variable fills no setting", variable=name, nearest=meant)


def _parse(service_name: str, settings_class: type[S], arguments: Sequence[str] | None) -> None:
    parser = argparse.ArgumentParser(
        prog=f"python -m {service_name}",
        description=f"Run {service_name} until SIGTERM. It is configured by environment variables alone.",
        epilog=f"{describe(settings_class)}\n{describe(NetworkSettings)}\n{_EXIT_STATUSES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(arguments)


def describe(settings_class: type[EsperSettings]) -> str:
    """Return one paragraph per setting: variable, default, meaning."""
    return "".join(_paragraph(settings_class, name) for name in settings_class.model_fields)


def _paragraph(settings_class: type[EsperSettings], name: str) -> str:
    info = settings_class.model_fields[name]
    if info.is_required():
        default = "required"
    else:
        value = redact(name, info.get_default(call_default_factory=True, validated_data={}))
        default = "optional" if value in ("None", "") else f"default {value}"
    return f"{variable_of(settings_class, name)}  ({default})\n{indent(info.description or '', '    ')}\n"
