"""Realizations: coordinates of a state in which powers of its transition stay small.

A system given by coefficients is mostly given in companion form, whose powers reach 1e10 at order 20 while those of its
poles vanish: every form that uses A^k would lose as many digits. In *input-normal* coordinates A A' + B B' = I, so
|A^k| <= 1 and nothing is lost (Mullis and Roberts 1976). The change of coordinates is as ill conditioned as the
companion form was, so it is done with DIGITS digits, once, where a system is declared: O(n^3) such operations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import mpmath
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
DIGITS = 80
GROWTH = 10.0  # powers of A up to here cost one digit


@dataclass(frozen=True)
class Normal:
    """A, B, C in other coordinates: old state = back @ new state, new state = there @ old state."""

    A: Array
    B: Array
    C: Array
    there: Array
    back: Array


def growth(A: Array) -> float:
    """The largest |A^k| over powers of two: what rounding errors of one step may grow to."""
    largest, power = 1.0, A
    for _ in range(40):
        size = float(np.linalg.norm(power, 2)) if np.isfinite(power).all() else math.inf
        largest = max(largest, size)
        if size < 1e-3 or not math.isfinite(size):
            break
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is seen to be infinite above
            power = power @ power
    return largest


def spectral_radius(A: Array) -> float:
    """The largest |pole|."""
    return float(np.abs(np.linalg.eigvals(A)).max(initial=0.0))


def input_normal(A: Array, B: Array, C: Array) -> Normal | None:
    """The system in coordinates with A A' + B B' = I; None if some state cannot be reached from the input."""
    with mpmath.workdps(DIGITS):
        a, b, c = (mpmath.matrix(m.tolist()) for m in (A, B, C))
        # W = B B' + A B B' A' + ...; after j rounds 2^j terms, as W <- W + P W P', P <- P P (Smith 1968)
        W, power = b * b.T, a
        for _ in range(64):
            more = power * W * power.T
            W += more
            if mpmath.mnorm(more, 1) <= mpmath.mpf(10) ** (10 - DIGITS) * mpmath.mnorm(W, 1):
                break
            power = power * power
        try:
            root = mpmath.cholesky(W)
        except ValueError:
            return None
        inverse = mpmath.inverse(root)
        parts = (inverse * a * root, inverse * b, c * root, inverse, root)
        return Normal(*(_array(m) for m in parts))


def _array(m: Any) -> Array:
    return np.array(m.tolist(), dtype=np.float64).reshape(m.rows, m.cols)


@dataclass(frozen=True)
class Ladder:
    """A filter b(z)/a(z) as y = C s + gain u, s' = A s + taps u, where C C' + A'A = I.

    `angles` are the artanh of the n reflection coefficients of a(z), from which A and C follow; `there` turns the state
    of a transposed direct form II, which scipy's `zi` is, into s, and `back` s into it.
    """

    A: Array  # (n, n)
    C: Array  # (1, n)
    taps: Array  # (n, 1)
    gain: float
    angles: Array  # (n,)
    there: Array
    back: Array


def ladder(b: Array, a: Array) -> Ladder | None:
    """The normalized lattice of b(z)/a(z), a[0] != 0 (Gray and Markel 1975); None unless all poles are in the unit disc.

    For order n: O(n^3) operations with DIGITS digits.
    """
    n = max(len(a), len(b)) - 1
    with mpmath.workdps(DIGITS):
        num, den = (
            [mpmath.mpf(float(v)) / mpmath.mpf(float(a[0])) for v in [*p, *[0.0] * (n + 1 - len(p))]] for p in (b, a)
        )
        k = _reflection(den)
        if k is None:
            return None
        A, C = _lattice(k)
        direct, start = mpmath.matrix(n, n), mpmath.matrix(n, 1)
        for i in range(n):
            direct[i, 0] = -den[i + 1]
            start[i] = num[i + 1] - den[i + 1] * num[0]
            if i + 1 < n:
                direct[i, i + 1] = 1
        first = mpmath.matrix(1, n)
        if n:
            first[0] = 1
        # both are observable and have one characteristic polynomial: C A^k s = first direct^k z for k < n
        back = mpmath.inverse(_observed(direct, first)) * _observed(A, C) if n else A
        there = mpmath.inverse(back) if n else A
        angles = np.array([float(mpmath.atanh(v)) for v in k])
        return Ladder(
            _array(A), _array(C), _array(there * start) if n else np.zeros((0, 1)), float(num[0]), angles,
            _array(there), _array(back),
        )  # fmt: skip


def _observed(A: Any, C: Any) -> Any:
    """The rows C, C A, ..., C A^(n-1)."""
    rows = mpmath.matrix(A.rows, A.rows)
    for j in range(A.rows):
        rows[j, :] = C
        C = C * A
    return rows


def _reflection(a: list[Any]) -> list[Any] | None:
    """Reflection coefficients of a monic polynomial by the step-down recursion; None unless all are inside (-1, 1)."""
    k: list[Any] = []
    while len(a) > 1:
        last = a[-1]
        if abs(last) >= 1:
            return None
        k.append(last)
        # a_m(z) = a_{m-1}(z) + k_m z^-m a_{m-1}(1/z)
        a = [(p - last * q) / (1 - last * last) for p, q in zip(a[:-1], reversed(a[1:]), strict=True)]
    return k[::-1]


def _lattice(k: list[Any]) -> tuple[Any, Any]:
    """A (n, n) and C (1, n) with the reflection coefficients k.

    [A' | C'] is the first n rows of a product of n reflections by k in the planes (i, i + 1), an orthogonal Hessenberg
    matrix: with c_i = sqrt(1 - k_i^2), its entry (i, j) is -k_{i-1} c_i ... c_{j-1} k_j for i <= j < n, c_{i-1} for
    i = j + 1, and k_{i-1} c_i ... c_{n-1} in the last column; k_{-1} = 1.
    """
    n = len(k)
    c = [mpmath.sqrt(1 - v * v) for v in k]
    A, C = mpmath.matrix(n, n), mpmath.matrix(1, n)
    for i in range(n):
        run = k[i - 1] if i else mpmath.mpf(1)
        for j in range(i, n):
            A[j, i] = -run * k[j]
            run *= c[j]
        C[i] = run
        if i:
            A[i - 1, i] = c[i - 1]
    return A, C
