"""Sizes: integers that depend on named lengths, such as T, B or 2*T - 1.

A size is a polynomial in names with integer coefficients, kept in a normal form, so that equality
of sizes is equality of values for all lengths. A size without names is a plain Python int.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Monomial = tuple[str, ...]  # names in alphabetical order; () is the constant


@dataclass(frozen=True)
class Size:
    """A polynomial: `terms` maps each monomial to its coefficient, sorted, without zeros."""

    terms: tuple[tuple[Monomial, int], ...]

    def __post_init__(self) -> None:
        if not any(names for names, _ in self.terms):
            raise ValueError("a size without names is written as a plain int")

    def __add__(self, other: Dim) -> Dim:
        total = dict(self.terms)
        for names, factor in _terms(other):
            total[names] = total.get(names, 0) + factor
        return _normal(total)

    def __mul__(self, other: Dim) -> Dim:
        total: dict[Monomial, int] = {}
        for left, a in self.terms:
            for right, b in _terms(other):
                names = tuple(sorted(left + right))
                total[names] = total.get(names, 0) + a * b
        return _normal(total)

    def __sub__(self, other: Dim) -> Dim:
        return self + other * -1

    def __rsub__(self, other: Dim) -> Dim:
        return self * -1 + other

    __radd__ = __add__
    __rmul__ = __mul__

    def __neg__(self) -> Dim:
        return self * -1

    @property
    def names(self) -> frozenset[str]:
        """The lengths this size depends on."""
        return frozenset(name for names, _ in self.terms for name in names)

    def __str__(self) -> str:
        text = ""
        for names, factor in sorted(self.terms, key=lambda term: (-len(term[0]), term[0])):
            sign = " - " if factor < 0 else " + "
            body = "*".join(([] if names and abs(factor) == 1 else [str(abs(factor))]) + list(names))
            text += ("-" if factor < 0 else "") + body if not text else sign + body
        return text


Dim = int | Size


def size(name: str) -> Size:
    """The size that is the length `name` itself."""
    return Size((((name,), 1),))


def evaluate(dim: Dim, lengths: Mapping[str, int]) -> int:
    """The value of `dim`; KeyError names a length that is not given."""
    if isinstance(dim, int):
        return dim
    total = 0
    for names, factor in dim.terms:
        for name in names:
            factor *= lengths[name]
        total += factor
    return total


def substitute(dim: Dim, lengths: Mapping[str, int]) -> Dim:
    """`dim` with some of its lengths known."""
    if isinstance(dim, int):
        return dim
    total: Dim = 0
    for names, factor in dim.terms:
        term: Dim = factor
        for name in names:
            term = (size(name) if name not in lengths else lengths[name]) * term
        total = term + total
    return total


def names_of(dim: Dim) -> frozenset[str]:
    """The lengths `dim` depends on; none for an int."""
    return dim.names if isinstance(dim, Size) else frozenset()


def _terms(dim: Dim) -> tuple[tuple[Monomial, int], ...]:
    return dim.terms if isinstance(dim, Size) else (((), dim),)


def _normal(total: Mapping[Monomial, int]) -> Dim:
    kept = tuple(sorted((names, factor) for names, factor in total.items() if factor))
    if any(names for names, _ in kept):
        return Size(kept)
    return kept[0][1] if kept else 0
