"""Locks by key: one at a time for a key, nobody waits for another key, nothing is left over."""

from __future__ import annotations

import asyncio

import pytest

from esper_core.keyed_locks import KeyedLocks


@pytest.mark.req("KAS-22")
async def test_one_at_a_time_for_a_key_and_others_go_past() -> None:
    waited: list[float] = []
    locks = KeyedLocks(waited.append)
    order: list[str] = []
    first_in, let_go = asyncio.Event(), asyncio.Event()

    async def first() -> None:
        async with locks.hold("a"):
            first_in.set()
            await let_go.wait()
            order.append("first")

    async def later(key: str) -> None:
        await first_in.wait()
        async with locks.hold(key):
            order.append(key)

    tasks = [asyncio.create_task(work) for work in (first(), later("a"), later("b"))]
    await tasks[2]
    assert order == ["b"]
    let_go.set()
    await asyncio.gather(*tasks)
    assert order == ["b", "first", "a"]
    assert len(waited) == 3 and len(locks) == 0


async def test_one_who_gives_up_waiting_leaves_nothing_behind() -> None:
    locks = KeyedLocks()
    async with locks.hold("a"):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(locks.hold("a").__aenter__(), 0.01)
        assert len(locks) == 1
    assert len(locks) == 0
