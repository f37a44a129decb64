"""From figures to the report: findings, tables and the method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from benchmarks.growth.goals import goals
from benchmarks.growth.statistics import Spread, difference, values
from benchmarks.growth.toxic import ARMS
from benchmarks.report import Report, Table

METHOD: Final = (
    "Every arm of a case spends the same training FLOPs, counted by torch's counter on the real model, forward and "
    "backward, once per topology (Tolaria's own meter); counterfactual probes are paid from them, validation passes "
    "are not.",
    "The learning rate of every arm, grown ones included, is the best on validation of the task's grid, on random "
    "seeds that are not measured; cosine over the budget, Adam. Scores are of the test split, looked at once, at the "
    "end.",
    "All arms of a case run on the same random seeds (weights and order of examples); differences are taken seed by "
    "seed. Given are mean ± sample standard deviation.",
    "Driven is Tolaria's training loop with its fence, pulse, probes, optimizer groups and rollback; Kasmina's run "
    "executor, validator and gates; Tamiyo's controller with its policies and risk engine; real kernels.",
    "What differs from the services: training and control plane take turns in one process, so that a decision made on "
    "a step is carried out at the next fence; Tamiyo is asked every 20 steps; a step lasts 1 ms for the control plane; "
    "measured latencies and the machine's load are hidden from risk engine and gates; kernels are ready at once; no "
    "signatures, journals, streams or processes. The same commit gives the same scores again on the same machine.",
    "Random with cull: two germinations at random fractions between 5 and 50 % of the budget, random pairs among the "
    "candidates of Tamiyo's rules; gates and settling as for the others. At most two seeds in every grown arm.",
    "Warm cases begin with small nets trained on the whole budget at the tuned rate, one per seed; arms then get the "
    "extra share of that budget. Optimizer and learning rate begin anew.",
    "The shock of a graft: highest validation loss (one pass per epoch) in the 10 % of the run's steps after its "
    "germination, over the last one before. The same is taken of static nets at 8 and 18 % of the run, where nothing "
    "happens: that is noise.",
    "Wall times are of a machine that others share: good for orders of magnitude only.",
)
NOTHING: Final = "–"


def report(cases: Mapping[str, Mapping[str, Any]], form: str) -> Report:
    """Put what was measured into a report."""
    judged = goals(cases)
    table = Table(
        "What was to be reached",
        ("case", "promise", "found", "verdict"),
        [(one.case, one.sentence, one.found, one.verdict) for one in judged],
    )
    tables = [table, *(_case(name, case) for name, case in cases.items() if "arms" in case)]
    if "letter toxic" in cases:
        tables.append(_toxic(cases["letter toxic"]))
    return Report("growth", "Does growing pay", _findings(cases, form), METHOD, cases, tables)


def _findings(cases: Mapping[str, Mapping[str, Any]], form: str) -> list[str]:
    judged = goals(cases)
    counts = {word: sum(one.verdict == word for one in judged) for word in ("met", "missed", "not measured")}
    lines = [f"Of {len(judged)} promises {', '.join(f'{count} {word}' for word, count in counts.items())}."]
    if form != "full":
        lines.append(f"The {form} form: fewer cases, fewer seeds, no tuning. It shows that everything works.")
    return lines + [_finding(name, case) for name, case in cases.items() if "arms" in case]


def _finding(name: str, case: Mapping[str, Any]) -> str:
    means = ", ".join(f"{arm} {Spread.of(values(case, arm)).told(_digits(case))}" for arm in case["arms"])
    return f"{name} ({case['metric']}, n = {case['seeds']}): {means}."


def _case(name: str, case: Mapping[str, Any]) -> Table:
    against = next(arm for arm in ("big", "restart-big") if arm in case["arms"])
    header = (
        "arm",
        "learning rate",
        case["metric"],
        f"better than {against}, paired",
        "parameters",
        "inference FLOPs",
        "steps",
        "wall, s",
        "worst shock, %",
        "kept / tried",
    )
    title = f"{name}: {case['flops'] / 1e9:g} GFLOP, n = {case['seeds']}"
    return Table(title, header, [_row(case, arm, against) for arm in case["arms"]])


def _row(case: Mapping[str, Any], arm: str, against: str) -> list[str]:
    digits = _digits(case)
    shocks = values(case, arm, "shock")
    seeds = [seed for run in case["arms"][arm]["runs"] for seed in run["seeds"]]
    kept = sum(seed["stage"] == "FOSSILIZED" for seed in seeds)
    return [
        arm,
        f"{case['arms'][arm]['learning_rate']:g}",
        Spread.of(values(case, arm)).told(digits),
        NOTHING if arm == against else difference(case, arm, against).told(digits, sign=True),
        _mean(case, arm, "parameters_final"),
        _mean(case, arm, "inference_flops"),
        _mean(case, arm, "steps"),
        f"{Spread.of(values(case, arm, 'wall_s')).mean:.1f}",
        f"{100 * max(shocks):.1f}" if shocks else NOTHING,
        f"{kept} / {len(seeds)}" if seeds else NOTHING,
    ]


def _toxic(case: Mapping[str, Any]) -> Table:
    rows = []
    for arm in ARMS:
        runs = [run[arm] for run in case["runs"]]
        gaps = [run[arm]["score"] - run["never"]["score"] for run in case["runs"]]
        exact = [one for run in runs for one in run.get("exact", ())]
        rows.append(
            (
                arm,
                Spread.of([run["score"] for run in runs]).told(),
                NOTHING if arm == "never" else f"{min(gaps):+.2f}",
                str(sum(run["rollbacks"] for run in runs)),
                f"{sum(exact)} of {len(exact)}" if exact else NOTHING,
            )
        )
    header = ("arm", "test accuracy, %", "worst against never", "rollbacks", "bit for bit after them")
    title = f"letter toxic: {case['flops'] / 1e9:g} GFLOP, learning rate {case['learning_rate']:g}, n = {case['seeds']}"
    return Table(title, header, rows)


def _digits(case: Mapping[str, Any]) -> int:
    return 3 if case["lower_is_better"] else 2


def _mean(case: Mapping[str, Any], arm: str, name: str) -> str:
    return f"{Spread.of(values(case, arm, name)).mean:.0f}"
