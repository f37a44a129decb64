"""The grown model without Esper's services: safetensors, a topology record, and a function that puts them together.

The exported folder holds `model.safetensors` (every parameter and buffer under its stable name) and `topology.json`
(where the bare host comes from, its sites, and the seeds that became part of it).
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from esper_core.blueprints import SiteContract
from esper_core.files import atomic_write_json, ensure_directory
from esper_runtime import stages
from esper_runtime.blueprints.registry import assemble
from esper_runtime.contracts import Site
from esper_runtime.errors import ExportError
from esper_runtime.host import Host
from esper_runtime.rebuild import rebuild
from esper_runtime.tensorfiles import digest_of, save_tensors
from esper_runtime.topology import Topology

FORMAT: Final = "esper-export"
VERSION: Final = 1
WEIGHTS: Final = "model.safetensors"
TOPOLOGY: Final = "topology.json"


def export_model(host: Host, folder: Path, *, factory: str, kwargs: Mapping[str, Any] | None = None) -> None:
    """Write the grown model to a folder.

    Parameters
    ----------
    host : Host
        A host with no unsettled seed.
    folder : Path
        Created where absent; files of a former export are replaced, the record last.
    factory : str
        `module:function` that builds the bare host.
    kwargs : Mapping, optional
        Its keyword arguments, plain JSON data.

    Raises
    ------
    ExportError
        If a seed is neither fossilised nor culled, a kept seed was not built from a blueprint, or the reference is
        malformed.
    StorageError
        If writing fails.
    """
    _check_exportable(host)
    split_reference(factory)
    ensure_directory(folder)
    save_tensors(folder / WEIGHTS, {found.name: found.tensor.detach().clone() for found in _tensors(host)})
    atomic_write_json(folder / TOPOLOGY, _record(host, folder, factory, dict(kwargs or {})))


def load_exported(folder: Path | str, *, factory: Callable[..., nn.Module] | None = None) -> nn.Module:
    """Build the grown model again, in evaluation mode.

    Parameters
    ----------
    folder : Path or str
        An exported folder.
    factory : callable, optional
        Builds the bare host from the recorded keyword arguments; by default the recorded `module:function` is imported,
        so load only folders that you trust as much as the code they name.

    Raises
    ------
    ExportError
        If a file is missing, altered, or does not fit the model that the factory builds.
    """
    folder = Path(folder)
    record = _read_record(folder)
    model = (factory or _import(record["factory"]))(**record["kwargs"])
    sites = [
        Site(row["name"], row["module_path"], row["kind"], SiteContract.from_dict(row["contract"]), row["depth"])
        for row in record["sites"]
    ]
    host = Host(model, sites)
    topology = Topology.from_dict(record["topology"])
    seeds: dict[str, nn.Module] = {
        graft.seed_id: assemble(graft.kernel) for graft in topology.grafts if graft.kernel is not None
    }
    rebuild(host, topology, seeds)
    _load_tensors(host, _read_tensors(folder, record))
    return model.eval()


def split_reference(reference: str) -> tuple[str, str]:
    """Split `module:function`, or raise ExportError."""
    module, colon, function = reference.partition(":")
    if not (module and colon and function):
        raise ExportError(f"The factory {reference!r} must be written as module:function.")
    return module, function


def _check_exportable(host: Host) -> None:
    for record in host.seeds():
        if record.stage != stages.FOSSILIZED:
            raise ExportError(
                f"Seed {record.seed_id} is {stages.stage_name(record.stage)}; fossilise or cull it before exporting."
            )
        if record.kernel is None:
            raise ExportError(
                f"Seed {record.seed_id} was not built from a blueprint and cannot be described in a record."
            )


def _tensors(host: Host) -> list[Any]:
    return [*host.named_parameters(), *host.named_buffers()]


def _record(host: Host, folder: Path, factory: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    sites = [
        {
            "name": site.name,
            "module_path": site.module_path,
            "kind": site.kind,
            "contract": host.contract(site.name).to_dict(),
            "depth": site.depth,
        }
        for site in host.sites
    ]
    return {
        "format": FORMAT,
        "version": VERSION,
        "factory": factory,
        "kwargs": kwargs,
        "sites": sites,
        "topology": host.topology().to_dict(),
        "weights": {"file": WEIGHTS, "sha256": digest_of(folder / WEIGHTS)},
        "parameters": host.parameter_count(),
        "torch_version": torch.__version__,
    }


def _read_record(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / TOPOLOGY).read_bytes())
    except (OSError, ValueError) as error:
        raise ExportError(f"{folder / TOPOLOGY} cannot be read ({error}); is this an exported model?") from error
    if not isinstance(record, dict) or (record.get("format"), record.get("version")) != (FORMAT, VERSION):
        raise ExportError(f"{folder / TOPOLOGY} is no {FORMAT} of version {VERSION}.")
    return record


def _read_tensors(folder: Path, record: Mapping[str, Any]) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    try:
        if digest_of(path) != record["weights"]["sha256"]:
            raise ExportError(f"{path} does not match the digest in {TOPOLOGY}; export the model again.")
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ExportError(f"{path} cannot be read ({error}); export the model again.") from error
    return tensors


def _import(reference: str) -> Callable[..., nn.Module]:
    module, function = split_reference(reference)
    try:
        built: Callable[..., nn.Module] = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ExportError(f"The host's factory {reference} cannot be imported: {error}.") from error
    return built


def _load_tensors(host: Host, tensors: Mapping[str, Tensor]) -> None:
    targets = {found.name: found.tensor for found in _tensors(host)}
    differing = sorted(set(targets) ^ set(tensors))
    if differing:
        raise ExportError(
            f"The factory builds another model than was exported; they differ in {', '.join(differing[:8])}."
        )
    with torch.no_grad():
        for name, target in targets.items():
            if target.shape != tensors[name].shape:
                raise ExportError(f"{name} has shape {tuple(target.shape)}, exported was {tuple(tensors[name].shape)}.")
            target.copy_(tensors[name])
