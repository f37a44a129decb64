"""The shape that a site promises, and that a kernel is made for. B is the batch.

| kind        | shape        |
|-------------|--------------|
| features    | B, C         |
| sequence    | B, L, C      |
| channels_1d | B, C, L      |
| image       | B, C, H, W   |
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from esper_core.errors import ValidationError

SiteKind = Literal["features", "sequence", "channels_1d", "image"]
SITE_KINDS: Final[tuple[SiteKind, ...]] = get_args(SiteKind)

_LAYOUT: Final[dict[str, tuple[str, ...]]] = {
    "features": ("channels",),
    "sequence": ("length", "channels"),
    "channels_1d": ("channels", "length"),
    "image": ("channels", "height", "width"),
}
_FIELDS: Final = ("kind", "channels", "length", "height", "width")
_MAY_OFFER: Final = ("features", "sequence")
_STAND_IN_EXTENT: Final = 8


class SiteContractError(ValidationError):
    """A tensor, module or contract does not have the shape that a site promises."""


def check_admitted(blueprint_id: str, admitted: Collection[str]) -> None:
    """Refuse a blueprint that a site does not admit; a site that names none admits every one.

    Raises
    ------
    SiteContractError
        If it is not among them.
    """
    if admitted and blueprint_id not in admitted:
        raise SiteContractError(
            f"Blueprint {blueprint_id} may not grow at this site, which admits only {', '.join(admitted)}.",
            field="blueprint_id",
            allowed=tuple(admitted),
        )


@dataclass(frozen=True, slots=True)
class SiteContract:
    """The shape of a site's output, without the batch, and the width of its input where it offers that.

    Parameters
    ----------
    kind : SiteKind
        Layout of the output.
    channels : int
        Number of features or channels.
    length, height, width : int, optional
        Extents of the positions; None where the site takes any extent.
    inputs : int
        Width of what the site's submodule receives as its first argument, laid out as its output; 0 where seeds may
        not read it.

    Raises
    ------
    SiteContractError
        If the kind is unknown, an extent is not positive, or an extent or an input does not belong to the kind.
    """

    kind: SiteKind
    channels: int
    length: int | None = None
    height: int | None = None
    width: int | None = None
    inputs: int = 0

    def __post_init__(self) -> None:
        if self.kind not in _LAYOUT:
            raise SiteContractError(
                f"Site kind {self.kind!r} is unknown; use one of the allowed kinds.", field="kind", allowed=SITE_KINDS
            )
        for field in _FIELDS[1:]:
            self._check_extent(field)
        if self.inputs < 0 or (self.inputs and self.kind not in _MAY_OFFER):
            raise SiteContractError(
                f"A {self.kind} site cannot offer {self.inputs} inputs.",
                field="inputs",
                allowed=f"a width of at least 1 on {' and '.join(_MAY_OFFER)} sites, or 0 for none",
            )

    def _check_extent(self, field: str) -> None:
        value: int | None = getattr(self, field)
        belongs = field in _LAYOUT[self.kind]
        if value is not None and (not belongs or value < 1):
            raise SiteContractError(
                f"A {self.kind} site cannot have {field} = {value}.",
                field=field,
                allowed="an integer of at least 1" if belongs else "nothing: the kind has no such extent",
            )

    @property
    def channel_dim(self) -> int:
        """Dimension of the channels in a batch."""
        return 1 if self.kind in ("channels_1d", "image") else -1

    @property
    def extents(self) -> tuple[int | None, ...]:
        """Extents after the batch, in the order of the layout."""
        return tuple(getattr(self, field) for field in _LAYOUT[self.kind])

    @property
    def positions(self) -> int:
        """Number of positions that share the channels, 1 for features.

        Raises
        ------
        SiteContractError
            If an extent is left open, so that nothing can be counted.
        """
        total = 1
        for field in _LAYOUT[self.kind]:
            total *= 1 if field == "channels" else self.require(field)
        return total

    def require(self, field: str) -> int:
        """Return an extent that must be known."""
        value: int | None = getattr(self, field)
        if value is None:
            raise SiteContractError(
                f"The {field} of this {self.kind} site is not known; measure the host on a sample batch first.",
                field=field,
                allowed="an integer of at least 1",
            )
        return value

    def shape(self, batch: int) -> tuple[int, ...]:
        """Return a full shape for a batch; open extents get a small stand-in."""
        return (batch, *(_STAND_IN_EXTENT if extent is None else extent for extent in self.extents))

    def input_shape(self, batch: int) -> tuple[int, ...]:
        """Return the full shape of what the submodule receives; only where `inputs` is declared."""
        return (*self.shape(batch)[:-1], self.inputs)

    def accepts(self, shape: Sequence[int]) -> bool:
        """Say whether a batch of this shape fits."""
        own = self.extents
        return len(shape) == len(own) + 1 and all(
            mine is None or mine == theirs for mine, theirs in zip(own, shape[1:], strict=True)
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the contract as plain data; open extents are left out, and so is an input that is not offered."""
        fields = {field: getattr(self, field) for field in _FIELDS}
        offered = {"inputs": self.inputs} if self.inputs else {}
        return {field: value for field, value in fields.items() if value is not None} | offered

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SiteContract:
        """Read a contract written by `to_dict`."""
        if set(data) - {*_FIELDS, "inputs"} or not {"kind", "channels"} <= set(data):
            raise SiteContractError(
                "A site contract needs kind and channels, and may have length, height, width and inputs.",
                field="contract",
                allowed=(*_FIELDS, "inputs"),
            )
        return cls(**data)

    @classmethod
    def from_shape(cls, kind: SiteKind, shape: Sequence[int]) -> SiteContract:
        """Read the contract off a measured output, batch included."""
        layout = _LAYOUT.get(kind)
        if layout is not None and len(shape) != len(layout) + 1:
            raise SiteContractError(
                f"A {kind} site has {len(layout) + 1} dimensions with its batch; the output has shape {tuple(shape)}.",
                field="kind",
                allowed=SITE_KINDS,
            )
        extents = dict(zip(layout or (), shape[1:], strict=False))
        return cls(kind=kind, channels=extents.pop("channels", 1), **extents)
