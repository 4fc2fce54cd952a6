"""Axes: along which axes of its arguments a program loops, and which of their other sizes may vary.

Trial runs count the calls into torch at a few sizes: along time they grow. Sizes that a batch or a model may have
otherwise leave the count as it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from linrec.frontends.loop.probe import Probe

STEPS = (6, 8, 11)  # lengths of the short traces; small numbers of steps at either end may be special
OTHER_STEPS = ((16, 23, 19), (31, 27, 37))  # those of further time axes: no line through STEPS, and never near them
OTHER_TIMES = ("S1", "S2")  # their names
FREE = (1_009, 2_003, 4_001, 8_009)  # what is added to other sizes to see whether they may vary
APART = 5  # what is added in a trial run, which needs no more than to be another number
_FEWER = 2  # how many first axes of the batch's size may be of something else
FEW_CALLS = 1_000  # after this many in a trial run the next axis is tried first
MOST_CALLS = 20_000

Axis = tuple[int, int]  # which tensor, which dimension
Shapes = list[tuple[int, ...]]
Groups = dict[str, list[Axis]]  # axes that vary together, by the name of their length


@dataclass
class Axes:
    """The shapes of a call's tensors, and trial runs at others; `steps` are the lengths of the traces."""

    shapes: Shapes
    probe: Probe
    steps: tuple[int, ...]
    extended: frozenset[Axis] = field(default=frozenset(), kw_only=True)  # of `shapes`, those that are not the call's

    def resized(self, axes: Iterable[Axis], length: int, base: Shapes | None = None) -> Shapes:
        """The call's shapes with `axes` set to `length`, keeping differences: T+1 stays T+1."""
        shapes = [list(s) for s in (self.shapes if base is None else base)]
        axes = list(axes)
        least = min(self.shapes[i][d] for i, d in axes)
        for i, d in axes:
            shapes[i][d] = length + self.shapes[i][d] - least
        return [tuple(s) for s in shapes]

    def time_axes(self, apart_from: Collection[Axis] = ()) -> list[Axis] | None:
        """The axes that declared scans walk over, else those along which the number of operators grows, or None."""
        candidates, grown = [axes for axes in self.candidates() if not {*axes} & {*apart_from}], None
        # along a wrong axis the loop keeps its full length: that is noticed early where steps are small, as most are
        for limit in (FEW_CALLS, MOST_CALLS):
            for axes in candidates:
                short = self.probe.work(self.resized(axes, self.steps[0]), limit)
                longer = short and self.probe.work(self.resized(axes, self.steps[1]), limit)
                if short is None or longer is None:
                    continue
                if longer.declared > short.declared:
                    return axes
                if grown is None and longer.calls > short.calls:
                    grown = axes
                if grown is not None and not short.declared:
                    return grown
        return grown

    def candidates(self) -> Iterator[list[Axis]]:
        """Sets of axes that may be time, likeliest first: axis 1, then 0, then the others."""
        axes = [(i, d) for i, s in enumerate(self.shapes) for d in range(len(s)) if s[d] > 1]
        tried: set[tuple[Axis, ...]] = set()
        for i, d in sorted(axes, key=lambda a: (a[1] != 1, a[1], a[0])):
            length = self.shapes[i][d]
            near = [(j, e) for j, e in axes if self.shapes[j][e] == length and (e == d or j != i)]
            for group in (
                [(j, e) for j, e in near if e == d],
                [(i, d)],
                near,
                [(j, e) for j, e in axes if self.shapes[j][e] == length],
                [(j, e) for j, e in axes if 0 <= self.shapes[j][e] - length <= 1 and (e == d or j != i)],
                [(j, e) for j, e in axes if -1 <= self.shapes[j][e] - length <= 1 and (e == d or j != i)],
            ):
                if tuple(group) not in tried:
                    tried.add(tuple(group))
                    yield group

    def choices(self, axes: list[Axis]) -> Iterator[tuple[Groups, Groups]]:
        """Which sizes to leave free and which to take for further time axes.

        What trial runs show; then batch sizes alone; none.
        """
        free, growing = self.other_sizes(axes)
        leading = {name: group for name, group in free.items() if name.startswith("B")}
        tried: list[tuple[Groups, Groups]] = []
        for choice in ((free, growing), (leading, growing), ({}, growing), (leading, {}), ({}, {})):
            if choice not in tried:
                tried.append(choice)
                yield choice

    def other_sizes(self, axes: list[Axis]) -> tuple[Groups, Groups]:
        """The sizes that may vary from call to call, and those along which further loops run, as trial runs show."""
        base = self.resized(axes, self.steps[0])
        normal = self.probe.work(base, MOST_CALLS)
        free: Groups = {}
        growing: Groups = {}
        if normal is None:
            return free, growing
        settled: set[Axis] = set()
        names = {True: iter(("B", "B2", "B3", "B4")), False: iter(("N", "N2", "N3", "N4"))}
        for is_batch, group in self.tied(axes):
            if not group or settled.intersection(group):
                continue
            size = self.shapes[group[0][0]][group[0][1]]
            other = self.probe.work(self.resized(group, size + APART, base), 4 * normal.calls + 100)
            if other == normal:
                name = next(names[is_batch], None)
                if name is not None:
                    free[name] = group
                settled.update(group)
            elif len(growing) < len(OTHER_STEPS):
                # more operators along another axis: a second loop, over a length of its own
                few, more = (
                    self.probe.work(self.resized(group, n, base), MOST_CALLS) for n in OTHER_STEPS[len(growing)][:2]
                )
                if few is not None and more is not None and more.calls > few.calls:
                    growing[OTHER_TIMES[len(growing)]] = group
                    settled.update(group)
        # those of a batch first, as many as can be told apart
        kept = sorted(free, key=lambda name: not name.startswith("B"))[: len(FREE)]
        return {name: free[name] for name in kept}, growing

    def tied(self, axes: list[Axis]) -> Iterator[tuple[bool, list[Axis]]]:
        """Sets of axes that may vary together: True for those of a batch, the first axes beside time.

        Vectors and last axes of what has no time are sizes of the model, as a rule: they stay.
        """
        rest = {(i, d) for i, s in enumerate(self.shapes) for d in range(len(s)) if s[d] > 1 and (i, d) not in axes}
        timed = {i for i, _ in axes}
        first = {i: next((d for d in range(len(s)) if (i, d) not in axes), -1) for i, s in enumerate(self.shapes)}
        length = steps_along(self.shapes, axes)
        rest -= {
            (i, d) for i, d in rest
            if i not in timed and d == len(self.shapes[i]) - 1
            and not (self._is_row(i, axes) or self.shapes[i] == (length,) or (i, d) in self.extended)  # tables over time
        }  # fmt: skip
        for size in sorted({self.shapes[i][d] for i, d in rest}):
            same = sorted(a for a in rest if self.shapes[a[0]][a[1]] == size)
            lead = [(i, d) for i, d in same if first[i] == d]
            others = [(i, d) for i, d in lead if i not in timed]
            for fewer in range(min(len(others), _FEWER) + 1):  # all of them, all but one, ...
                for out in itertools.combinations(others, fewer):
                    yield True, [a for a in lead if a not in out]
            yield True, [a for a in lead if a not in others]
            inner = [a for a in same if a not in lead]
            yield False, inner
            for d in sorted({d for _, d in inner}):
                yield False, [a for a in inner if a[1] == d]
            for a in same:
                yield a in lead, [a]

    def _is_row(self, place: int, axes: list[Axis]) -> bool:
        """Is it a number for each member of a batch, and for no feature?"""
        timed = {i: d for i, d in axes}
        beside = {i: [n for e, n in enumerate(self.shapes[i]) if e != d] for i, d in timed.items()}
        batches, features = {s[0] for s in beside.values() if s}, {n for s in beside.values() for n in s[1:]}
        return len(self.shapes[place]) == 1 and self.shapes[place][0] in batches - features

    def varied(self, free: Groups, base: Shapes) -> Shapes:
        """Other lengths for free sizes, so far from the call's that no other number follows them by chance."""
        for group, more in zip(free.values(), FREE, strict=False):
            base = self.resized(group, self.shapes[group[0][0]][group[0][1]] + more, base)
        return base


def steps_along(shapes: Shapes, axes: Iterable[Axis]) -> int:
    return min(shapes[i][d] for i, d in axes)


def alike_sizes(shapes: Shapes) -> object:
    """Which of all sizes are equal, and which are one."""
    sizes = [n for s in shapes for n in s]
    return tuple(map(len, shapes)), tuple((sizes.index(n), n == 1) for n in sizes)
