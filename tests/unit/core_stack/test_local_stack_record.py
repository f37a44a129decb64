"""The record of a stack finds living processes, never mistakes one for another, and keeps its ports."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from esper_core.errors import IntegrityError, NotFoundError
from esper_core.stack import (
    STACK_VARIABLE,
    ProcessIdentity,
    StackPaths,
    StackRecord,
    members,
    service_environment,
    with_ports,
)
from support.waiting import wait_until


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    program = "import sys; sys.stdin.read()"
    environment = {**os.environ, STACK_VARIABLE: "test-stack"}
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, env=environment)
    yield process
    process.kill()
    process.wait()
    assert process.stdin
    process.stdin.close()


def test_a_process_is_alive_until_it_is_dead_even_as_a_zombie(sleeper: subprocess.Popen[bytes]) -> None:
    identity = ProcessIdentity.of(sleeper.pid)
    assert identity is not None
    assert identity.is_alive()
    sleeper.kill()
    wait_until(lambda: not identity.is_alive(), 5, what="the zombie counting as dead")


def test_a_recycled_process_id_is_another_process(sleeper: subprocess.Popen[bytes]) -> None:
    identity = ProcessIdentity.of(sleeper.pid)
    assert identity is not None
    assert not replace(identity, started_ticks=identity.started_ticks - 1).is_alive()


def test_whoever_was_started_for_a_stack_is_found(sleeper: subprocess.Popen[bytes]) -> None:
    wait_until(lambda: sleeper.pid in {process.pid for process in members("test-stack")}, 5, what="the member")
    assert not members("another-stack")


def test_ports_stay_and_only_a_taken_one_is_chosen_anew() -> None:
    first = with_ports(StackRecord("stack", "now"))
    assert with_ports(first) == first
    host, _, port = first.address("oona").rpartition(":")
    with socket.socket() as taken:
        taken.bind((host, int(port)))
        taken.listen()
        second = with_ports(first)
    changed = {name for name in first.services if first.services[name] != second.services[name]}
    assert changed == {"oona"}


def test_all_addresses_differ() -> None:
    record = with_ports(StackRecord("stack", "now"))
    addresses = [service.address for service in record.services.values()]
    addresses += [service.metrics_address for service in record.services.values() if service.metrics_address]
    assert len(set(addresses)) == len(addresses) == 19


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    record = with_ports(StackRecord("stack", "now"))
    record.save(tmp_path / "stack.json")
    assert StackRecord.load(tmp_path / "stack.json") == record


def test_a_missing_or_broken_record_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="esper up"):
        StackRecord.load(tmp_path / "stack.json")
    (tmp_path / "stack.json").write_text('{"services": [{"name": 1}]}')
    with pytest.raises(IntegrityError, match="no stack record"):
        StackRecord.load(tmp_path / "stack.json")


def test_a_service_knows_its_own_address_its_peers_and_the_keys(tmp_path: Path) -> None:
    paths, record = StackPaths(tmp_path), with_ports(StackRecord("stack", "now"))
    environment = service_environment("oona", record, paths, {"PATH": "/bin", "OMP_NUM_THREADS": "4"})
    assert environment["OONA_LISTEN"] == record.address("oona")
    assert environment["OONA_REDIS_URL"] == f"redis://{record.address('valkey')}/0"
    assert environment["ESPER_URZA_ADDRESS"] == record.address("urza")
    assert environment["ESPER_KEYRING_FILE"] == str(tmp_path / "secrets" / "keyring.json")
    assert environment["OMP_NUM_THREADS"] == "4"
    assert environment[STACK_VARIABLE] == "stack"
    assert "ESPER_BRIDGE_DIR" not in environment
    both = [service_environment(name, record, paths, {})["ESPER_BRIDGE_DIR"] for name in ("tolaria", "weatherlight")]
    assert both == [str(tmp_path / "bridge")] * 2


def test_keys_are_made_once_and_for_our_eyes_only(tmp_path: Path) -> None:
    paths = StackPaths(tmp_path / "state")
    first, again = paths.prepare(), paths.prepare()
    assert first.key_ids == again.key_ids
    assert paths.keyring.stat().st_mode & 0o077 == 0
