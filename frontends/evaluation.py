"""Evaluation: a sympy expression on tensors, one operator of torch's for each of its own.

Values are (...) for scalars and (..., d) for vectors, all leading axes alike; symbols are numbers, (d,) or (d, 1)
vectors, or matrices. A product holds at most one vector that varies; matrices act on it from the left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import sympy
import torch
from sympy.core.function import AppliedUndef
from torch import Tensor

from linrec.errors import DeclarationError

Value = Tensor | float
Shape = tuple[int, ...]

_FUNCTIONS: dict[Any, Callable[..., Tensor]] = {
    sympy.sin: torch.sin, sympy.cos: torch.cos, sympy.tan: torch.tan, sympy.exp: torch.exp, sympy.log: torch.log,
    sympy.tanh: torch.tanh, sympy.sinh: torch.sinh, sympy.cosh: torch.cosh, sympy.Abs: torch.abs, sympy.sign: torch.sign,
    sympy.atan: torch.atan, sympy.asin: torch.asin, sympy.acos: torch.acos, sympy.erf: torch.erf, sympy.floor: torch.floor,
    sympy.ceiling: torch.ceil, sympy.asinh: torch.asinh,
}  # fmt: skip
_PAIRS: dict[Any, Callable[..., Tensor]] = {sympy.Max: torch.maximum, sympy.Min: torch.minimum}
_RELATIONS: dict[Any, Callable[..., Any]] = {
    sympy.StrictGreaterThan: torch.gt, sympy.GreaterThan: torch.ge, sympy.StrictLessThan: torch.lt,
    sympy.LessThan: torch.le,
}  # fmt: skip


def evaluate(
    e: Any, now: Mapping[tuple[str, int], Value], symbols: Mapping[str, Value], shapes: Mapping[str, Shape]
) -> Any:
    """The value of `e`; `now` has functions of time by (name, lag), `symbols` all else; `shapes` says what is a vector."""
    return _Evaluator(now, symbols, shapes).of(e)[0]


class _Evaluator:
    """Each value comes with how many axes of its own it has, after those of time and batch: 0, 1 or 2."""

    def __init__(
        self, now: Mapping[tuple[str, int], Value], symbols: Mapping[str, Value], shapes: Mapping[str, Shape]
    ) -> None:
        self.now, self.symbols, self.shapes = now, symbols, shapes

    def of(self, e: Any) -> tuple[Any, int]:
        if e.is_Number or e.is_NumberSymbol:
            return float(e), 0
        if isinstance(e, AppliedUndef):
            name = str(e.func)
            return self.now[name, lag_of(e)], len(self.shapes.get(name, ()))
        if isinstance(e, sympy.matrices.expressions.matexpr.MatrixElement):
            i, j = map(int, e.args[1:])
            return torch.as_tensor(self.symbols[str(e.args[0])]).reshape(e.args[0].shape)[i, j], 0
        if e.is_Symbol:
            value = self.symbols[str(e)]
            if isinstance(value, Tensor) and value.dim() == 2 and value.shape[1] == 1:
                value = value[:, 0]
            return value, value.dim() if isinstance(value, Tensor) else 0
        if e.is_Mul:
            return self._product(e)
        if isinstance(e, sympy.Piecewise):
            return self._piecewise(e)
        values, kind = self._alike([self.of(a) for a in e.args])
        if e.is_Add:
            total = values[0]
            for value in values[1:]:
                total = total + value
            return total, kind
        if e.is_Pow:
            return _power(values[0], values[1], e.exp), kind
        tensors = [value if isinstance(value, Tensor) else torch.tensor(value) for value in values]
        if e.func in _RELATIONS:
            return _RELATIONS[e.func](*tensors), kind
        if e.func in _PAIRS:
            total = tensors[0]
            for value in tensors[1:]:
                total = _PAIRS[e.func](total, value)
            return total, kind
        if e.func not in _FUNCTIONS:
            names = ", ".join(sorted(f.__name__ for f in (*_FUNCTIONS, *_PAIRS)))
            raise DeclarationError("LR0512", f"no operator computes `{e}`", help=f"use one of {names}")
        return _FUNCTIONS[e.func](*tensors), kind

    def _alike(self, pairs: list[tuple[Any, int]]) -> tuple[list[Any], int]:
        """Values with as many axes of their own as the largest has."""
        most = max(kind for _, kind in pairs)
        return [
            value.unsqueeze(-1) if isinstance(value, Tensor) and value.dim() and kind < most else value
            for value, kind in pairs
        ], most

    def _product(self, e: Any) -> tuple[Any, int]:
        """Scalars and a vector, then matrices on it from right to left."""
        pairs = [self.of(a) for a in e.args]
        matrices = [value for value, kind in pairs if kind == 2]
        if len(matrices) > 1 and e.is_commutative:
            raise DeclarationError(
                "LR0512", f"the order of the matrices in `{e}` is not known",
                help="make their symbols with Symbol(name, commutative=False)",
            )  # fmt: skip
        values, kind = self._alike([(value, kind) for value, kind in pairs if kind < 2] or [(1.0, 0)])
        total = values[0]
        for value in values[1:]:
            total = total * value
        for matrix in reversed(matrices):
            total, kind = (total @ matrix.T, 1) if kind else (total * matrix, 2)
        return total, kind

    def _piecewise(self, e: Any) -> tuple[Any, int]:
        cases = list(e.args)
        otherwise = cases.pop()[0] if cases[-1][1] == sympy.true else sympy.nan
        found, kind = self.of(otherwise)
        for then, condition in reversed(cases):
            (test, value, rest), kind = self._alike([self.of(condition), self.of(then), (found, kind)])
            like = next(v for v in (value, rest, test) if isinstance(v, Tensor))
            dtype = like.dtype if like.is_floating_point() else torch.float64
            value, rest = (v if isinstance(v, Tensor) else torch.tensor(v, dtype=dtype) for v in (value, rest))
            found = torch.where(test, value, rest)
        return found, kind


def lag_of(f: Any) -> int:
    """How many steps before now `f(n - lag)` is."""
    (symbol,) = f.args[0].free_symbols
    return int(symbol - f.args[0])


def _power(base: Any, exponent: Any, written: Any) -> Any:
    if written == -1:
        return 1 / base
    if written == sympy.Rational(1, 2) and isinstance(base, Tensor):
        return torch.sqrt(base)
    return base ** (int(written) if written.is_Integer else exponent)


def shape_of(e: Any, functions: Mapping[str, Shape], symbols: Mapping[str, Shape]) -> Shape:
    """() for a scalar, (d,) for a vector of d channels, (d, k) for a matrix on its own."""
    if isinstance(e, AppliedUndef):
        return functions.get(str(e.func), ())
    if e.is_Symbol:
        found = symbols.get(str(e), ())
        return found[:1] if len(found) == 2 and found[1] == 1 else found
    if isinstance(e, sympy.matrices.expressions.matexpr.MatrixElement):
        return ()
    shapes = [s for a in e.args if (s := shape_of(a, functions, symbols))]
    if e.is_Mul and any(len(s) == 2 for s in shapes):
        return next(s for s in shapes if len(s) == 2)[:1]
    return shapes[0] if shapes else ()
