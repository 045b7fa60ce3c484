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

    @property
    def ratio(self) -> float:
        return self.value / self.anchor_value

    def as_json(self) -> dict[str, object]:
        return {**attrs.asdict(self), "ratio": self.ratio}

    def line(self) -> str:
        return (
            f"{self.name:32} {self.value:14,.0f} {self.unit:10} {self.ratio:6.2f} x {self.anchor} "
            f"({self.anchor_value:,.0f})"
        )
