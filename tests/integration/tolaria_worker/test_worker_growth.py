"""A worker grows Letter under the real Tamiyo, Kasmina and Urza, and outlives the loss of each of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from esper_core import leyline
from esper_core.blueprints import KernelSpec, sha256_hex
from esper_core.blueprints.messages import contract_to_message, parameters_to_messages
from esper_core.clocks import to_timestamp
from esper_core.errors import NotFoundError
from esper_core.ids import new_run_id
from esper_core.journal import read_journal
from esper_core.pb.esper.kasmina.v1 import kasmina_pb2, kasmina_pb2_grpc
from esper_core.pb.esper.urza.v1 import urza_pb2, urza_pb2_grpc
from esper_core.rpc import mapped_errors
from esper_core.security import Keyring
from esper_runtime.kernels import materialise
from support.service_process import ServiceProcess
from support.teaching import ended_run, taught_by
from support.tolaria_runs import letter_spec, open_letter
from support.waiting import await_until, wait_until
from tolaria.rundir import RunDirectory, RunRequest

BLUEPRINT = "mlp_residual.v1"
EXPANSIONS = (0.25, 0.5, 1.0, 2.0, 4.0)
SETTLED = {leyline.SEED_STAGE_FOSSILIZED, leyline.SEED_STAGE_CULLED}


@dataclass(slots=True)
class ControlPlane:
    """Urza with kernels for Letter's sites, Kasmina and Tamiyo."""

    keyring: Keyring
    keyring_file: Path
    services: dict[str, ServiceProcess]

    def environment(self) -> dict[str, str]:
        addresses = {f"ESPER_{name.upper()}_ADDRESS": service.address for name, service in self.services.items()}
        return {**addresses, "ESPER_KEYRING_FILE": str(self.keyring_file)}


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[ControlPlane]:
    keyring = Keyring.generate()
    keyring_file = tmp_path / "keyring.json"
    keyring.save(keyring_file)
    with ExitStack() as stack:
        urza = _service("urza", tmp_path, keyring_file, {}, stack)
        known = {"ESPER_URZA_ADDRESS": urza.address}
        await _put_kernels(urza, keyring)
        kasmina = _service("kasmina", tmp_path, keyring_file, known, stack)
        tamiyo = _service(
            "tamiyo",
            tmp_path,
            keyring_file,
            {**known, "TAMIYO_STEP_TIMEOUT_MS": "500", "TAMIYO_EXPANSIONS": "0.5,1.0,2.0"},
            stack,
        )
        yield ControlPlane(keyring, keyring_file, {"urza": urza, "kasmina": kasmina, "tamiyo": tamiyo})


def _service(
    name: str, folder: Path, keyring_file: Path, environment: dict[str, str], stack: ExitStack
) -> ServiceProcess:
    service = ServiceProcess(name, folder, keyring_file, environment)
    stack.callback(service.kill)
    service.start()
    return service


async def _put_kernels(urza: ServiceProcess, keyring: Keyring) -> None:
    session = open_letter()
    async with urza.channel(keyring, "urabrask") as channel:
        library = urza_pb2_grpc.LibraryStub(channel)
        for site in session.host.sites:
            for expansion in EXPANSIONS:
                spec = KernelSpec(BLUEPRINT, session.host.contract(site.name), {"expansion": expansion})
                await library.PutKernel(_parts(spec, materialise(spec, 1)))


def _parts(spec: KernelSpec, weights: bytes) -> Iterator[urza_pb2.PutKernelRequest]:
    descriptor = leyline.KernelDescriptor(
        version=1,
        blueprint_id=spec.blueprint_id,
        parameters=parameters_to_messages(spec.parameters),
        contract=contract_to_message(spec.contract),
        weights_digest=sha256_hex(weights),
        spec_digest=spec.digest,
        size_bytes=len(weights),
        parameter_count=1,
        created_by="test",
        created_at=to_timestamp(datetime.now(UTC)),
    )
    yield urza_pb2.PutKernelRequest(descriptor=descriptor)
    yield urza_pb2.PutKernelRequest(chunk=weights)


def new_run(folder: Path, steps: int, **changes: object) -> RunDirectory:
    run = RunDirectory(folder)
    growth = leyline.GrowthSpec(policy="schedule", blueprint_ids=[BLUEPRINT], max_seeds=1)
    request = RunRequest(new_run_id(), letter_spec(max_steps=steps, growth=growth, **changes), datetime.now(UTC))
    run.write_request(request)
    return run


