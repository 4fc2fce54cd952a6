"""Equations: difference and differential equations in sympy, as modules whose forward is a scan.

    x(n) = f(x(n-1), x(n-2), ..., u(n), u(n-1), ...)        every value before the first step is 0
    x'(t) = f(x, u), made discrete over intervals            x(n) is the state at the end of interval n

Values are scalars or vectors: a symbol that stands for a (d, d) array makes `A * m(t)` a product with a vector of d
channels. Coefficients are kept in double precision, in which intervals are integrated, and cast to the inputs' dtype.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import networkx as nx
import numpy as np
import sympy
import torch
from sympy.core.function import AppliedUndef
from torch import Tensor, nn

from linrec.errors import DeclarationError, ShapeError
from linrec.frontends.evaluation import Value, evaluate, lag_of, shape_of
from linrec.frontends.intervals import METHODS, Interval
from linrec.frontends.step import scan

Key = tuple[str, int]  # a function of time, and its lag or the order of its derivative


class Equations(nn.Module):
    """Coupled equations: (batch, T, inputs) -> (batch, T, outputs). Symbols are parameters and buffers by their names."""

    def __init__(self, read: Reading) -> None:
        super().__init__()
        self._read = read
        self.remarks = read.remarks
        for values, learnt in ((read.parameters, True), (read.constants, False)):
            for name, value in values.items():
                tensor = torch.as_tensor(np.array(value, dtype=np.float64))
                if learnt:
                    self.register_parameter(name, nn.Parameter(tensor))
                else:
                    self.register_buffer(name, tensor)

    def forward(self, u: Tensor) -> Tensor:
        """Run from rest over u (batch, T, inputs), channels in the order of `inputs`."""
        read = self._read
        if u.dim() != 3 or u.shape[-1] != len(read.inputs):
            raise ShapeError(
                "LR0521", f"the equations take (batch, T, {len(read.inputs)}), got {list(u.shape)}",
                help=f"channels are {', '.join(read.inputs)}, in this order",
            )  # fmt: skip
        symbols = {name: getattr(self, name) for name in (*read.parameters, *read.constants)}
        rows = u.transpose(0, 1)
        xs: dict[str, Any] = {"u": rows}
        if read.uses_time:
            xs["n"] = torch.arange(u.shape[1], dtype=u.dtype, device=u.device)
        if read.rates:
            interval = Interval(read, symbols, rows)
            xs |= interval.rows
        narrow = {name: value.to(u.dtype) for name, value in symbols.items()}
        state = {
            name: tuple(u.new_zeros(u.shape[0], *read.shapes.get(name, ())) for _ in range(lags))
            for name, lags in read.history.items()
        }
        if read.rates:
            state[""] = interval.start

        def step(past: Any, row: Any) -> Any:
            now: dict[Key, Any] = {(name, 0): row["u"][:, i] for i, name in enumerate(read.inputs)}
            now |= {(name, k + 1): value for name, values in past.items() if name for k, value in enumerate(values)}
            known: dict[str, Value] = dict(narrow)
            if read.uses_time:
                known[read.time] = row["n"]
            after = {}
            if read.rates:
                after[""] = interval.advance(past[""], now, row, known)
                now |= read.parts(after[""][0])
            for name, formula in read.formulas:
                now[name, 0] = wide(evaluate(formula, now, known, read.shapes), name)
            for name, lags in read.history.items():
                after[name] = (now[name, 0], *past[name][: lags - 1])
            outputs = [now[name, 0] for name in read.outputs]
            return after, torch.cat([y.unsqueeze(-1) if y.dim() == 1 else y for y in outputs], -1)

        def wide(value: Value, name: str) -> Tensor:
            """One value for each sequence, also of a formula that does not depend on it."""
            tensor = (value if isinstance(value, Tensor) else u.new_tensor(value)).to(u.dtype)
            wanted = (u.shape[0], *read.shapes.get(name, ()))
            return tensor if tensor.shape == wanted else tensor.expand(wanted)

        _, ys = scan(step, state, xs)
        return ys.transpose(0, 1)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        """The equations and remarks, for print(module)."""
        return "\n".join([*map(str, self._read.equations), *self.remarks])


class Reading:
    """What the equations say, checked."""

    def __init__(
        self,
        eqs: Any,
        inputs: Sequence[Any],
        outputs: Sequence[Any],
        parameters: Mapping[Any, Any] | None,
        constants: Mapping[Any, Any] | None,
        step: Any,
        method: str | None,
    ) -> None:
        self.equations = _scalars(eqs if isinstance(eqs, list | tuple) else [eqs])
        self.inputs = _names(inputs, "inputs")
        self.outputs = _names(outputs, "outputs")
        self.parameters = {str(_head(k)): v for k, v in (parameters or {}).items()}
        self.constants = {str(_head(k)): v for k, v in (constants or {}).items()}
        self.remarks: tuple[str, ...] = ()
        self.time = self._time()
        self.rates: dict[Key, sympy.Expr] = {}  # (state, order) -> its derivative
        formulas: dict[str, sympy.Expr] = {}
        for eq in self.equations:
            if eq.atoms(sympy.Derivative):
                self._rate(eq)
            else:
                name, formula = self._formula(eq, continuous=any(e.atoms(sympy.Derivative) for e in self.equations))
                if name in formulas or name in self.inputs:
                    raise _unread(eq, f"`{name}` is given twice", "give one equation for each function")
                formulas[name] = formula
        self.shapes = self._shapes(formulas)
        self.history: dict[str, int] = {}
        for e in formulas.values():
            for f in e.atoms(AppliedUndef):
                self._read_of(f, formulas)
        self.formulas = self._ordered(formulas)
        for name in self.outputs:
            if name not in formulas and (name, 0) not in self.rates and name not in self.inputs:
                raise DeclarationError(
                    "LR0512", f"no equation gives the output `{name}`", help=f"add Eq({name}({self.time}), ...)"
                )
        self.step, self.method = step, method
        self.step_name = str(_head(step))
        self.varies = False
        self.widths = {key: int(np.prod(self.shapes.get(key[0], ()), dtype=int)) for key in self.rates}
        self.width = sum(self.widths.values())
        self._bound([*formulas.values(), *self.rates.values()])
        for (name, _), rate in self.rates.items():
            for f in rate.atoms(AppliedUndef):
                if str(f.func) not in self.inputs and (str(f.func), 0) not in self.rates:
                    raise DeclarationError(
                        "LR0511", f"`{f}`, which the derivative of `{name}` depends on, is neither an input nor a state",
                        help="add it to inputs, or write out what it stands for",
                    )  # fmt: skip
                if f.args[0] != self.symbol:
                    raise DeclarationError("LR0512", f"`{f}` is a delay in continuous time", help="make it an input")
        states = {name for name, _ in self.rates} or set(formulas)
        bent = _bent(self.rates.values() or formulas.values(), states)
        if bent is not None:
            self.remarks = (f"`{bent}` is not linear in the states {', '.join(sorted(states))}",)
        if self.rates:
            self._intervals()
        elif step is not None or method is not None:
            raise DeclarationError(
                "LR0513", "step and method are for differential equations, and there are none", help="leave them out"
            )
        self.uses_time = any(self._bare_time(f) for f in (*formulas.values(), *self.rates.values()))
        if self.rates and self.uses_time:
            raise DeclarationError(
                "LR0512", f"the time `{self.time}` stands on its own in a differential equation",
                help=f"make what depends on it an input: a({self.time})",
            )  # fmt: skip

    def _time(self) -> str:
        """The one symbol that functions are functions of."""
        found = {s for e in self.equations for f in e.atoms(AppliedUndef) for s in f.free_symbols}
        for e in self.equations:
            for f in e.atoms(AppliedUndef):
                if len(f.args) != 1:
                    raise _unread(e, f"`{f}` has {len(f.args)} arguments", "functions are of time alone")
        if len(found) != 1:
            shown = ", ".join(sorted(map(str, found))) or "nothing"
            raise DeclarationError(
                "LR0512", f"functions are of one time, found {shown}", help="write x(n), u(n - 1), or x(t).diff(t)"
            )
        self.symbol = found.pop()
        return str(self.symbol)

    def _lag(self, f: Any, eq: Any) -> int:
        lag = self.symbol - f.args[0]
        if not lag.is_Integer:
            raise _unread(eq, f"`{f}` is not a whole number of steps away", f"write {f.func}({self.time} - 1)")
        return int(lag)

    def _formula(self, eq: Any, continuous: bool) -> tuple[str, sympy.Expr]:
        """x(n) = formula, from x(n + k) = ...; reads of later values are refused."""
        left = eq.lhs
        if not isinstance(left, AppliedUndef):
            raise _unread(eq, f"its left side is `{left}`", f"write it as Eq(x({self.time}), ...)")
        ahead = self._lag(left, eq)
        formula = eq.rhs.subs(self.symbol, self.symbol + ahead) if ahead else eq.rhs
        for f in formula.atoms(AppliedUndef):
            lag = self._lag(f, eq)
            if lag < 0:
                raise _unread(eq, f"`{f}` looks {-lag} steps ahead of `{left}`", "shift the equation")
            if lag and continuous:
                raise _unread(eq, f"`{f}` is a delay in continuous time", "write delays as difference equations")
            if lag == 0 and f.func == left.func:
                raise _unread(eq, f"`{f}` is on both sides", f"solve it for {left}")
        return str(left.func), formula

    def _rate(self, eq: Any) -> None:
        """c * x'(t) = f as x' = f / c; higher derivatives become states of their own."""
        derivatives = [d for d in eq.lhs.atoms(sympy.Derivative)]
        if len(derivatives) != 1 or eq.rhs.atoms(sympy.Derivative):
            raise _unread(
                eq, "it does not have one derivative, on its left", f"write Eq(x({self.time}).diff({self.time}), ...)"
            )
        (d,) = derivatives
        f, order = d.expr, d.derivative_count
        if not isinstance(f, AppliedUndef) or f.args[0] != self.symbol:
            raise _unread(eq, f"`{d}` is not the derivative of a function of {self.time}", "name that function")
        factor = sympy.simplify(eq.lhs / d)
        if factor.atoms(AppliedUndef) & {f} or factor.has(d) or factor == 0:
            raise _unread(eq, f"its left side is not a multiple of `{d}`", f"solve it for {d}")
        name = str(f.func)
        if (name, 0) in self.rates or name in self.inputs:
            raise _unread(eq, f"`{name}` is given twice", "give one equation for each function")
        for k in range(order - 1):
            self.rates[name, k] = _Derived(sympy.Symbol(name), sympy.Integer(k + 1))
        self.rates[name, order - 1] = eq.rhs / factor

    def _read_of(self, f: Any, formulas: Mapping[str, Any]) -> None:
        name, lag = str(f.func), lag_of(f)
        known = name in formulas or name in self.inputs or (name, 0) in self.rates
        if not known:
            raise DeclarationError(
                "LR0511", f"`{name}` is neither an input nor given by an equation",
                help=f"add it to inputs, or an equation Eq({name}({self.time}), ...)",
            )  # fmt: skip
        if lag:
            self.history[name] = max(self.history.get(name, 0), lag)

    def _ordered(self, formulas: Mapping[str, Any]) -> list[tuple[str, sympy.Expr]]:
        """Formulas in an order in which values of the same step come first."""
        before: nx.DiGraph[str] = nx.DiGraph()
        before.add_nodes_from(formulas)
        for name, e in formulas.items():
            for f in e.atoms(AppliedUndef):
                if f.args[0] == self.symbol and str(f.func) in formulas:
                    before.add_edge(str(f.func), name)
        try:
            return [(name, formulas[name]) for name in nx.topological_sort(before)]
        except nx.NetworkXUnfeasible:
            cycle = " -> ".join(f"{a}({self.time})" for a, _ in nx.find_cycle(before))
            raise DeclarationError(
                "LR0512",
                f"values of one step depend on each other: {cycle}",
                help="solve the equations, or delay one of them",
            ) from None

    def _shapes(self, formulas: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Which values are vectors, from the shapes of the symbols they are made with."""
        symbols = {k: np.shape(v) for k, v in (self.parameters | self.constants).items()}
        shapes: dict[str, tuple[int, ...]] = {}
        pairs = [*formulas.items(), *((name, rate) for (name, _), rate in self.rates.items())]
        for _ in range(len(pairs) + 1):
            for name, e in pairs:
                found = shape_of(e, shapes, symbols)
                if found:
                    shapes[name] = found
        return shapes

    def _bound(self, expressions: Sequence[Any]) -> None:
        """Every symbol has a value."""
        known = {*self.parameters, *self.constants, self.time, *(name for name, _ in self.rates)}
        for e in expressions:
            for s in sorted(map(str, e.free_symbols)):
                if s not in known:
                    raise DeclarationError(
                        "LR0511", f"the symbol `{s}` has no value in `{e}`",
                        help=f"give it one: parameters={{{s}: ...}} or constants={{{s}: ...}}",
                    )  # fmt: skip

    def _bare_time(self, e: Any) -> bool:
        plain = e.subs({f: sympy.Dummy() for f in e.atoms(AppliedUndef)})
        return self.symbol in plain.free_symbols

    def _intervals(self) -> None:
        """How the differential equations are made discrete."""
        if self.step is None:
            raise DeclarationError(
                "LR0513", "differential equations need a step size", help="give step=1.0, a symbol or a signal"
            )
        name = self.step_name
        if isinstance(self.step, int | float):
            if not self.step > 0:
                raise DeclarationError("LR0513", f"the step size is {self.step}", help="give a positive one")
        elif name not in {*self.inputs, *self.parameters, *self.constants}:
            raise DeclarationError(
                "LR0511",
                f"the step size `{name}` has no value",
                help=f"parameters={{{name}: 0.1}}, or inputs=[..., {name}]",
            )
        bent = _bent(self.rates.values(), {name for name, _ in self.rates})
        text = self.remarks[0] if self.remarks else ""
        self.method = self.method or ("euler" if bent else "zoh")
        if self.method not in METHODS:
            raise DeclarationError(
                "LR0513", f"no method is called {self.method!r}", help=f"one of {', '.join(METHODS)}"
            )
        if bent and self.method != "euler":
            raise DeclarationError("LR0513", f"{text}, so the method is not {self.method!r}", help='method="euler"')
        self.varies = self.method != "euler" and self._varies()
        if self.method in ("foh", "bilinear") and self.varies:
            raise DeclarationError(
                "LR0513",
                f"{self.method!r} is for coefficients that do not depend on inputs",
                help='method="zoh" holds them over each interval',
            )

    def _varies(self) -> bool:
        states = {name for name, _ in self.rates}
        for rate in self.rates.values():
            dummies = {f: sympy.Dummy() for f in rate.atoms(AppliedUndef) if str(f.func) in states}
            if any(rate.subs(dummies).diff(d).atoms(AppliedUndef) for d in dummies.values()):
                return True
        return False

    def parts(self, whole: Tensor) -> dict[Key, Value]:
        """States by name, from all of them side by side; scalars lose their axis."""
        found: dict[Key, Value] = {}
        start = 0
        for (name, order), width in self.widths.items():
            part = whole[..., start : start + width]
            found[name if order == 0 else f"{name}'{order}", 0] = part if self.shapes.get(name) else part[..., 0]
            start += width
        return found

    def drive(self, rest: Tensor, now: Mapping[Key, Value], symbols: Mapping[str, Value]) -> Tensor:
        """All rates side by side where every state is 0, which `rest` (..., width) is: b of s' = A s + b."""
        states = {name for name, _ in self.rates}
        gone = {
            key: sympy.Integer(0) if isinstance(rate, _Derived) else _without(rate, states)
            for key, rate in self.rates.items()
        }
        return self._side_by_side(gone, rest, now, symbols)

    def derivative(self, states: Tensor, now: Mapping[Key, Value], symbols: Mapping[str, Value]) -> Tensor:
        """All rates side by side, at the given states."""
        return self._side_by_side(self.rates, states, {**now, **self.parts(states)}, symbols)

    def _side_by_side(
        self, rates: Mapping[Key, Any], states: Tensor, values: Mapping[Key, Value], symbols: Mapping[str, Value]
    ) -> Tensor:
        rows = []
        for (name, order), rate in rates.items():
            if isinstance(rate, _Derived):
                value: Any = values[f"{name}'{order + 1}", 0]
            else:
                value = evaluate(rate, values, symbols, self.shapes)
            value = (
                value if isinstance(value, Tensor) else torch.tensor(value, dtype=states.dtype, device=states.device)
            )
            value, wanted = value.to(states.dtype), (*states.shape[:-1], *self.shapes.get(name, ()))
            value = value if value.shape == wanted else value.expand(wanted)
            rows.append(value if self.shapes.get(name) else value.unsqueeze(-1))
        return rows[0] if len(rows) == 1 else torch.cat(rows, -1)


