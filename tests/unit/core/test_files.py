"""A file is the old or the new one; a lock names its holder and dies with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from esper_core.errors import IntegrityError, StateFolderInUseError, StorageError
from esper_core.files import FileLock, atomic_write_bytes, atomic_write_json, ensure_directory, read_json
from support.waiting import wait_until


def test_json_round_trip_with_mode(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    atomic_write_json(path, {"b": [1, 2], "a": None}, mode=0o600)
    assert read_json(path) == {"b": [1, 2], "a": None}
    assert path.stat().st_mode & 0o777 == 0o600
    assert [item.name for item in tmp_path.iterdir()] == ["a.json"]


def test_a_failed_write_leaves_the_old_content(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    (target / "keep").write_text("kept")
    with pytest.raises(StorageError, match="Cannot write"):
        atomic_write_bytes(target, b"new")
    assert (target / "keep").read_text() == "kept"
    assert [item.name for item in tmp_path.iterdir()] == ["folder"]


def test_bad_files_are_told(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(IntegrityError, match="does not hold JSON"):
        read_json(tmp_path / "bad.json")
    with pytest.raises(StorageError, match="Cannot read"):
        read_json(tmp_path / "none.json")
    with pytest.raises(StorageError, match="Cannot create the folder"):
        ensure_directory(tmp_path / "bad.json" / "below")


def test_a_lock_names_its_holder(tmp_path: Path) -> None:
    with FileLock(tmp_path / "stack.lock"):
        with pytest.raises(StateFolderInUseError, match=f"in use by process {os.getpid()}") as caught:
            FileLock(tmp_path / "stack.lock").acquire()
        assert caught.value.details["pid"] == str(os.getpid())
    with FileLock(tmp_path / "stack.lock"):
        pass


def test_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "stack.lock"
    code = (
        "import sys, pathlib\nfrom esper_core.files import FileLock\n"
        "FileLock(pathlib.Path(sys.argv[1])).acquire()\nprint('held', flush=True)\nsys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(StateFolderInUseError, match=str(holder.pid)):
            FileLock(path).acquire()
    finally:
        holder.kill()
        holder.communicate()
    wait_until(lambda: holder.poll() is not None, 10)
    with FileLock(path):
        assert path.read_text().strip() == str(os.getpid())
