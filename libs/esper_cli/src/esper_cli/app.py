"""The command line as a whole: every command, and one way to end with an error."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import cast

import typer

from esper_cli.commands import demo, doctor, emergencies, runs, seeds, stack
from esper_cli.output import ERR
from esper_core.errors import EsperError, to_exit_code

# Typer may bring a click of its own; the class that its parser raises is found through one that it exports.
ParserError: type[Exception] = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "ClickException")

app = typer.Typer(
    name="esper",
    help="Train PyTorch networks that grow while they train. Start with `esper demo`, or `esper up`.",
    epilog="Exit status: 0 when all is well; every other one is explained in docs/errors.md.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
stack.register(app)
seeds.register(app)
app.command()(emergencies.clear_emergency)
app.command()(doctor.doctor)
app.command()(demo.demo)
app.add_typer(runs.app)


def run(arguments: Sequence[str]) -> int:
    """Run one command and return the exit status of the process."""
    command = typer.main.get_command(app)
    try:
        status = command.main(list(arguments), prog_name="esper", standalone_mode=False)
    except EsperError as error:
        return _tell(error, as_json="--json" in arguments)
    except (typer.Abort, KeyboardInterrupt):
        return to_exit_code(KeyboardInterrupt())
    except ParserError as error:
        cast(typer.BadParameter, error).show()
        return cast(typer.BadParameter, error).exit_code
    return int(status or 0)


def _tell(error: EsperError, *, as_json: bool) -> int:
    if as_json:
        document = {"error": {"code": error.code, "message": error.message, "details": error.details}}
        sys.stdout.write(json.dumps(document) + "\n")
    else:
        ERR.print("[bold red]error[/]", end=" ")
        ERR.print(f"{error.message} ({error.code})", markup=False)
        for name in ("field", "allowed"):
            if error.details.get(name):
                ERR.print(f"  {name}: {error.details[name]}", markup=False)
    return to_exit_code(error)
