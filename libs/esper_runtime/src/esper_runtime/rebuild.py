"""Turn one topology into another: take grafts out, put grafts in, leave alone what is already right."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from esper_runtime.host import Host
from esper_runtime.topology import Topology


def rebuild(host: Host, topology: Topology, seeds: Mapping[str, nn.Module]) -> None:
    """Attach and detach until the host has a topology.

    Parameters
    ----------
    host : Host
        The host.
    topology : Topology
        What it shall be.
    seeds : Mapping[str, nn.Module]
        The module of every seed in it. A module that is already attached under its id keeps its parameters.

    Raises
    ------
    UnknownSiteError
        If the topology names a site that the host does not declare; the host is untouched then.
    """
    for record in topology.grafts:
        host.site(record.site)
    present = host.topology()
    sites = dict.fromkeys(record.site for record in (*present.grafts, *topology.grafts))
    changed = [site for site in sites if not _same_chain(host, site, topology, seeds)]
    host.replace_grafts(topology, seeds, changed)


def _same_chain(host: Host, site: str, topology: Topology, seeds: Mapping[str, nn.Module]) -> bool:
    present, wanted = host.topology().chain(site), topology.chain(site)
    return [record.seed_id for record in present] == [record.seed_id for record in wanted] and all(
        host.graft(record.seed_id).seed is seeds[record.seed_id] and host.stands(record.seed_id) for record in wanted
    )
