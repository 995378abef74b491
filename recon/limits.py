"""What physics lets a number be: bounds so wide that no instrument meets them, and that a slip of the unit does."""

from __future__ import annotations

from dataclasses import dataclass

MOST_SEED = 2**32 - 1
"""Of everything random: what generators take, and what is left of 64 bits for the numbers that are derived from it."""

MOST_MODES = 16
"""Of a probe: each starts as the beam times a polynomial of its own, and those of higher orders hardly differ."""
MOST_RATE = 100.0
"""Of Adam, which moves every number by about that much a step: the paper's are 0.1 to 1."""


@dataclass(frozen=True)
class Range:
    """Where a quantity can lie, both ends included, and why.

    Attributes:
        low, high: the bounds, in `unit`.
        unit: what people write behind it; "" for none.
        why: what is there to be met, for the message.
    """

    low: float
    high: float
    unit: str
    why: str

    def holds(self, value: float) -> bool:
        """Whether the value lies inside; NaN does not."""
        return self.low <= value <= self.high

    def refusal(self, value: float) -> str:
        """What is wrong with a value outside, without its name."""
        unit = f" {self.unit}" if self.unit else ""
        return f"{value:.6g}{unit} is outside {self.low:g} .. {self.high:g}{unit} ({self.why}); is its unit right?"


CONVERSION = Range(1e-9, 1e9, "electrons", "in a count of any camera")
READ_NOISE = Range(0.0, 1e6, "electrons", "of cameras without light")
DEVIATION = Range(1e-6, 1.0, "", "mean deviations of an amplitude from 0 to 1")
WAVELENGTH = Range(1e-13, 1e-2, "m", "from fast electrons to millimetre waves")
DISTANCE = Range(1e-9, 1e4, "m", "from object to camera in anything that has been built")
PIXEL_SIZE = Range(1e-12, 0.1, "m", "pitches of cameras, seen through any lens")
DIAMETER = Range(1e-12, 1.0, "m", "beams from a focused electron's to a telescope's")
