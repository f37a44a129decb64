"""One stack for all end-to-end tests of a worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.local_stack import LocalStack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    local = LocalStack(tmp_path_factory.mktemp("stack"))
    local.up()
    yield local
    local.down()
