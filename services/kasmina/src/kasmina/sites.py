"""A place where a host may grow."""

from __future__ import annotations

from dataclasses import dataclass

from esper_core.blueprints import SiteContract


@dataclass(frozen=True, slots=True)
class Site:
    """A site as its runtime declares it.

    Attributes
    ----------
    name : str
        Unique in its host.
    module_path : str
        Dotted path of the submodule whose output is the site.
    contract : SiteContract
        Shape at the site.
    depth : int
        Position from the input, 0 first.
    """

    name: str
    module_path: str
    contract: SiteContract
    depth: int
