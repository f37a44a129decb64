"""A whole service as a process: start-up frame, exit statuses, the health probe, SIGTERM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from esper_core.security.keyring import Keyring
from support.ports import accepts_connections, free_address
from support.waiting import wait_until

TESTS = Path(__file__).parents[2]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    keyring = tmp_path / "keyring.json"
    Keyring.generate().save(keyring)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("ESPER_", "ECHO_"))}
    return clean | {
        "PYTHONPATH": str(TESTS),
        "ESPER_KEYRING_FILE": str(keyring),
        "ECHO_LISTEN": free_address(),
        "ECHO_METRICS_LISTEN": free_address(),
        "ECHO_DATA_DIR": str(tmp_path),
    }


@pytest.fixture
def service(environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "support.rpc_service"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        port = int(environment["ECHO_LISTEN"].rpartition(":")[2])
        wait_until(lambda: process.poll() is not None or accepts_connections(port), 20, what="the service listening")
        yield process
        if process.poll() is None:
            process.kill()


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)


def test_help_lists_the_settings_with_their_variables(environment: dict[str, str]) -> None:
    bare = {name: value for name, value in environment.items() if not name.startswith(("ECHO_", "ESPER_"))}
    told = run(bare, "support.rpc_service", "--help")
    assert told.returncode == 0
    for expected in ("ECHO_LISTEN  (required)", "ECHO_ANSWER_TIMEOUT_MS  (default 100)", "ESPER_KEYRING_FILE",
                     "Time for an answer, in milliseconds.", "ESPER_TLS_CA_FILE  (optional)"):  # fmt: skip
        assert expected in told.stdout


def test_a_missing_setting_is_one_sentence_and_78(environment: dict[str, str]) -> None:
    del environment["ECHO_LISTEN"]
    ended = run(environment, "support.rpc_service")
    assert ended.returncode == 78
    assert ended.stderr.startswith("ECHO_LISTEN is not set.")
    assert len(ended.stderr.splitlines()) == 1


def test_half_of_tls_is_refused(environment: dict[str, str]) -> None:
    ended = run(environment | {"ESPER_TLS_CERT_FILE": "cert.pem"}, "support.rpc_service")
    assert ended.returncode == 78
    assert "Set all three, or none." in ended.stderr


def test_an_unexpected_error_is_logged_and_70(environment: dict[str, str]) -> None:
    ended = run(environment | {"ECHO_CRASH": "true"}, "support.rpc_service")
    assert ended.returncode == 70
    assert "KeyError" in ended.stderr


def test_serve_probe_and_drain(service: subprocess.Popen[str], environment: dict[str, str]) -> None:
    address = environment["ECHO_LISTEN"]
    assert wait_until(lambda: run(environment, "esper_core.rpc.probe", address).returncode == 0, 20)
    assert run(environment, "esper_core.rpc.probe", address, "esper.test.v1.Echo").stdout.strip() == "SERVING"
    assert run(environment, "esper_core.rpc.probe", address, "esper.test.v1.Nobody").returncode == 66
    assert run(environment, "support.rpc_service").returncode == 73
    service.send_signal(signal.SIGTERM)
    _, log = service.communicate(timeout=20)
    assert service.returncode == 0
    assert '"event": "settings"' in log
    assert '"event": "stopped"' in log
    gone = run(environment, "esper_core.rpc.probe", address)
    assert gone.returncode == 69
    assert address in gone.stderr
