"""An operator probes the stack with grpcurl: list, describe, call, all through reflection."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.local_stack import LocalStack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(200)]
GRPCURL = str(Path(sys.executable).parent / "grpcurl")


def grpcurl(stack: LocalStack, service: str, *arguments: str, token: bool = True) -> subprocess.CompletedProcess[str]:
    header = ["-H", f"authorization: Bearer {stack.esper('token').stdout.strip()}"] if token else []
    address = stack.client.record.address(service)
    command = [GRPCURL, "-plaintext", *header, address, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_list_names_the_service_health_and_reflection(stack: LocalStack) -> None:
    names = grpcurl(stack, "urza", "list").stdout.split()
    assert {"esper.urza.v1.Library", "grpc.health.v1.Health"} <= set(names)


def test_describe_shows_the_methods(stack: LocalStack) -> None:
    described = grpcurl(stack, "kasmina", "describe", "esper.kasmina.v1.Executor").stdout
    assert "rpc ListSeeds ( .esper.kasmina.v1.ListSeedsRequest )" in described


def test_a_call_answers(stack: LocalStack) -> None:
    answered = grpcurl(stack, "urza", "esper.urza.v1.Library/ListBlueprints")
    assert len(json.loads(answered.stdout)["blueprints"]) > 5, answered.stderr
    assert '"mlp_residual.v1"' in answered.stdout


def test_without_a_token_nothing_is_shown(stack: LocalStack) -> None:
    refused = grpcurl(stack, "urza", "list", token=False)
    assert refused.returncode != 0
    assert "token" in refused.stderr
