"""Folding: time joined with the axes beside it, (B, T, d) seen as (B*T, d), and set free again.

A view keeps the order of entries. So an axis of a view holds time if its length is b * T * a, where b is the product of
axes that end just before time and a of axes that begin just behind it; what lies before and behind them is the same on
both sides. Whatever treats the entries of such an axis one by one treats steps one by one.
"""

from __future__ import annotations

from dataclasses import replace

from linrec.emit.alignment import Along, T, product
from linrec.ir import Op, Type
from linrec.sizes import Dim, Size, names_of

VIEWS = frozenset("view reshape _unsafe_view flatten unflatten".split())


def is_folded(dim: Dim) -> bool:
    """Is a length a multiple of T, rather than T and a number?"""
    return isinstance(dim, Size) and any(
        "T" in names and (names != ("T",) or factor != 1) for names, factor in dim.terms
    )


def viewed(op: Op, source: Type, fact: Along) -> Along | None:
    """Where a view of a value with time along `fact` has its time; None if it is not one axis, or not known."""
    if not isinstance(op.type, Type):
        return None
    shape, after = source.shape, op.type.shape
    before: tuple[Dim, ...] = (*shape[: fact.axis], *fact.before)
    behind: tuple[Dim, ...] = (*fact.behind, *shape[fact.axis + 1 :])
    time = T - fact.offset + fact.excess
    found = []
    for axis, length in enumerate(after):
        if "T" not in names_of(length):
            continue
        for left in _shares(before, product(after[:axis]), last=True):
            for right in _shares(behind, product(after[axis + 1 :]), last=False):
                if product((*left, time, *right)) == length:
                    found.append(replace(fact, axis=axis, before=left, behind=right))
    return found[0] if len(found) == 1 else None


def _shares(dims: tuple[Dim, ...], outside: Dim, *, last: bool) -> list[tuple[Dim, ...]]:
    """The last (or first) axes of `dims` that lie within an axis, `outside` being the product of the others."""
    sides = [(dims[:k], dims[k:]) if last else (dims[k:], dims[:k]) for k in range(len(dims) + 1)]
    found = {tuple(d for d in inside if d != 1) for other, inside in sides if product(other) == outside}
    whole = product(dims)
    if not found and isinstance(whole, int) and isinstance(outside, int) and outside and whole % outside == 0:
        found = {(whole // outside,)}  # an axis cut in two
    return sorted(found, key=str)
