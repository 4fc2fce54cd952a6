"""Notation: the affine form of a recurrence as a formula, by sympy, as presentation MathML that browsers draw.

h[t] = a * h[t - 1] + u[t]          products are elementwise where no axis is summed over
"""

from __future__ import annotations

from typing import Any

import sympy
from sympy.printing.mathml import mathml

from linrec.ir import Arg, Graph, Recurrence, Use
from linrec.linear.affine import Term
from linrec.linear.analysis import Analysis, state_reads
from linrec.sizes import Size

_DEPTH = 4  # operators written out inside a coefficient
_t = sympy.Symbol("t", integer=True)


def formulas(graph: Graph, recurrence: Recurrence) -> list[str]:
    """One formula as MathML for each state of a proven recurrence; none for what is not linear."""
    return [f'<math display="block">{mathml(e, printer="presentation")}</math>' for e in equations(graph, recurrence)]


def equations(graph: Graph, recurrence: Recurrence) -> list[Any]:
    """One sympy equation for each state."""
    if recurrence.kind not in ("lti", "ltv"):
        return []
    return _Writer(graph, recurrence).equations()


class _Writer:
    def __init__(self, graph: Graph, recurrence: Recurrence) -> None:
        self.recurrence = recurrence
        self.analysis = Analysis(graph, recurrence.members, state_reads(graph, recurrence))
        self.known = graph.by_name() | {op.result: op for op in self.analysis.ops}
        self.made = {op.result for op in self.analysis.ops} | set(recurrence.members)

    def equations(self) -> list[Any]:
        found = []
        for state in self.recurrence.states:
            form = self.analysis.forms[state]
            terms = [self.term(term) for term in form.terms]
            if form.offset is not None:
                terms.append(self.value(form.offset, _DEPTH))
            total = sympy.Add(*terms, evaluate=False) if len(terms) > 1 else terms[0] if terms else sympy.Integer(0)
            found.append(sympy.Eq(self.signal(Use(state)), total, evaluate=False))
        return found

    def term(self, term: Term) -> Any:
        factors = []
        for f in term.factors:
            factor = self.value(f.value, _DEPTH)
            factor = sympy.conjugate(factor) if f.conjugate else factor
            factors.append(1 / factor if f.inverse else factor)
        return sympy.Mul(*factors, self.signal(term.state), evaluate=False)

    def signal(self, use: Use) -> Any:
        return sympy.IndexedBase(_short(use.name))[_t - use.delay]

    def value(self, arg: Arg, depth: int) -> Any:
        """A read, a number, or the operators that make it."""
        if isinstance(arg, Use):
            op = self.known.get(arg.name)
            if op is None or (op.time is None and op.result not in self.made):
                return sympy.Symbol(_short(arg.name))
            if op.result not in self.made or depth == 0 or op.kind == "signal":
                return self.signal(arg)
            operands = [self.value(a, depth - 1) for a in op.args if isinstance(a, Use | int | float | complex)]
            return _applied(op.kind, operands)
        if isinstance(arg, Size):
            return sympy.Symbol(str(arg))
        return sympy.sympify(arg) if isinstance(arg, int | float | complex) else sympy.Symbol(str(arg))


def _applied(kind: str, operands: list[Any]) -> Any:
    match kind, operands:
        case "add", [a, b]:
            return sympy.Add(a, b, evaluate=False)
        case "mul", [a, b]:
            return sympy.Mul(a, b, evaluate=False)
        case "sub", [a, b]:
            return sympy.Add(a, sympy.Mul(-1, b, evaluate=False), evaluate=False)
        case "rsub", [a, b]:
            return sympy.Add(b, sympy.Mul(-1, a, evaluate=False), evaluate=False)
        case "neg", [a]:
            return -a
        case (("alias" | "expand" | "reshape" | "view" | "unsqueeze" | "to"), [a, *_]):
            return a
    return sympy.Function(kind)(*operands)


def _short(name: str) -> str:
    # an underscore would be read as a subscript, a dot as nothing
    return name.replace("_", "").replace(".", "") or "v"