class _Derived(sympy.Function):  # type: ignore[misc]
    """The next derivative of a state: _Derived(x, 1) is x'."""


def _scalars(eqs: Sequence[Any]) -> list[Any]:
    """Equations of matrices as one equation for each entry."""
    found: list[Any] = []
    for eq in eqs:
        if not isinstance(eq, sympy.Equality):
            raise DeclarationError("LR0512", f"`{eq}` is no equation", help="write sympy.Eq(left, right)")
        if getattr(eq.lhs, "is_Matrix", False) or getattr(eq.lhs, "is_MatrixExpr", False):
            left, right = (_explicit(side) for side in eq.args)
            if left.shape != getattr(right, "shape", None):
                raise _unread(
                    eq, f"its sides have shapes {left.shape} and {getattr(right, 'shape', '()')}", "make them equal"
                )
            found += [sympy.Eq(a, b, evaluate=False) for a, b in zip(left, right, strict=True)]
        else:
            found.append(eq)
    return found


def _without(e: Any, states: set[str]) -> Any:
    return e.subs({f: 0 for f in e.atoms(AppliedUndef) if str(f.func) in states})


def _explicit(side: Any) -> Any:
    side = side.doit()
    return side.as_explicit() if hasattr(side, "as_explicit") else side


def _names(functions: Any, what: str) -> list[str]:
    if isinstance(functions, str) or not isinstance(functions, list | tuple) or not functions:
        raise DeclarationError("LR0512", f"{what} is {functions!r}", help=f"give a list of sympy functions: {what}=[u]")
    return [str(_head(f)) for f in functions]


def _head(value: Any) -> Any:
    return value.func if isinstance(value, AppliedUndef) else value


def _unread(eq: Any, what: str, cure: str) -> DeclarationError:
    return DeclarationError("LR0512", f"`{eq}` cannot be read: {what}", help=cure)


def _bent(expressions: Iterable[Any], states: set[str]) -> sympy.Expr | None:
    """A term that is not affine in the values of `states`."""
    for e in expressions:
        for term in sympy.Add.make_args(sympy.expand(e)):
            dummies = {f: sympy.Dummy() for f in term.atoms(AppliedUndef) if str(f.func) in states}
            plain = term.subs(dummies)
            if any(plain.diff(d).free_symbols & set(dummies.values()) for d in dummies.values()):
                return term
    return None
