"""The tools that the tests themselves rely on."""

from __future__ import annotations

import pytest

from support.ports import free_ports
from support.valkey import ValkeyProcess
from support.waiting import DeadlineMissedError, await_until, wait_until


def test_waiting_returns_the_first_true_answer() -> None:
    answers = iter([0, None, 7])
    assert wait_until(lambda: next(answers), 1.0) == 7


def test_a_missed_deadline_names_the_condition_and_the_last_answer() -> None:
    with pytest.raises(DeadlineMissedError, match=r"the queue drained did not hold .* last answer: 0"):
        wait_until(lambda: 0, 0.02, what="the queue drained")


async def test_awaiting_takes_plain_and_coroutine_functions() -> None:
    async def ready() -> str:
        return "ready"

    assert await await_until(ready, 1.0) == "ready"
    assert await await_until(lambda: 3, 1.0) == 3


def test_free_ports_differ() -> None:
    assert len(set(free_ports(8))) == 8


def test_valkey_survives_a_kill_on_the_same_port(valkey: ValkeyProcess) -> None:
    port = valkey.port
    valkey.kill()
    assert not valkey.answers()
    valkey.start()
    assert valkey.answers()
    assert valkey.url == f"redis://127.0.0.1:{port}/0"
