"""Closed forms: the impulse response of a small time-invariant system as an expression in n, by sympy.

    K[0] = D,   K[n] = C A^(n-1) G

obeys from some step on the difference equation of the characteristic polynomial of A (Cayley and Hamilton), so it is a
sum of n^j p^n over its poles p of multiplicity m, j < m; a pole at zero of multiplicity m is a memory of m steps.
Poles come from the factors of the polynomial over the rationals: multiplicities are exact, not a matter of rounding.
A conjugate pair is written r^n (a cos(w n) + b sin(w n)). Coefficients are solved from the first values, exactly where
the poles are rational, symbols, or two; else with DIGITS digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy

n = sympy.Symbol("n", integer=True)
ORDER = 4  # no closed form beyond this order
DIGITS = 30
_z = sympy.Symbol("z")


@dataclass(frozen=True)
class _Mode:
    """One function of n, and the pole and power that it is made of: its values are exact."""

    expression: Any
    pole: Any
    power: int
    part: str  # "re" or "im" of the pole's powers, "" for the powers themselves

    def at(self, k: int) -> Any:
        """The value at step k."""
        value = sympy.expand(self.pole**k)
        value = sympy.re(value) if self.part == "re" else sympy.im(value) if self.part == "im" else value
        return (sympy.Integer(k) ** self.power if k or self.power else 1) * value


def impulse_response(a: Any, g: Any, c: Any, d: Any) -> Any | None:
    """K as a sympy matrix (q, p) of expressions in n, Piecewise where the first values do not follow the rest.

    `a` (n, n), `g` (n, p), `c` (q, n), `d` (q, p) are sympy matrices of rationals and symbols. None for more than ORDER
    states, or where the poles have no closed form: symbols in a polynomial of degree three that has no factors.
    """
    order = a.shape[0]
    if order > ORDER:
        return None
    numeric = not a.free_symbols
    memory, modes, recurrence = 0, list[_Mode](), sympy.Integer(1)
    for factor, multiplicity in sympy.factor_list(a.charpoly(_z).as_expr(), _z)[1]:
        if factor == _z:
            memory = multiplicity
            continue
        poles = _poles(sympy.Poly(factor, _z), numeric)
        if poles is None:
            return None
        modes += [_mode(pole, j, part) for pole, part in poles for j in range(multiplicity)]
        recurrence *= factor**multiplicity
    exact = not numeric or len(modes) <= 2 or all(m.pole.is_rational for m in modes)
    values = [c * _power(a, k) * g for k in range(order)]  # K[1], K[2], ...
    rows = range(d.shape[0])
    return sympy.Matrix(
        [
            [_entry(d[i, j], [v[i, j] for v in values], memory, modes, recurrence, exact) for j in range(d.shape[1])]
            for i in rows
        ]
    )


def _power(a: Any, k: int) -> Any:
    return a**k if k else sympy.eye(a.shape[0])


def _poles(factor: Any, numeric: bool) -> list[tuple[Any, str]] | None:
    """The roots of an irreducible factor, of a conjugate pair the one above the axis as its two parts."""
    if factor.degree() == 1:
        lead, rest = factor.all_coeffs()
        return [(sympy.cancel(-rest / lead), "")]
    if factor.degree() == 2:
        lead, middle, last = factor.all_coeffs()
        square = sympy.cancel((middle / lead) ** 2 / 4 - last / lead)
        if square.is_negative:
            return _pair(-middle / lead / 2 + sympy.I * sympy.sqrt(-square))
        root = sympy.sqrt(square)
        return [(-middle / lead / 2 + sign * root, "") for sign in (1, -1)]
    if not numeric:
        return None
    found: list[tuple[Any, str]] = []
    for pole in factor.nroots(n=DIGITS, maxsteps=200):
        if pole.is_real:
            found.append((pole, ""))
        elif sympy.im(pole) > 0:
            found += _pair(pole)
    return found


def _pair(pole: Any) -> list[tuple[Any, str]]:
    return [(pole, "re"), (pole, "im")]


def _mode(pole: Any, power: int, part: str) -> _Mode:
    if not part:
        return _Mode(n**power * pole**n, pole, power, part)
    radius, angle = sympy.Abs(pole), sympy.atan2(sympy.im(pole), sympy.re(pole))
    wave = sympy.cos if part == "re" else sympy.sin
    return _Mode(n**power * radius**n * wave(angle * n), pole, power, part)


def _entry(first: Any, values: Sequence[Any], memory: int, modes: Sequence[_Mode], polynomial: Any, exact: bool) -> Any:
    """One entry of K from K[0] and K[1] .. K[order]."""
    known = [first, *values]
    count = len(modes)
    tail: Any = sympy.Integer(0)
    if count:
        # back from K[memory + 1] on: the modes' own values at 0 .. count - 1 make the smallest equations
        coefficients = sympy.Poly(polynomial, _z).monic().all_coeffs()  # 1, f_1, ..., f_count
        own = dict(enumerate(known[memory + 1 :], memory + 1))
        for k in range(memory, -1, -1):
            ahead = sum(f * own[k + count - i] for i, f in enumerate(coefficients[:-1]))
            own[k] = sympy.cancel(-ahead / coefficients[-1])
        matrix = sympy.Matrix(count, count, lambda k, i: modes[i].at(k))
        right = sympy.Matrix([own[k] for k in range(count)])
        if not exact:
            matrix, right = matrix.evalf(DIGITS), right.evalf(DIGITS)
        solved = matrix.LUsolve(right)
        if exact:
            solved = solved.applyfunc(lambda x: sympy.factor(sympy.radsimp(sympy.cancel(x))))
        tail = sum(x * m.expression for x, m in zip(solved, modes, strict=True))
        head = [(known[k], k) for k in range(memory + 1) if sympy.cancel(known[k] - own[k]) != 0]
    else:
        head = [(known[k], k) for k in range(memory + 1) if known[k] != 0]
    return sympy.Piecewise(*((value, sympy.Eq(n, k)) for value, k in head), (tail, True)) if head else tail


def rational(value: np.floating[Any]) -> Any:
    """The number that a float was written as: the shortest decimal that rounds to it in its own precision."""
    return sympy.Rational(np.format_float_scientific(value, unique=True))


def rounded(expression: Any, digits: int = 6) -> Any:
    """The expression as it is if its numbers are short, such as 1/3 and 9/10; else with numbers of `digits` digits."""
    numbers = [x for x in expression.atoms(sympy.Number) if not x.is_Integer]
    short = all(x.is_Rational and x.q <= 1000 for x in numbers)
    return expression if short else _cut(expression, digits)


def _cut(expression: Any, digits: int) -> Any:
    """Every part without symbols as a number; integers, powers among them, stay."""
    if expression.is_number:
        return expression if expression.is_Integer else expression.evalf(digits)
    return expression.func(*(_cut(x, digits) for x in expression.args)) if expression.args else expression
