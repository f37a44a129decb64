"""What each case is to reach, and whether it does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.growth.statistics import difference, regret, values

ACCURACY_CASES: Final = ("letter cold", "mnist1d cold", "mnist1d warm, 30 % extra")


@dataclass(frozen=True, slots=True)
class Goal:
    """One promise; `found` is None where it was not measured."""

    case: str
    sentence: str
    found: str = "not measured"
    met: bool | None = None

    @property
    def verdict(self) -> str:
        """Return the verdict as a word."""
        return {True: "met", False: "missed", None: "not measured"}[self.met]


def goals(cases: Mapping[str, Mapping[str, Any]]) -> list[Goal]:
    """Judge every promise on what was measured."""
    return [*_letter(cases), *_warm(cases), *_mnist1d(cases), *_kjv(cases), *_toxic(cases), _regret(cases)]


def _better(cases: Mapping[str, Mapping[str, Any]], name: str, other: str, least: float, unit: str = "points") -> Goal:
    sentence = f"controller at least {other} {least:+g} {unit}"
    if name not in cases:
        return Goal(name, sentence)
    found = difference(cases[name], "controller", other)
    return Goal(name, sentence, f"{found.told(3 if unit != 'points' else 2, sign=True)} {unit}", found.mean >= least)


def _letter(cases: Mapping[str, Mapping[str, Any]]) -> Iterator[Goal]:
    name = "letter cold"
    yield _better(cases, name, "big", -0.3)
    yield _better(cases, name, "small", 0.8)
    sentence = "worst rise of the validation loss after a graft at most 5 %"
    if name not in cases:
        yield Goal(name, sentence)
        return
    shocks = values(cases[name], "controller", "shock")
    if not shocks:
        yield Goal(name, sentence, "no graft with validation passes around it")
        return
    usual = max(values(cases[name], "small", "shock"), default=0.0)
    told = f"{100 * max(shocks):.1f} %; static small at the same measure {100 * usual:.1f} %"
    yield Goal(name, sentence, told, max(shocks) <= 0.05)


def _warm(cases: Mapping[str, Mapping[str, Any]]) -> Iterator[Goal]:
    yield _better(cases, "mnist1d warm, 30 % extra", "restart-big", 0.5)
    yield _better(cases, "mnist1d warm, 30 % extra", "train-on", -0.2)
    yield _better(cases, "mnist1d warm, 10 % extra", "restart-big", 6.0)


def _mnist1d(cases: Mapping[str, Mapping[str, Any]]) -> Iterator[Goal]:
    yield _better(cases, "mnist1d cold", "big", -0.65)


def _kjv(cases: Mapping[str, Mapping[str, Any]]) -> Iterator[Goal]:
    yield _better(cases, "kjv cold", "small", -0.02, "bits per character")


def _toxic(cases: Mapping[str, Mapping[str, Any]]) -> Iterator[Goal]:
    name = "letter toxic"
    within, exact = "every seed within 0.3 points of never grown", "state after the rollback bit for bit as before"
    if name not in cases:
        yield Goal(name, within)
        yield Goal(name, exact)
        return
    runs = cases[name]["runs"]
    for arm in ("protected", "gates alone", "gates and rollback"):
        gaps = [run[arm]["score"] - run["never"]["score"] for run in runs]
        good = sum(gap >= -0.3 for gap in gaps)
        yield Goal(f"{name}, {arm}", within, f"{good} of {len(gaps)}; worst {min(gaps):+.2f}", good == len(gaps))
    found = [one for run in runs for arm in ("protected", "gates and rollback") for one in run[arm]["exact"]]
    yield Goal(name, exact, f"{sum(found)} of {len(found)} rollbacks", bool(found) and all(found))


def _regret(cases: Mapping[str, Mapping[str, Any]]) -> Goal:
    sentence = "worst regret of the controller at most 0.65 points"
    found = {name: regret(cases[name]) for name in ACCURACY_CASES if name in cases}
    if not found:
        return Goal("all", sentence)
    worst = max(found, key=lambda name: found[name])
    missing = [name for name in (*ACCURACY_CASES, "kjv cold") if name not in cases]
    told = f"{found[worst]:.2f} points ({worst})" + (f"; not measured: {'; '.join(missing)}" if missing else "")
    reached = found[worst] <= 0.65
    return Goal("all", sentence, told, None if reached and missing else reached)
