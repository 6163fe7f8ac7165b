"""At which link speed one way of sending overtakes another that computes or sends more.

A push takes as long as its computing or its bytes, whichever is longer, since the two overlap:
`max(CPU seconds, bytes / rate)`. What the Hub does meanwhile is left out: it is the same for both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

LINKS = {"100 Mbit/s": 12.5e6, "1 Gbit/s": 125e6, "10 Gbit/s": 1.25e9}


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one push: CPU seconds, bytes sent."""

    cpu: float
    sent: float

    def seconds(self, rate: float) -> float:
        """At so many bytes a second."""
        return max(self.cpu, self.sent / rate)


def faster_below(first: Cost, second: Cost) -> float:
    """Bytes a second up to which `first`, which sends less, is faster: infinite when it computes
    less besides, 0 when it does not send less."""
    if first.sent >= second.sent:
        return 0.0
    if first.cpu <= second.cpu:
        return math.inf
    return second.sent / first.cpu


def in_words(rate: float) -> str:
    if rate == math.inf:
        return "faster at any speed"
    return f"faster below {rate * 8 / 1e9:.1f} Gbit/s" if rate else "never faster"
