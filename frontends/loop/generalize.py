"""Generalising: one graph for all lengths from graphs of a few lengths.

The same program traced at several lengths gives graphs that differ in integers only. An integer
that differs becomes the simplest size that fits all of them: c, then c1*N + c0 for one name N, then
c*T*B. Three lengths of T leave no room for a wrong fit of two unknowns; other sizes have two lengths, a
prime of four digits apart, which no unrelated number follows. What does not fit, or differs in anything
else, is a reason to hold the program to the lengths traced.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from linrec.errors import CaptureError
from linrec.frontends.loop.flatten import Flat
from linrec.ir import Graph, Op, Source
from linrec.sizes import Dim, size

T = TypeVar("T")


def generalize(graphs: Sequence[Graph], lengths: Sequence[Mapping[str, int]]) -> Graph:
    """The graph that is `graphs[i]` when each name has the length `lengths[i][name]`."""
    return _Merger(lengths).merge(graphs)


def numbers_of_length(flats: Sequence[Flat], lengths: Sequence[Mapping[str, int]]) -> set[object]:
    """Operators, by kind and place in the code, whose numbers are the same at all steps and no size, but others at each length."""
    merger = _Merger(lengths)
    found: list[dict[object, set[object]]] = []
    for flat in flats:
        numbers: dict[object, set[object]] = {}
        for op in flat.ops:
            given = (*enumerate(op.args), *op.attrs)
            numbers.setdefault((op.kind, op.source), set()).add(
                tuple((at, a) for at, a in given if isinstance(a, int | float) and not isinstance(a, bool))
            )
        found.append(numbers)
    apart = {place for place, own in found[0].items() if all(len(n.get(place, ())) == 1 for n in found)}
    varying = {place for place in apart if len({tuple(n[place]) for n in found}) > 1}
    differing: set[object] = set()
    for place in varying:
        try:
            merger.merge([next(iter(n[place])) for n in found])
        except CaptureError:
            differing.add(place)
    return differing


class _Merger:
    def __init__(self, lengths: Sequence[Mapping[str, int]]) -> None:
        self.lengths = lengths
        self.names = sorted(lengths[0])

    def merge(self, parts: Sequence[T]) -> T:
        first = parts[0]
        if isinstance(first, Source) or first is None:
            return first
        if any(type(p) is not type(first) for p in parts):
            raise self._differs(parts)
        if isinstance(first, tuple):
            if len({len(p) for p in parts}) != 1:  # type: ignore[arg-type]
                raise self._differs(parts)
            return tuple(self.merge(items) for items in zip(*parts, strict=True))  # type: ignore[return-value]
        if is_dataclass(first) and not isinstance(first, type):
            return type(first)(**{f.name: self.merge([getattr(p, f.name) for p in parts]) for f in fields(first)})
        if isinstance(first, int) and not isinstance(first, bool):
            return self.fit(parts)  # type: ignore[arg-type, return-value]
        if any(p != first and not (p != p and first != first) for p in parts):
            raise self._differs(parts)
        return first

    def fit(self, values: Sequence[int]) -> Dim:
        """The simplest size that has these values at the traced lengths."""
        if len(set(values)) == 1:
            return values[0]
        for name in self.names:
            slope = self._slope(values, [at[name] for at in self.lengths])
            if slope is not None:
                return size(name) * slope[0] + slope[1]
        for a, b in itertools.combinations_with_replacement(self.names, 2):
            slope = self._slope(values, [at[a] * at[b] for at in self.lengths])
            if slope is not None and slope[1] == 0:
                return size(a) * size(b) * slope[0]
        raise self._differs(values)

    def _slope(self, values: Sequence[int], at: Sequence[int]) -> tuple[int, int] | None:
        (x0, y0), *rest = sorted(set(zip(at, values, strict=True)))
        if not rest or rest[0][0] == x0:
            return None
        factor, left = divmod(rest[0][1] - y0, rest[0][0] - x0)
        if left or any(y - y0 != factor * (x - x0) for x, y in rest):
            return None
        return factor, y0 - factor * x0

    def _differs(self, parts: Sequence[Any]) -> CaptureError:
        shown = ", ".join(map(_shown, parts))
        return CaptureError(
            "LR0412", f"the program is not the same at every length: it has {shown} at {list(self.lengths)}"
        )


def _shown(part: Any) -> str:
    """What differs, in a few words."""
    listed = isinstance(part, tuple) and any(isinstance(p, Op) for p in part)
    return f"{len(part)} operators" if listed else str(part)[:40]
