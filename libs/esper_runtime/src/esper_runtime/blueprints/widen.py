"""New hidden units beside a submodule: a narrow layer becomes wider instead of deeper."""

from __future__ import annotations

from esper_core.blueprints import SiteContract
from esper_runtime.blueprints.mlp import TwoLayers
from esper_runtime.blueprints.operator import OperatorKind, Parameters, hidden_width


class Widen(TwoLayers):
    """Two layers that read what their site's submodule receives.

    Beside a layer and its readout these are the units that the layer lacks: they see what it sees, and what they find
    does not have to pass through its width.
    """

    wants_input = True


def _assemble(parameters: Parameters, contract: SiteContract) -> Widen:
    hidden = hidden_width(parameters, contract)
    return Widen(contract.inputs, contract.channels, hidden, str(parameters["activation"]))


def _parameter_count(parameters: Parameters, contract: SiteContract) -> int:
    hidden = hidden_width(parameters, contract)
    return hidden * (contract.inputs + 1) + (hidden + 1) * contract.channels


def _flops(parameters: Parameters, contract: SiteContract) -> int:
    return 2 * hidden_width(parameters, contract) * (contract.inputs + contract.channels) * contract.positions


KIND = OperatorKind("widen", _assemble, _parameter_count, _flops)
