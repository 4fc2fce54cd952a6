"""Variables that branches assign: what a read finds is what the last assignment that ran has left.

With assignments at places j1 < j2 < ... of a body, each run where its condition c_k holds, the variable is

    v_k[t] = where(c_k[t], j_k[t], v_{k-1}[t])        v_0[t] = v_last[t-1]

after place k. A read is a v_k[t], or an earlier v_last, if every value that the trace read there is what this gives.
A list of m elements, taken in turn, is m variables in one: v_0[t] = v_last[t-m].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from linrec.ir import Arg

_LONGEST_LAG = 2
Before = int  # so many steps before the first


@dataclass(frozen=True)
class Made:
    """The value that a place of the body made at a step."""

    step: int
    place: int


@dataclass(frozen=True)
class Read:
    """A variable after the k-th of its places, `delay` steps ago; what it held before the first step."""

    k: int
    delay: int
    inits: dict[Before, Arg] = field(default_factory=dict)


class Variable:
    """One that is assigned at these places of a body, in this order, at the steps where `ran` says so.

    A step starts from what it held `stride` steps ago.
    """

    def __init__(self, places: Sequence[int], count: int, ran: Callable[[int, int], bool], stride: int = 1) -> None:
        self.places, self.ran, self.stride = tuple(places), ran, stride
        self._held: list[list[Made | Before]] = []  # by step, after each place
        for step in range(count):
            row: list[Made | Before] = []
            now = self.value(self.last, step - stride)
            for place in self.places:
                now = Made(step, place) if ran(step, place) else now
                row.append(now)
            self._held.append(row)

    @property
    def last(self) -> int:
        """The last of its places."""
        return len(self.places) - 1

    def value(self, k: int, step: int) -> Made | Before:
        """What it holds after the k-th place of that step."""
        return self._held[step][k] if step >= 0 else -step

    def read(self, values: Sequence[Made | Arg], is_read: Sequence[bool], position: int, first: int = 0) -> Read | None:
        """How reads at that position of steps first, first + 1, ... find these values; None if they are others.

        Only where `is_read` was anything read.
        """
        k = sum(place < position for place in self.places) - 1
        reads = [(k, 0)] if 0 <= k < self.last else []
        reads += [(self.last, delay) for delay in range(0 if k == self.last else 1, self.stride + _LONGEST_LAG + 1)]
        for k, delay in reads:
            inits: dict[Before, Arg] = {}
            if all(
                self._is(self.value(k, step - delay), value, inits)
                for step, (value, was) in enumerate(zip(values, is_read, strict=True), first)
                if was
            ):
                return Read(k, delay, inits)
        return None

    def _is(self, held: Made | Before, value: Made | Arg, inits: dict[Before, Arg]) -> bool:
        if isinstance(held, Made) or isinstance(value, Made):
            return held == value
        return inits.setdefault(held, value) == value

    def passed(self, k: int, steps: set[int]) -> set[int]:
        """Those of the steps at which the k-th place did not run."""
        return {step for step in steps if not self.ran(step, self.places[k])}
