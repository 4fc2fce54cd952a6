"""Semirings: what plus and times are. A recurrence is linear over (plus, times) if its step is

    state'[i] = plus over j of  A[i, j] times state[j],  plus b[i]

and then its steps compose associatively, whatever plus and times are. `zero` is neutral for plus and absorbs in
times, `one` is neutral for times.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf


@dataclass(frozen=True)
class Semiring:
    """The operators of a semiring on tensors: `plus` of two, `total` over axes, `times` of two."""

    name: str
    zero: float
    one: float
    plus: str
    total: str
    times: str

    @property
    def is_ring(self) -> bool:
        """Is there a minus, so that gradients are those of the loop whatever the order of the sums?"""
        return self.times == "mul"


SUM = Semiring("sum-product", 0.0, 1.0, "add", "sum", "mul")
MAX = Semiring("max-plus", -inf, 0.0, "maximum", "amax", "add")
MIN = Semiring("min-plus", inf, 0.0, "minimum", "amin", "add")
LOG = Semiring("log-sum-exp", -inf, 0.0, "logaddexp", "logsumexp", "add")
ALL = (SUM, MAX, MIN, LOG)
TROPICAL = (MAX, MIN, LOG)
SEMIRINGS = {s.name: s for s in ALL}
