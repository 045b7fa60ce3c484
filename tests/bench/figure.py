"""One figure of the bench table."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class Figure:
    """A value beside the anchor that was measured in turn with it."""

    name: str
    value: float
    unit: str
    anchor: str
    anchor_value: float
    paired: float | None = None
    """Median of the ratios of many short blocks in turn: what else the machine does hits both sides of a block alike,
    so it says more than the quotient of the two values."""

    @property
    def ratio(self) -> float:
        return self.value / self.anchor_value if self.paired is None else self.paired

    def as_json(self) -> dict[str, object]:
        fields = attrs.asdict(self)
        del fields["paired"]
        return {**fields, "ratio": self.ratio}

    def line(self) -> str:
        return (
            f"{self.name:32} {self.value:14,.0f} {self.unit:10} {self.ratio:6.2f} x {self.anchor} "
            f"({self.anchor_value:,.0f})"
        )
