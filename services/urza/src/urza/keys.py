"""What makes two kernels the same one."""

from __future__ import annotations

import hashlib

from esper_core import leyline
from esper_core.pb.esper.urza.v1 import urza_pb2


def key_of(kernel: leyline.KernelDescriptor) -> urza_pb2.KernelKey:
    """Return the key under which a kernel can be asked for."""
    return urza_pb2.KernelKey(blueprint_id=kernel.blueprint_id, parameters=kernel.parameters, contract=kernel.contract)


def key_digest(key: urza_pb2.KernelKey) -> str:
    """Return the SHA-256 of a key, whatever the order of its parameters."""
    canonical = urza_pb2.KernelKey(
        blueprint_id=key.blueprint_id,
        parameters=sorted(key.parameters, key=lambda parameter: parameter.name),
        contract=key.contract,
    )
    return hashlib.sha256(canonical.SerializeToString(deterministic=True)).hexdigest()
