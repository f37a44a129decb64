"""What a trial of a kernel observed; numbers only, no opinion.

Ratios are of root mean squares. Where a computation left the finite numbers, the flag beside it says so and the number
is infinite.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Forward:
    """The forward pass with the weights of the kernel as they were made.

    Attributes
    ----------
    batch_sizes : tuple of int
        Batches that were run.
    finite : bool
        Whether every output was finite.
    output_ratio : float
        Largest strength of the seed's change over the strength of its input; 0 for a zero-effect start.
    repeatable : bool
        Whether the same input gave the same output twice, bit for bit.
    """

    batch_sizes: tuple[int, ...]
    finite: bool
    output_ratio: float
    repeatable: bool


@dataclass(frozen=True, slots=True)
class Gradients:
    """The backward pass, at the start and after some steps of learning; the worse of the two counts.

    Attributes
    ----------
    finite : bool
        Whether every gradient was finite.
    gain : float
        Strength of the gradient that leaves towards the host over the strength of the one that came in.
    weakest : float
        After learning, the weakest gradient among the parameter tensors over the strongest; 0 when one gets none.
    """

    finite: bool
    gain: float
    weakest: float


@dataclass(frozen=True, slots=True)
class Learning:
    """Some optimizer steps on a small regression: the seed is to answer with minus half of its input.

    Attributes
    ----------
    optimizer : str
        Update rule.
    steps : int
        Steps that were taken before the end, or before the loss left the finite numbers.
    loss_first, loss_last : float
        Mean squared error before the first and after the last step.
    rises : float
        Sum of all rises of the loss from one step to the next, over the first loss.
    """

    optimizer: str
    steps: int
    loss_first: float
    loss_last: float
    rises: float


@dataclass(frozen=True, slots=True)
class Robustness:
    """What bad inputs do after learning, and whether the same input does the same again.

    Attributes
    ----------
    contaminated : float
        Share of the other examples of a batch that become non-finite when one example is.
    overflows : bool
        Whether inputs a thousand times larger than usual leave the finite numbers.
    unsteady : float
        Strength of the difference between two passes of the same input over the strength of the first.
    """

    contaminated: float
    overflows: bool
    unsteady: float = 0.0


@dataclass(frozen=True, slots=True)
class Precision:
    """A lower precision against float32 after learning.

    Attributes
    ----------
    dtype : str
        The lower precision.
    finite : bool
        Whether the output was finite.
    relative_error : float
        Strength of the difference over the strength of the float32 output.
    """

    dtype: str
    finite: bool
    relative_error: float


@dataclass(frozen=True, slots=True)
class Profile:
    """Speed of the forward pass at one batch size.

    Attributes
    ----------
    batch_size : int
        Examples per batch.
    dtype : str
        Precision.
    device : str
        Where it ran.
    p50_ms, p95_ms : float
        Median and 95th percentile.
    repetitions : int
        Passes that were timed.
    """

    batch_size: int
    dtype: str
    device: str
    p50_ms: float
    p95_ms: float
    repetitions: int

    @property
    def name(self) -> str:
        """Name such as `batch=32,float32`."""
        return f"batch={self.batch_size},{self.dtype}"

    @property
    def throughput_per_s(self) -> float:
        """Examples per second at the median."""
        return self.batch_size / (self.p50_ms / 1000)


@dataclass(frozen=True, slots=True)
class Observations:
    """Everything that one trial observed.

    Attributes
    ----------
    shape_kept : bool
        Whether the output had the shape of the site at each pass.
    parameter_count, declared_parameter_count : int
        Trainable parameters found, and those that the vocabulary promises.
    forward, gradients, robustness : optional
        None when the shape was not kept, so that nothing else could be told.
    learning : tuple of Learning
        One entry per update rule.
    precisions : tuple of Precision
        Lower precisions that work here.
    profiles : tuple of Profile
        Measured speed.
    memory_growth_bytes : int, optional
        Resident memory gained steadily by a series of training steps after the first ones: five times the gain of that
        fifth of the series which gained least, so that a pool that is filled does not count. None where it cannot be
        read.
    flops_per_example : int, optional
        Forward FLOPs that the vocabulary promises; None where an extent is left open.
    values_per_example : int
        Size of an input.
    not_measured : tuple of str
        What could not be measured, and why.
    torch_version : str
        torch that ran it.
    """

    shape_kept: bool
    parameter_count: int
    declared_parameter_count: int
    torch_version: str
    forward: Forward | None = None
    gradients: Gradients | None = None
    robustness: Robustness | None = None
    learning: tuple[Learning, ...] = ()
    precisions: tuple[Precision, ...] = ()
    profiles: tuple[Profile, ...] = ()
    memory_growth_bytes: int | None = None
    flops_per_example: int | None = None
    values_per_example: int = 0
    not_measured: tuple[str, ...] = ()
