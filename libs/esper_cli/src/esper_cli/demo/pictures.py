"""The demo's pictures, as SVG text that stands inside the report."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Final

from esper_cli.demo.plan import BIG, GROWN, SMALL
from esper_cli.demo.results import ArmRun, DemoResults, SeedStep
from esper_core.errors import ConfigurationError

# Colours that a person who confuses red and green can tell apart.
COLOURS: Final = {SMALL: "#888888", BIG: "#0072B2", GROWN: "#D55E00"}
STAGE_COLOURS: Final = {
    "GERMINATED": "#DDDDDD",
    "TRAINING": "#F0E442",
    "BLENDING": "#E69F00",
    "SHADOWING": "#56B4E9",
    "PROBATIONARY": "#0072B2",
    "FOSSILIZED": "#009E73",
    "CULLED": "#CC3311",
}
ENDS: Final = ("FOSSILIZED", "CULLED")


def curves(results: DemoResults) -> str:
    """Draw validation accuracy over the spent budget, every run a line, with the grafts marked."""
    figure, axes = _figure(height=3.6)
    for run in results.runs:
        label = run.arm if run.seed == 0 else None
        axes.plot(
            [point.fraction for point in run.curve],
            [point.accuracy for point in run.curve],
            color=COLOURS[run.arm],
            label=label,
            linewidth=1.6,
        )
    for step in (step for run in results.of(GROWN) for step in run.timeline if step.stage == "BLENDING"):
        axes.axvline(step.fraction, color=COLOURS[GROWN], linewidth=0.6, linestyle=":")
    axes.set_xlabel("share of the training FLOPs spent")
    axes.set_ylabel("validation accuracy")
    axes.set_xlim(0, 1)
    axes.legend(loc="lower right", frameon=False)
    return _svg(figure)


def timeline(run: ArmRun) -> str:
    """Draw what each seed of a run did, a bar for each stage."""
    seeds = list(dict.fromkeys(step.seed_id for step in run.timeline))
    figure, axes = _figure(height=0.9 + 0.45 * max(1, len(seeds)))
    for row, seed_id in enumerate(seeds):
        _draw_seed(axes, row, [step for step in run.timeline if step.seed_id == seed_id])
    axes.set_yticks(range(len(seeds)), [seed_id.split("/", 1)[-1] for seed_id in seeds])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of the training FLOPs spent")
    shown = [stage for stage in STAGE_COLOURS if any(step.stage == stage for step in run.timeline)]
    handles = [axes.barh([0], [0], color=STAGE_COLOURS[stage], label=stage.lower()) for stage in shown]
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.35), ncols=4, frameon=False, fontsize=8)
    return _svg(figure)


def _draw_seed(axes: Any, row: int, steps: Sequence[SeedStep]) -> None:
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        if step.stage not in STAGE_COLOURS:
            continue
        end = 1.0 if step.stage == "FOSSILIZED" or following is None else following.fraction
        if step.stage == "CULLED":
            end = step.fraction + 0.01
        axes.barh([row], [max(end - step.fraction, 0.002)], left=step.fraction, color=STAGE_COLOURS[step.stage])


def _figure(height: float) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigurationError(
            "The report needs matplotlib. Install it with `pip install 'esper-cli[report]'`."
        ) from error
    figure = Figure(figsize=(8, height), layout="constrained")
    axes = figure.add_subplot()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _svg(figure: Any) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    document = text.getvalue()
    return document[document.index("<svg") :]
