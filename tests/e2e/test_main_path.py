"""The main path: a network grows on real data, through all nine services, and everything about it can be told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from esper_core.pb.esper.simic.v1 import simic_pb2, simic_pb2_grpc
from esper_core.settings.service import SERVICE_NAMES
from support.local_stack import LocalStack
from support.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

EVALUATE = """
import sys, json, torch
from esper_runtime import load_exported
from esper_tasks import load_task
task = load_task("letter")
test = task.data(seed=0).test
model = load_exported(sys.argv[1])
with torch.no_grad():
    outputs = model(test.inputs)
print(json.dumps(float(task.metric(outputs, test.targets).double().mean())))
"""


@pytest.fixture(scope="module")
def grown(stack: LocalStack) -> Any:
    return stack.esper_json(
        "run", "submit", "letter", "--size", "small", "--flops", "5e9", "--seed", "0", "--follow", timeout_s=300
    )


def test_every_service_is_serving(stack: LocalStack) -> None:
    services = stack.esper_json("probe")["services"]
    assert services == dict.fromkeys(services, "SERVING")
    assert set(services) == set(SERVICE_NAMES)


def test_the_network_grew_and_the_last_line_tells_it(grown: Any) -> None:
    assert grown["state"] == "COMPLETED"
    assert grown["parameters_final"] > grown["parameters_initial"]
    kept = [seed for seed in grown["seeds"] if seed["stage"] in ("FOSSILIZED", "TERMINATED")]
    assert kept
    assert all(seed["contribution"] > 0 for seed in kept)
    assert {"run_id", "steps", "accuracy", "flops", "wall_s"} <= set(grown)
    assert 0.5 < grown["accuracy"] < 1.0
    assert 0 < grown["flops"] <= 5e9


def test_a_seed_can_be_explained_from_decision_to_worth(stack: LocalStack, grown: Any) -> None:
    seed_id = next(seed["seed_id"] for seed in grown["seeds"] if seed["stage"] in ("FOSSILIZED", "TERMINATED"))
    told = stack.esper_json("explain", seed_id)
    assert told["missing"] == []
    assert told["decisions"][0]["command"]["metadata"]["policy"]["rationale"]
    assert {gate["gate"] for gate in told["seed"]["gates"]} >= {"SEED_GATE_G0_SANITY", "SEED_GATE_G4_SYSTEM_IMPACT"}
    assert told["seed"]["state"]["contribution"] > 0
    assert {event["name"] for event in told["history"]} >= {"seed_stage", "gate"}
    text = stack.esper("explain", seed_id)
    assert "Its gates" in text.stdout
    assert "lower with it than without it" in text.stdout


def test_the_exported_model_is_as_accurate_without_any_service(stack: LocalStack, grown: Any, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    exported = stack.esper("run", "export", grown["run_id"], str(folder))
    assert exported.returncode == 0, exported.stderr
    assert {"model.safetensors", "topology.json"} <= {path.name for path in folder.iterdir()}
    done = subprocess.run([sys.executable, "-c", EVALUATE, str(folder)], capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(grown["accuracy"], abs=1e-9)


def test_the_final_network_can_be_trained_from_scratch_to_see_whether_growing_mattered(
    stack: LocalStack, grown: Any
) -> None:
    told = stack.esper_json("run", "replay-static", grown["run_id"], "--rate", "1e-2", "--rate", "2e-2", timeout_s=300)
    static = told["static"]
    assert told["learning_rate"] == min((0.01, 0.02), key=lambda rate: told["learning_rate_search"][f"{rate:g}"])
    assert static["parameters_initial"] == static["parameters_final"] == grown["parameters_final"]
    assert 0.95 * grown["flops"] < static["flops"] <= grown["flops"]
    assert told["difference"] == pytest.approx(grown["accuracy"] - static["accuracy"])
    assert f"{abs(100 * told['difference']):.2f} points" in told["claim"]


@pytest.mark.req("TAM-24")
def test_every_command_has_one_report_that_simic_holds_once(stack: LocalStack, grown: Any) -> None:
    with stack.client.channel("simic") as channel:
        stub: Any = simic_pb2_grpc.LearnerStub(channel)

        def held() -> list[str]:
            answer = stub.GetReplay(simic_pb2.GetReplayRequest(limit=1000))
            return [report.command_id for report in answer.newest if report.training_run_id == grown["run_id"]]

        wait_until(lambda: len(held()) >= len(grown["seeds"]), 30, what="the field reports in Simic")
        assert len(held()) == len(set(held()))


def test_whoever_holds_a_token_can_look_around_by_reflection(stack: LocalStack) -> None:
    token = stack.esper("token").stdout.strip()
    address = stack.client.record.address("tolaria")
    with grpc.insecure_channel(address) as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        ask = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        answers = list(stub.ServerReflectionInfo(ask, metadata=(("authorization", f"Bearer {token}"),), timeout=10))
        names = {service.name for answer in answers for service in answer.list_services_response.service}
        assert "esper.tolaria.v1.RunService" in names
        with pytest.raises(grpc.RpcError) as refused:
            list(
                stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=10)
            )
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("letters",), "letter, mnist1d"),
        (("letter", "--optimizer", "magic"), "adam"),
        (("letter", "--param", "width=100000"), "width"),
        (("letter", "--blueprint", "bp-unknown"), "mlp_residual"),
        (("letter", "--site", "nowhere"), "stem"),
        (("os:system",), "TOLARIA_TASK_ALLOWLIST"),
    ],
)
def test_a_bad_request_is_refused_with_what_would_do(stack: LocalStack, arguments: tuple[str, ...], told: str) -> None:
    done = stack.esper("run", "submit", *arguments)
    assert done.returncode not in (0, 1)
    assert told in done.stderr.replace("\n", "")


def test_an_emergency_halts_the_run_with_a_checkpoint_from_which_it_goes_on(stack: LocalStack) -> None:
    from esper_core import leyline
    from esper_core.pb.esper.weatherlight.v1 import weatherlight_pb2, weatherlight_pb2_grpc

    submitted = stack.esper_json("run", "submit", "letter", "--policy", "none", "--flops", "10e9")
    run_id = submitted["run_id"]
    wait_until(lambda: stack.runs.status(run_id).progress.step > 20, 60, what="the run under way")
    with stack.client.channel("weatherlight") as channel:
        stub: Any = weatherlight_pb2_grpc.OrchestratorStub(channel)
        routing = stub.RaiseEmergency(
            weatherlight_pb2.RaiseEmergencyRequest(
                level=leyline.EMERGENCY_LEVEL_HALT, reason="a drill", training_run_id=run_id
            )
        )
        assert run_id in routing.training_run_ids
        wait_until(lambda: stack.runs.status(run_id).state == leyline.RUN_STATE_HALTED, 30, what="the halt")
        assert stack.esper_json("status")["mode"] == "SYSTEM_MODE_EMERGENCY"
    cleared = stack.esper_json("clear-emergency", "the drill is over", "--run", run_id)
    assert "tolaria cleared it" in cleared["actions"]
    assert stack.esper_json("status")["mode"] == "SYSTEM_MODE_OPERATIONAL"
    checkpoints = stack.esper_json("run", "checkpoints", run_id)["checkpoints"]
    assert checkpoints[0]["good"]
    assert stack.esper("run", "resume", run_id).returncode == 0
    assert stack.runs.wait(run_id).state == leyline.RUN_STATE_COMPLETED
