"""Snapshots on disk: a folder with safetensors and a JSON manifest. No pickle, and never half a snapshot.

A snapshot is written into a temporary folder, made durable, and renamed. Whoever finds a folder under its final name
finds all of it, and its digests prove that.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from esper_core.blueprints import sha256_hex
from esper_core.errors import AlreadyExistsError, EsperError, StorageError
from esper_core.files import ensure_directory, fsync_directory
from esper_runtime.errors import SnapshotIntegrityError
from esper_runtime.optim import OptimizerState
from esper_runtime.snapshot import RandomState, Snapshot
from esper_runtime.tensorfiles import digest_of, save_tensors, sync_file
from esper_runtime.topology import Topology

FORMAT: Final = "esper-snapshot"
VERSION: Final = 1
MANIFEST: Final = "manifest.json"
TENSORS: Final = "tensors.safetensors"


def write_snapshot(snapshot: Snapshot, folder: Path) -> None:
    """Write a snapshot as a new folder, durably and all at once.

    Raises
    ------
    AlreadyExistsError
        If the folder exists.
    StorageError
        If writing fails; DiskFullError when the disk is full. Nothing is left under the final name then.
    """
    if folder.exists():
        raise AlreadyExistsError(f"{folder} exists; a snapshot is never overwritten.")
    ensure_directory(folder.parent)
    for leftover in folder.parent.glob(f".{folder.name}.*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    staging = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        staging.mkdir()
        _write_files(snapshot, staging)
        os.replace(staging, folder)
        fsync_directory(folder.parent)
    except (OSError, EsperError) as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise error if isinstance(error, EsperError) else StorageError.from_os_error(error, folder, "write") from error


def read_snapshot(folder: Path) -> Snapshot:
    """Read a snapshot after its sizes and digests have been proved.

    Raises
    ------
    SnapshotIntegrityError
        If a file is missing, truncated or altered, or of a version that this runtime does not know; `details["reason"]`
        tells which.
    """
    manifest = _read_manifest(folder / MANIFEST)
    _prove(folder / TENSORS, manifest["tensors"])
    try:
        tensors: dict[str, Tensor] = load_file(folder / TENSORS)
    except (SafetensorError, OSError) as error:
        raise _damaged("tensors_format", folder / TENSORS, f"cannot be parsed ({error})") from error
    try:
        return _from_parts(manifest, tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged("manifest_format", folder / MANIFEST, f"lacks or misplaces {error}") from error


def _write_files(snapshot: Snapshot, staging: Path) -> None:
    save_tensors(staging / TENSORS, _flatten(snapshot))
    manifest = _manifest(snapshot)
    manifest["tensors"] = {"size": (staging / TENSORS).stat().st_size, "sha256": digest_of(staging / TENSORS)}
    manifest["digest"] = sha256_hex(_canonical(manifest))
    (staging / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True))
    sync_file(staging / MANIFEST)
    fsync_directory(staging)


def _flatten(snapshot: Snapshot) -> dict[str, Tensor]:
    """Give every tensor of a snapshot a name of its own."""
    flat = {f"parameter/{name}": tensor for name, tensor in snapshot.parameters.items()}
    flat |= {f"buffer/{name}": tensor for name, tensor in snapshot.buffers.items()}
    if snapshot.optimizer is not None:
        for name, state in snapshot.optimizer.tensors.items():
            flat |= {f"optimizer/{key}/{name}": tensor for key, tensor in state.items()}
    flat["random/torch_cpu"] = snapshot.random.torch_cpu
    flat |= {f"random/torch_cuda/{index:04d}": state for index, state in enumerate(snapshot.random.torch_cuda)}
    flat |= {f"random/generator/{label}": state for label, state in snapshot.random.generators.items()}
    return flat


def _manifest(snapshot: Snapshot) -> dict[str, Any]:
    optimizer = snapshot.optimizer
    return {
        "format": FORMAT,
        "version": VERSION,
        "torch_version": torch.__version__,
        "step": snapshot.step,
        "topology": snapshot.topology.to_dict(),
        "optimizer": None if optimizer is None else _pack_optimizer(optimizer),
        "random": {"python": _pack(snapshot.random.python), "numpy": _pack(snapshot.random.numpy)},
        "scheduler": _pack(snapshot.scheduler),
        "cursor": _pack(snapshot.cursor),
    }


def _pack_optimizer(optimizer: OptimizerState) -> dict[str, Any]:
    groups = [{"names": list(names), "options": _pack(options)} for names, options in optimizer.groups]
    return {"groups": groups, "scalars": _pack(optimizer.scalars)}


def _from_parts(manifest: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Snapshot:
    return Snapshot(
        step=manifest["step"],
        topology=Topology.from_dict(manifest["topology"]),
        parameters=_under(tensors, "parameter/"),
        buffers=_under(tensors, "buffer/"),
        optimizer=_unpack_optimizer(manifest["optimizer"], _under(tensors, "optimizer/")),
        random=RandomState(
            torch_cpu=tensors["random/torch_cpu"],
            torch_cuda=tuple(state for _, state in sorted(_under(tensors, "random/torch_cuda/").items())),
            python=_unpack(manifest["random"]["python"]),
            numpy=_unpack(manifest["random"]["numpy"]),
            generators=_under(tensors, "random/generator/"),
        ),
        scheduler=_unpack(manifest["scheduler"]),
        cursor=_unpack(manifest["cursor"]),
    )


def _unpack_optimizer(packed: Mapping[str, Any] | None, flat: Mapping[str, Tensor]) -> OptimizerState | None:
    if packed is None:
        return None
    scalars = _unpack(packed["scalars"])
    tensors: dict[str, dict[str, Tensor]] = {name: {} for name in scalars}
    for joined, tensor in flat.items():
        key, _, name = joined.partition("/")
        tensors.setdefault(name, {})[key] = tensor
    groups = tuple((tuple(group["names"]), _unpack(group["options"])) for group in packed["groups"])
    return OptimizerState(groups, tensors, scalars)


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _pack(value: Any) -> Any:
    """Turn plain data into JSON that remembers its tuples, so that an optimizer's betas come back as they were."""
    if isinstance(value, tuple):
        return {"tuple": [_pack(item) for item in value]}
    if isinstance(value, Mapping):
        return {"map": {str(key): _pack(item) for key, item in value.items()}}
    if isinstance(value, list):
        return [_pack(item) for item in value]
    return value


