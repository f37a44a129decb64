"""Without its extra, an integration says what to install."""

from __future__ import annotations

import importlib
import sys

import pytest

from esper_core.errors import DependencyViolationError


@pytest.mark.parametrize(("extra", "needed"), [("lightning", "lightning.pytorch"), ("transformers", "transformers")])
def test_an_absent_extra_is_named(extra: str, needed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = f"esper_runtime.integrations.{extra}"
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, needed.partition(".")[0], None)
    monkeypatch.setitem(sys.modules, needed, None)
    with pytest.raises(DependencyViolationError, match=r"pip install 'esper-runtime\[" + extra) as caught:
        importlib.import_module(module)
    assert caught.value.dependency == extra
