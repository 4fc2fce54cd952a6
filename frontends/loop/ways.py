"""Ways: which arms the turns of a loop take one after another, at any length.

    if t != T - 1: h = f(h)         if t % 3 == 2: y = g(h)

What `g` reads is known of the turns that run it: where none of these is the turn T - 1, it is f's value alone. At
lengths at which that turn comes to both, the program is another. So traces must show every way that turns go at any
length: conditions are functions of the counter, whose numbers change evenly with the length.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field

from linrec.frontends.loop.branches import Branch, Turns, period

_MOST_LENGTHS = 6
_APART = (0, 2, 5)  # of the first three
_START, _END = "start", "end"

Way = tuple[Hashable, ...]  # a loop, and what turns in a row do: by branch, True or False, or None if it is passed by


@dataclass
class Ways:
    """The branches of traces of two `lengths`.

    `reach` is how many turns in a row may matter to a read; with `ends`, coming to the last turn is a way of its own.
    """

    found: Sequence[Branch]
    longer: Sequence[Branch]
    lengths: tuple[int, int]
    reach: int
    ends: bool = False
    _known: dict[int, frozenset[Way]] = field(default_factory=dict)

    def widened(self, reach: int, ends: bool) -> Ways:
        """The same for reads that go further."""
        if reach <= self.reach and ends <= self.ends:
            return self
        return Ways(self.found, self.longer, self.lengths, max(reach, self.reach), ends or self.ends)

    def of(self, steps: int) -> frozenset[Way]:
        """The ways at this length."""
        if steps not in self._known:
            self._known[steps] = frozenset(self._of(steps))
        return self._known[steps]

    def _of(self, steps: int) -> Iterable[Way]:
        loops: dict[Turns, list[int]] = {}
        for index, branch in enumerate(self.found):
            loops.setdefault(branch.turns, []).append(index)
        for loop, (turns, members) in enumerate(loops.items()):
            longer = self.longer[members[0]].turns
            count = self._between(len(turns.starts), len(longer.starts), steps)
            tests = [self.found[m].condition.extended(self.longer[m].condition, self.lengths, steps) for m in members]
            holds = [[bool(test.number(turn)) for turn in range(count)] for test in tests]
            outer = [
                [
                    (k, side)
                    for k, o in enumerate(members)
                    for side in (True, False)
                    if self.found[o].leads_to(self.found[m], side)
                ]
                for m in members
            ]
            rows: list[Hashable] = [
                tuple(h[turn] if all(holds[k][turn] == side for k, side in o) else None for h, o in zip(holds, outer, strict=True))
                for turn in range(count)
            ]  # fmt: skip
            rows = [_START] * (self.reach - 1) + rows + [_END] * self.ends
            yield from ((loop, *rows[i : i + self.reach]) for i in range(len(rows) - self.reach + 1))

    def _between(self, first: int, second: int, steps: int) -> int:
        short, long = self.lengths
        return max(first + (second - first) * (steps - short) // (long - short), 0)

    def lengths_from(self, steps: int) -> tuple[int, ...] | None:
        """At least three lengths, `steps` and more, that show all ways of any such length; None if that takes too many."""
        needed = frozenset[Way]().union(*(self.of(n) for n in self._horizon(steps)))
        # what every p-th step does, the longest must do once more: it may count, or keep, something
        chosen = [steps, steps + max(_APART[1], period(self.found))]
        while True:
            missing = needed.difference(*(self.of(n) for n in chosen))
            if not missing and len(chosen) >= len(_APART):
                return tuple(sorted(chosen))
            if len(chosen) == _MOST_LENGTHS:
                return None
            later = [n for n in self._horizon(steps + _APART[2]) if n not in chosen]
            shown = {n: len(missing & self.of(n)) for n in later}
            chosen.append(max(later, key=lambda n: (shown[n], -n)))

    def holds_from(self, lengths: Sequence[int], every: int) -> int | None:
        """The length from which on, in steps of `every`, calls go ways alone that these lengths show; None if none is."""
        shown = frozenset[Way]().union(*(self.of(n) for n in lengths))
        for steps in reversed(range(lengths[0] % every or every, max(self._horizon(lengths[0])), every)):
            if not self.of(steps) <= shown:
                return steps + every if steps < lengths[0] else None
        return 0

    def _horizon(self, steps: int) -> range:
        """Lengths of so many steps and more, after which all comes again: two periods are in the first of them."""
        return range(steps, 2 * steps + 16)
