"""The reference of all blueprints, as `tools/generate_docs.py` writes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from esper_core.blueprints.bounds import ChoiceBound, IntegerBound, ParameterBound, RealBound
from esper_core.blueprints.catalogue import Blueprint, load_catalogue
from esper_core.blueprints.contract import SITE_KINDS

_HEAD: Final = """# Blueprints

What may be grown, and where. Each kind that is offered starts without any effect on its host, keeps the shape of its
site, and tells its parameters and FLOPs before it is built. A run uses those that it names; without names it uses every
SAFE one that fits.
This page is generated from the catalogue in `esper_core/blueprints/catalogue.json`.
"""
_TIERS: Final = {
    "SAFE": "Free to use.",
    "EXPERIMENTAL": "To be approved by a person first.",
    "HIGH_RISK": "Fixtures, bad on purpose: for the assessor and for drills, never offered to a run.",
}


def render() -> str:
    """Return the page as Markdown: which kinds fit which sites, then one section per tier."""
    offered = [blueprint for blueprint in load_catalogue() if not blueprint.quarantine_only]
    tiers = [_tier(name, text) for name, text in _TIERS.items()]
    return "".join([_HEAD, _fits(offered), *tiers])


def _fits(offered: Sequence[Blueprint]) -> str:
    lines = [f"\n| blueprint | {' | '.join(SITE_KINDS)} |", "|---|" + "---|" * len(SITE_KINDS)]
    for one in offered:
        marks = " | ".join("yes" if kind in one.site_kinds else "" for kind in SITE_KINDS)
        lines.append(f"| [{one.blueprint_id}](#{one.blueprint_id.replace('.', '')}) | {marks} |")
    return "\n".join(lines) + "\n"


def _tier(tier: str, text: str) -> str:
    sections = [_section(blueprint) for blueprint in load_catalogue() if blueprint.tier == tier]
    return f"\n## {tier}\n\n{text}\n{''.join(sections)}"


def _section(blueprint: Blueprint) -> str:
    facts = f"Risk before assessment: {blueprint.risk:g}. Sites: {', '.join(blueprint.site_kinds)}."
    facts += " The site must offer its inputs." if blueprint.reads_input else ""
    lines = [f"\n### {blueprint.blueprint_id}\n", f"{blueprint.name}. {blueprint.description} {facts}"]
    if blueprint.parameters:
        lines += ["", "| parameter | allowed | default | meaning |", "|---|---|---|---|"]
        lines += [_row(bound) for bound in blueprint.parameters]
    return "\n".join(lines) + "\n"


def _row(bound: ParameterBound) -> str:
    return f"| `{bound.name}` | {allowed(bound)} | {bound.default} | {bound.description} |"


def allowed(bound: ParameterBound) -> str:
    """Return what a parameter may be, in words."""
    if isinstance(bound, ChoiceBound):
        return ", ".join(bound.allowed)
    if isinstance(bound, RealBound):
        return f"{bound.minimum:g} to {bound.maximum:g}"
    assert isinstance(bound, IntegerBound)
    words = f"{bound.minimum} to {bound.maximum}"
    words += f" in steps of {bound.step}" if bound.step > 1 else ""
    words += ", a divisor of the channels" if bound.divides_channels else ""
    return words + (f", at most `{bound.at_most}`" if bound.at_most else "")