def start(run: RunDirectory, plane: ControlPlane) -> subprocess.Popen[bytes]:
    environment = {**os.environ, **plane.environment(), "OMP_NUM_THREADS": "1", "TOLARIA_STATUS_INTERVAL_S": "0.2"}
    with (run.path / "stderr.txt").open("ab") as stderr:
        command = [sys.executable, "-m", "tolaria.worker", "--run-dir", str(run.path)]
        return subprocess.Popen(command, env=environment, stderr=stderr)


def events(run: RunDirectory) -> list[leyline.RunEvent]:
    if not run.events_path.exists():
        return []
    return [leyline.RunEvent.FromString(payload) for payload in read_journal(run.events_path).payloads]


def stages(run: RunDirectory) -> list[int]:
    return [event.seed.to_stage for event in events(run) if event.HasField("seed")]


def status(run: RunDirectory) -> leyline.RunStatus:
    return run.read_status() or leyline.RunStatus()


async def dismiss_teacher(plane: ControlPlane, run: RunDirectory) -> bool:
    """Let the teacher of a run go; False as long as Kasmina does not know of one."""
    request = kasmina_pb2.ResetTeacherRequest(training_run_id=run.read_request().run_id, reason="It is not needed.")
    try:
        async with plane.services["kasmina"].channel(plane.keyring, "test") as channel:
            with mapped_errors("kasmina"):
                return bool((await kasmina_pb2_grpc.ExecutorStub(channel).ResetTeacher(request)).had_teacher)
    except NotFoundError:
        return False


@pytest.mark.req("KAS-13")
async def test_a_seed_is_grown_through_the_real_services(plane: ControlPlane, tmp_path: Path) -> None:
    teacher = taught_by(ended_run(tmp_path / "teacher", steps=5), weight=0.0)
    run = new_run(tmp_path / "run", 8000, teacher=teacher)
    worker = start(run, plane)
    await await_until(lambda: dismiss_teacher(plane, run), 30, what="a teacher to let go of")
    assert worker.wait(100) == 0
    ended = status(run)
    changes = [event.teacher for event in events(run) if event.HasField("teacher")]
    assert [change.takes_part for change in changes] == [True, False]
    assert changes[1].reason == "It is not needed." and changes[0].teacher_id == changes[1].teacher_id
    assert ended.state == leyline.RUN_STATE_COMPLETED
    assert stages(run)[:5] == [
        leyline.SEED_STAGE_GERMINATED,
        leyline.SEED_STAGE_TRAINING,
        leyline.SEED_STAGE_BLENDING,
        leyline.SEED_STAGE_SHADOWING,
        leyline.SEED_STAGE_PROBATIONARY,
    ]
    (seed,) = ended.seeds
    assert seed.stage in SETTLED and seed.HasField("contribution")
    if seed.stage == leyline.SEED_STAGE_FOSSILIZED:
        assert ended.result.parameters_final == ended.result.parameters_initial + seed.parameter_count
    kinds = {event.WhichOneof("payload") for event in events(run)}
    assert {"decision", "command", "seed", "gate", "directive", "validation", "checkpoint", "result"} <= kinds


@pytest.mark.chaos
@pytest.mark.parametrize("victim", ["tamiyo", "kasmina", "urza"])
async def test_the_loss_of_a_peer_is_told_and_the_run_completes(
    plane: ControlPlane, tmp_path: Path, victim: str
) -> None:
    run = new_run(tmp_path / "run", 30_000)
    process = start(run, plane)
    wait_until(lambda: leyline.SEED_STAGE_TRAINING in stages(run), 60, what="a seed in TRAINING")
    plane.services[victim].kill()
    if victim != "urza":
        wait_until(lambda: status(run).state == leyline.RUN_STATE_CONSERVATIVE, 30, what="a conservative run")
        plane.services[victim].start()
        wait_until(lambda: status(run).state != leyline.RUN_STATE_CONSERVATIVE, 40, what="the end of it")
        told = [event.control_loss for event in events(run) if event.HasField("control_loss")]
        assert [(loss.peer, loss.lost) for loss in told] == [(victim, True), (victim, False)]
    assert process.wait(110) == 0
    assert status(run).state == leyline.RUN_STATE_COMPLETED


@pytest.mark.chaos
async def test_a_worker_killed_while_it_grows_goes_on_where_it_was(plane: ControlPlane, tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", 20_000)
    process = start(run, plane)
    wait_until(lambda: leyline.SEED_STAGE_SHADOWING in stages(run), 80, what="a seed in SHADOWING")
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    assert start(run, plane).wait(110) == 0
    ended = status(run)
    assert ended.state == leyline.RUN_STATE_COMPLETED and ended.result.resumes == 1
    assert ended.result.steps == 20_000
    assert {seed.stage for seed in ended.seeds} <= SETTLED
