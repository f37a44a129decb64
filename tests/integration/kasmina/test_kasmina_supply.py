"""Kernels for those who want one now: found in a real Urza, asked for over the bus, waited for within bounds."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from esper_core import leyline
from esper_core.rpc import EsperChannel
from kasmina.kernels import Kernel, KernelProblem
from support.kasmina_stream import kernel_of, put_kernel
from support.kasmina_supply import RUN, Store, key, ready


def dangerous(request: leyline.KernelPrefetchRequest) -> tuple[int, leyline.KernelReady]:
    kind, answer = ready(request)
    answer.handling_class = leyline.HANDLING_CLASS_QUARANTINE
    return kind, answer


def restricted(request: leyline.KernelPrefetchRequest) -> tuple[int, leyline.KernelReady]:
    kind, answer = ready(request)
    answer.handling_class = leyline.HANDLING_CLASS_RESTRICTED
    return kind, answer


def impossible(request: leyline.KernelPrefetchRequest) -> tuple[int, leyline.KernelError]:
    answer = leyline.KernelError(
        version=1,
        request_id=request.request_id,
        training_run_id=request.training_run_id,
        blueprint_id=request.blueprint_id,
        error_code="ESP-1003",
        message="The rank is larger than the site.",
    )
    return leyline.BUS_MESSAGE_TYPE_KERNEL_ERROR, answer


async def test_a_kernel_that_lies_in_urza_is_found_without_asking_anybody(store: Store, library: EsperChannel) -> None:
    stored = await put_kernel(library, "mlp_residual.v1")
    found = await store.supply.obtain(RUN, key("mlp_residual.v1"), 5.0)
    assert isinstance(found, Kernel)
    assert found.weights_digest == stored.weights_digest
    assert store.metric("kasmina_prefetch_requests_total", status="requested") == 0
    again = await store.supply.obtain(RUN, key("mlp_residual.v1"), 5.0)
    assert again == found
    assert store.metric("kasmina_cache_hits_total") == 1


async def test_a_kernel_is_asked_for_over_the_bus_and_its_news_end_the_waiting(store: Store) -> None:
    store.answer_with(ready, ready)
    found = await store.supply.obtain(RUN, key("low_rank_linear.v1"), 10.0)
    assert isinstance(found, Kernel)
    assert store.asked[0].training_run_id == RUN
    assert store.metric("kasmina_prefetch_requests_total", status="ready") == 1, "the repetition changes nothing"
    assert store.metric("kasmina_prefetch_inflight") == 0
    assert store.metric("kasmina_prefetch_latency_ms_count") == 1


@pytest.mark.parametrize(("answer", "code"), [(impossible, "ESP-1003"), (dangerous, "ESP-1008")])
async def test_a_kernel_that_cannot_be_made_is_a_typed_problem(store: Store, answer: Any, code: str) -> None:
    store.answer_with(answer)
    found = await store.supply.obtain(RUN, key("norm.v1"), 10.0)
    assert isinstance(found, KernelProblem)
    assert found.code == code and not found.retryable


async def test_without_an_answer_the_waiting_ends_at_its_bound(store: Store) -> None:
    found = await store.supply.obtain(RUN, key("gated_mlp.v1"), 0.7)
    assert isinstance(found, KernelProblem)
    assert found.code == "ESP-1020" and found.retryable


async def test_without_bus_and_kernel_the_problem_names_the_bus(store: Store) -> None:
    store.bus.broker.go_away()
    problem = asyncio.create_task(store.supply.obtain(RUN, key("gated_mlp.v1"), 0.5))
    found = await problem
    assert isinstance(found, KernelProblem)
    assert found.code == "ESP-1018"
    assert store.metric("kasmina_prefetch_inflight") == 0


@pytest.mark.req("KAS-22")
async def test_two_who_want_one_kernel_ask_once_and_the_second_waits_for_the_lock(store: Store) -> None:
    wanted = key("low_rank_linear.v1")
    await asyncio.gather(*(store.supply.prefetch(RUN, wanted) for _ in range(4)))
    assert store.metric("kasmina_prefetch_requests_total", status="requested") == 1
    assert store.metric("kasmina_cache_lock_wait_ms_count") == 4


@pytest.mark.req("KAS-22")
async def test_a_restricted_kernel_is_told_and_stays_restricted_whoever_tells_of_it(store: Store) -> None:
    store.answer_with(restricted)
    found = await store.supply.obtain(RUN, key("low_rank_linear.v1"), 10.0)
    assert isinstance(found, Kernel) and found.restricted
    assert "kernel_restricted" in store.heard.events
    store.supply.take(kernel_of("low_rank_linear.v1", b"weights"))
    again = await store.supply.obtain(RUN, key("low_rank_linear.v1"), 10.0)
    assert isinstance(again, Kernel) and again.restricted