def _unpack(value: Any) -> Any:
    if isinstance(value, list):
        return [_unpack(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "tuple" in value:
        return tuple(_unpack(item) for item in value["tuple"])
    return {key: _unpack(item) for key, item in value["map"].items()}


def _canonical(manifest: Mapping[str, Any]) -> bytes:
    return json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_bytes())
    except OSError as error:
        raise _damaged("manifest_missing", path, f"cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise _damaged("manifest_truncated", path, "is not whole JSON") from error
    if not isinstance(manifest, dict) or (manifest.get("format"), manifest.get("version")) != (FORMAT, VERSION):
        raise _damaged("version", path, f"is no {FORMAT} of version {VERSION}")
    digest = manifest.pop("digest", None)
    if digest != sha256_hex(_canonical(manifest)):
        raise _damaged("manifest_digest", path, "does not match its own digest")
    return manifest


def _prove(path: Path, facts: Mapping[str, Any]) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise _damaged("tensors_missing", path, f"cannot be read ({error.strerror})") from error
    if size != facts["size"]:
        raise _damaged("tensors_truncated", path, f"has {size} bytes instead of {facts['size']}")
    if digest_of(path) != facts["sha256"]:
        raise _damaged("tensors_digest", path, "does not match its digest")


def _damaged(reason: str, path: Path, what: str) -> SnapshotIntegrityError:
    return SnapshotIntegrityError(
        f"The checkpoint file {path} {what}; use the one before it.", details={"reason": reason, "path": str(path)}
    )
