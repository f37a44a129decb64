"""The bounded cache: never over its weight, exact under threads, and honest about the last minutes."""

from __future__ import annotations

from threading import Thread

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_core.bounded_cache import BoundedCache
from esper_core.clocks import ManualClock


@pytest.mark.req("KAS-22")
def test_what_was_used_longest_ago_goes_first() -> None:
    cache: BoundedCache[str, bytes] = BoundedCache(6, weigh=len)
    assert cache.put("a", b"xx") == cache.put("b", b"xx") == cache.put("c", b"xx") == 0
    assert cache.get("a") == b"xx"
    assert cache.put("d", b"xxxx") == 2
    assert [cache.peek(name) for name in "abcd"] == [b"xx", None, None, b"xxxx"]
    assert cache.put("e", b"x" * 50) == 2, "what alone is too heavy still stays until the next comes"
    assert cache.drop(lambda key, _: key == "e") == 1 and len(cache) == 0
    assert cache.stats().weight == 0


@pytest.mark.req("KAS-10")
def test_the_statistics_forget_what_has_left_their_window() -> None:
    clock = ManualClock()
    cache: BoundedCache[str, int] = BoundedCache(1, window_s=60.0, clock=clock)
    assert cache.stats().hit_rate is None
    cache.put("a", 1)
    cache.get("a")
    clock.advance(30)
    cache.get("b")
    cache.put("b", 2)
    assert (cache.stats().hits, cache.stats().misses, cache.stats().evictions) == (1, 1, 1)
    assert cache.stats().hit_rate == 0.5
    clock.advance(31)
    assert cache.stats().hit_rate == 0.0
    clock.advance(60)
    assert cache.stats().hit_rate is None
    assert cache.stats().size == 1, "the entries stay"


@pytest.mark.req("KAS-9")
def test_no_count_is_lost_between_threads_and_the_bound_always_holds() -> None:
    cache: BoundedCache[int, int] = BoundedCache(16, clock=ManualClock())

    def work(offset: int) -> None:
        for number in range(500):
            if cache.get((number * 7 + offset) % 40) is None:
                cache.put((number * 7 + offset) % 40, number)
            assert len(cache) <= 16

    threads = [Thread(target=work, args=(offset,)) for offset in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = cache.stats()
    assert stats.hits + stats.misses == 2000
    assert stats.size == stats.weight <= 16


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 9)), max_size=30), st.integers(1, 20))
def test_the_weight_is_that_of_the_entries_and_within_the_bound(puts: list[tuple[str, int]], limit: int) -> None:
    cache: BoundedCache[str, int] = BoundedCache(limit, weigh=lambda value: value, clock=ManualClock())
    for key, weight in puts:
        cache.put(key, weight)
        kept = [cache.peek(name) or 0 for name in "abcdef"]
        assert cache.stats().weight == sum(kept)
        assert sum(kept) <= limit or len(cache) == 1
        assert cache.peek(key) == weight
