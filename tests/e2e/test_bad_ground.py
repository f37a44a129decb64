"""A stack on bad ground: a folder in use, leftovers of a crash, a port that somebody took, a full disk."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from esper_cli.stack_control import keeper_of
from esper_core.errors import DiskFullError, StateFolderInUseError, to_exit_code
from esper_core.settings import split_host_port
from esper_core.stack import StackRecord, members
from support.local_stack import LocalStack
from support.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.fixture
def own_stack(tmp_path: Path) -> Iterator[LocalStack]:
    local = LocalStack(tmp_path / "state")
    yield local
    local.down()


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small disk needs rights that this user has not")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def end_as_a_power_cut_would(stack: LocalStack) -> None:
    """Kill everything of a stack at once; the keeper first, so that nobody repairs anything."""
    keeper = keeper_of(stack.paths)
    assert keeper is not None
    keeper.send(signal.SIGKILL)
    stack_id = stack.client.record.stack_id

    def dead() -> bool:
        left = members(stack_id)
        for process in left:
            process.send(signal.SIGKILL)
        return not left

    wait_until(dead, 10, what="everything dead")


@contextlib.contextmanager
def taken(address: str) -> Iterator[None]:
    """Listen on an address that a killed process has just left."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

        def bound() -> bool:
            with contextlib.suppress(OSError):
                listener.bind(split_host_port(address))
                return True
            return False

        wait_until(bound, 10, what="the freed port")
        listener.listen()
        yield


def test_a_crash_and_a_taken_port_do_not_keep_a_stack_down(own_stack: LocalStack) -> None:
    own_stack.up()
    again = own_stack.esper("up", "--detach")
    assert again.returncode == to_exit_code(StateFolderInUseError(""))
    assert "in use" in again.stderr and "Traceback" not in again.stderr
    before = StackRecord.load(own_stack.paths.record)
    assert set(before.living().values()) <= set(members(before.stack_id))

    end_as_a_power_cut_would(own_stack)
    assert own_stack.paths.keeper.exists(), "the pid file of a dead keeper must lie there for this test"
    with taken(before.address("oona")):
        own_stack.up()
        assert own_stack.client.record.address("oona") != before.address("oona")
        assert own_stack.client.record.address("urza") == before.address("urza")
        assert own_stack.healthy()


def test_a_full_disk_is_told_in_a_sentence(tiny_disk: Path) -> None:
    with (tiny_disk / "ballast").open("wb") as ballast, contextlib.suppress(OSError):
        ballast.write(os.urandom(64 * 1024))
    done = LocalStack(tiny_disk / "state").esper("up", "--detach", "--timeout", "20")
    assert done.returncode == to_exit_code(DiskFullError("")), done.stderr
    assert "disk is full" in done.stderr and "Traceback" not in done.stderr
