"""Affine forms: a value as a sum of einsums of coefficients with states, plus an offset.

    value[o] = sum over terms  scale * prod_f f[axes_f] * state[axes_s]   +   offset[o]

Sums and products are those of a semiring (linrec/linear/semirings.py).

Axes are named by *labels*; a label that occurs in the state or a factor but not in the result is
summed over. An axis carries a tuple of labels, because a reshape may merge axes without mixing
them. Nothing is multiplied out: a diagonal transition is seen to be diagonal because the state's
label is the result's, and no d x d matrix is built to find out. The number of terms is the number
of paths from a state to the value.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from linrec.ir import Arg, Type, Use
from linrec.sizes import Dim

Label = int
Axis = tuple[Label, ...]  # merged labels, slowest first
MAX_TERMS = 64


@dataclass(frozen=True)
class Factor:
    """A coefficient tensor with its axes labelled; `inverse` is with respect to times, elementwise: 1/value."""

    value: Arg  # a read of the graph, or a number
    axes: tuple[Axis, ...] = ()
    inverse: bool = False
    conjugate: bool = False

    @property
    def labels(self) -> frozenset[Label]:
        """The labels of all axes."""
        return frozenset(x for axis in self.axes for x in axis)


@dataclass(frozen=True)
class Term:
    """One path from `state` (a read with its delay) to the value; `axes` label the result."""

    state: Use
    state_axes: tuple[Axis, ...]
    axes: tuple[Axis, ...]
    factors: tuple[Factor, ...] = ()
    conjugate: bool = False  # of the state, where that is complex: such a path is linear over the reals only

    def times(self, *factors: Factor, axes: tuple[Axis, ...] | None = None) -> Term:
        """The term times coefficients, its result labelled anew where `axes` are given."""
        return replace(self, factors=(*self.factors, *factors), axes=self.axes if axes is None else axes)


@dataclass(frozen=True)
class Form:
    """An affine value: terms and an offset (None is zero)."""

    terms: tuple[Term, ...]
    offset: Arg = None


@dataclass(frozen=True)
class Refusal:
    """Why a value is not affine in the state: `op` breaks it."""

    code: str
    op: str
    reason: str
    help: str = ""


class Labels:
    """Fresh labels and their sizes; labels of size one are never made, their axis is ()."""

    def __init__(self) -> None:
        self._next = itertools.count()
        self.size: dict[Label, Dim] = {}

    def axis(self, dim: Dim) -> Axis:
        """A new axis of that size."""
        if dim == 1:
            return ()
        label = next(self._next)
        self.size[label] = dim
        return (label,)

    def axes(self, type_: Type) -> tuple[Axis, ...]:
        """New axes for a tensor of that type."""
        return tuple(self.axis(dim) for dim in type_.shape)

    def extent(self, axis: Axis) -> Dim:
        """How long an axis is."""
        total: Dim = 1
        for label in axis:
            total = self.size[label] * total
        return total


def variable(use: Use, type_: Type, labels: Labels) -> Form:
    """The state itself: one term, all labels shared."""
    axes = labels.axes(type_)
    return Form((Term(use, axes, axes),))


def relabel(term: Term, change: Mapping[Label, Axis]) -> Term:
    """Rename labels throughout a term."""

    def swap(axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
        return tuple(tuple(new for old in axis for new in change.get(old, (old,))) for axis in axes)

    factors = tuple(replace(f, axes=swap(f.axes)) for f in term.factors)
    return replace(term, state_axes=swap(term.state_axes), axes=swap(term.axes), factors=factors)


def fresh(term: Term, labels: Labels) -> Term:
    """The same term with labels of its own, so that two terms never share one by accident."""
    used = dict.fromkeys(label for axis in all_axes(term) for label in axis)
    return relabel(term, {old: labels.axis(labels.size[old]) for old in used})


def all_axes(term: Term) -> Iterable[Axis]:
    """Every axis that occurs in a term."""
    yield from term.state_axes
    yield from term.axes
    for factor in term.factors:
        yield from factor.axes


def same_split(left: Axis, right: Axis, labels: Labels) -> bool:
    """Are two merged axes made of the same sizes in the same order?"""
    return [labels.size[a] for a in left] == [labels.size[b] for b in right]


def split_to(term: Term, axis: Axis, parts: tuple[Dim, ...], labels: Labels) -> tuple[Term, tuple[Axis, ...]] | None:
    """Cut a merged axis into axes of sizes `parts`; None where a cut goes across a label, as of (2, 3) into (3, 2)."""
    kept = [p for p in parts if p != 1]
    cuts = [labels.size[label] for label in axis]
    if len(axis) == 1 or cuts == kept:
        pieces = [kept] if len(axis) == 1 else [[c] for c in cuts]
    else:
        found = _refined([c for c in cuts if isinstance(c, int)], [p for p in kept if isinstance(p, int)])
        if found is None or not all(isinstance(d, int) for d in (*cuts, *kept)):
            return None
        pieces = [list(piece) for piece in found]
    change = {
        label: tuple(x for p in piece for x in labels.axis(p))
        for label, piece in zip(axis, pieces, strict=True)
        if piece != [labels.size[label]]
    }
    term = relabel(term, change)
    rest = [x for label in axis for x in change.get(label, (label,))]
    made: list[Axis] = []
    for part in parts:
        mine: list[Label] = []
        while part != 1 and labels.extent(tuple(mine)) != part:
            mine.append(rest.pop(0))
        made.append(tuple(mine))
    return term, tuple(made)


def _refined(cuts: list[int], parts: list[int]) -> list[list[int]] | None:
    """Each of `cuts` as a product such that `parts` are products of neighbours: the common refinement, if there is one."""

    def ends(sizes: list[int]) -> set[int]:  # products of the last sizes
        return {math.prod(sizes[i:]) for i in range(len(sizes))}

    points = sorted(ends(cuts) | ends(parts) | {1}, reverse=True)
    if 0 in points or any(a % b for a, b in itertools.pairwise(points)):
        return None
    found: list[list[int]] = []
    for i in range(len(cuts)):
        inside = [p for p in points if math.prod(cuts[i + 1 :]) <= p <= math.prod(cuts[i:])]
        found.append([a // b for a, b in itertools.pairwise(inside)])
    return found
