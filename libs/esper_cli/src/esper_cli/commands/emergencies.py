"""The command that ends an emergency: the mode of the system and of its runs goes back only by an operator's word."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer

from esper_cli.options import DEFAULT_STATE_DIR, Json, StateDir
from esper_cli.output import print_json, say
from esper_cli.stack_client import StackClient
from esper_core.pb.esper.weatherlight.v1 import weatherlight_pb2, weatherlight_pb2_grpc

CLEAR_WITHIN_S: Final = 30.0


def clear_emergency(
    reason: Annotated[str, typer.Argument(help="Why it is over, as a sentence.")],
    run_id: Annotated[str, typer.Option("--run", help="Only in this run; in all of them when left out.")] = "",
    state_dir: StateDir = DEFAULT_STATE_DIR,
    as_json: Json = False,
) -> None:
    """End an emergency: the system and the runs that it held leave it; a run that it halted waits to be resumed."""
    with StackClient.of(state_dir).channel("weatherlight") as channel:
        stub: Any = weatherlight_pb2_grpc.OrchestratorStub(channel)
        request = weatherlight_pb2.ClearEmergencyRequest(reason=reason, training_run_id=run_id)
        answer = stub.ClearEmergency(request, timeout=CLEAR_WITHIN_S)
    if as_json:
        print_json(answer)
    else:
        for action in answer.actions:
            say(action)
    if any(action.startswith("failed: ") for action in answer.actions):
        raise typer.Exit(1)
