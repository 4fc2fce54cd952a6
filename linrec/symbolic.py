"""Symbols: a recurrence that was found in a program, as an equation on paper.

Sequences are functions of n, tensors that do not vary are symbols by their names. Where the step multiplies by matrices,
symbols and sequences do not commute and vectors are columns: h @ A.T is A h. With one sequence of order 1, or of an order
up to 4 and commuting, what it does to each of its drives has a closed form; `with_closed_forms` writes those of small
systems at the numbers that their parameters have now into a report.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import networkx as nx
import sympy
import torch

from linrec.api import _engine_of, _new_engine, _require_engine
from linrec.closed import ORDER, impulse_response, n, rational, rounded
from linrec.compiled import Compiled
from linrec.compiler import Options
from linrec.errors import StateError
from linrec.ir import Arg, Graph, Op, Type, Use
from linrec.linear.system import MIXED, System, Vector, product, system_of
from linrec.manager import Context, Stages
from linrec.passes import default_pipeline
from linrec.program import Form
from linrec.reports import Report

z = sympy.Symbol("z")
RESPONSES = 4  # closed forms printed for one recurrence
_EXPANDED = 200  # operations in an equation that is solved for one
_MATRICES = frozenset({"matmul", "mm", "bmm", "linear", "addmm", "mv", "einsum"})
# operators that give the same numbers another shape or type
_SAME = frozenset(
    "alias to _to_copy clone contiguous expand expand_as view reshape unsqueeze squeeze flatten unflatten".split()
)
_TURNED = frozenset({"numpy_T", "t", "mT", "transpose", "permute"})
_FUNCTIONS = {
    f.__name__.lower(): f for f in (sympy.tanh, sympy.exp, sympy.log, sympy.sin, sympy.cos, sympy.sqrt, sympy.sinh)
}


@dataclass(frozen=True)
class Symbolic:
    """`equations`, one for each state; `transfer` and `impulse` map each drive to a closed form where there is one.

    With k steps between a drive and what it causes, `impulse` is a function of n = k and `transfer` its z-transform.
    """

    equations: tuple[sympy.Eq, ...]
    transfer: dict[str, sympy.Expr]
    impulse: dict[str, sympy.Expr]

    def latex(self) -> str:
        """The equations in LaTeX, one a line."""
        return "\n".join(sympy.latex(e) for e in self.equations)

    def __str__(self) -> str:
        return "\n".join(f"{e.lhs} = {e.rhs}" for e in self.equations)


def to_sympy(net: Any, recurrence: str = "r0") -> Symbolic:
    """The recurrence of that name (see `net.report`) of the program that was last compiled for `net`.

    Raises StateError if `net` was not called or captured, and KeyError for a name that the report does not have.
    """
    return _symbolic(_require_engine(net).program_for((), {}), recurrence)


def _symbolic(compiled: Compiled, recurrence: str) -> Symbolic:
    found = {r.name: r for r in compiled.graph.recurrences}
    if recurrence not in found:
        raise KeyError(f"no recurrence is called {recurrence!r}; the report has {', '.join(found) or 'none'}")
    graph = compiled.captured.graph
    known = graph.by_name()
    states = found[recurrence].states
    if any(s not in known for s in states):
        raise StateError(
            "LR4005", f"the states of {recurrence} are made by the compiler, not by the program", help="see net.report"
        )
    writer = _Writer(graph, states, any(known[m].kind in _MATRICES for m in found[recurrence].members if m in known))
    equations = tuple(sympy.Eq(writer.sequence(s)(n), writer.step(known[s]), evaluate=False) for s in states)
    if len(equations) != 1 or found[recurrence].kind != "lti" or equations[0].rhs.count_ops() > _EXPANDED:
        return Symbolic(equations, {}, {})
    return Symbolic(equations, *_closed(equations[0], writer.sequence(states[0])))


def program_of(model: Any, *args: Any) -> Compiled:
    """The program of a model for a call; raises StateError where it cannot be captured."""
    return (_engine_of(model) or _new_engine(model, Options())).program_for(args, {})


def with_closed_forms(report: Report, compiled: Compiled) -> Report:
    """The report with the impulse responses of its small time-invariant recurrences, up to RESPONSES lines each.

    Of systems of up to ORDER real states, at the present numbers of their parameters; where those are too many, or come
    with the call, in symbols if one equation tells all. n steps lie between a drive and what it causes.
    """
    stages = Stages()
    default_pipeline([stages]).run(compiled.captured.graph, Context({"T": 64}, frozenset(), "chunked"))
    lines = {r.name: tuple(_lines(r.name, stages.graphs, compiled)) for r in report.recurrences if r.kind == "lti"}
    return replace(report, recurrences=[replace(r, closed=lines.get(r.name, ())) for r in report.recurrences])


def _lines(recurrence: str, stages: Mapping[str, Graph], compiled: Compiled) -> Iterator[str]:
    graph = stages["choose-form"]
    found = next((r for r in graph.recurrences if r.name == recurrence), None)
    system = system_of(graph, found) if found is not None and found.semiring == "sum-product" else None
    matrices = _matrices(stages["lower"], recurrence, compiled) if isinstance(system, System) else None
    if isinstance(system, System) and matrices is not None:
        outputs, drives = _entries(graph, system.outputs), _entries(graph, system.drives)
        groups = len(matrices[0])
        if len(outputs) * len(drives) * groups <= RESPONSES and len(matrices[0][0]) <= ORDER:
            for group in range(groups):
                a, g, c, d = (sympy.Matrix([[rational(x) for x in row] for row in m[group]]) for m in matrices)
                response = impulse_response(a, g, c, d)
                assert response is not None, "numbers have poles"
                where = f" in group {group}" if groups > 1 else ""
                for (i, y), (j, u) in ((o, w) for o in enumerate(outputs) for w in enumerate(drives)):
                    yield f"{y} answers {u}{where}: {rounded(response[i, j])}"
            return
    if found is None or any(s not in compiled.captured.graph.by_name() for s in found.states):
        return
    for drive, expression in list(_symbolic(compiled, recurrence).impulse.items())[:RESPONSES]:
        yield f"{found.states[0]} answers {drive}: {expression}"


def _entries(graph: Graph, vectors: list[Vector]) -> list[str]:
    """Names of the entries of a vector; steps of an input go by its name."""
    found, writer = [], _Writer(graph, (), False)
    for v in vectors:
        op = graph.op(v.use.name)
        name = str(writer.step(op).func) if op.kind == "signal" else v.use.name
        width = product(v.sizes(MIXED))
        assert isinstance(width, int)
        found += [name] if width == 1 else [f"{name}[{i}]" for i in range(width)]
    return found


def _matrices(graph: Graph, recurrence: str, compiled: Compiled) -> list[Any] | None:
    """A, G, C, D as arrays; None unless they are finite, real and made of what the program holds itself."""
    op = next((o for o in graph.ops if o.kind == "lti_chunked" and o.result.startswith(f"{recurrence}.")), None)
    if op is None or (isinstance(op.type, Type) and op.type.dtype[0] == "c"):
        return None
    parts, edges = [u for u in op.args[1:5] if isinstance(u, Use)], graph.edges()
    called = {i.name for i in graph.inputs if i.role == "input"}
    sources = {a for u in parts for a in (nx.ancestors(edges, u.name) if u.name in edges else ())}
    shapes = [graph.op(u.name).type for u in parts if u.name in graph.by_name()]
    small = all(isinstance(d, int) and d <= ORDER for t in shapes for d in (t.shape if isinstance(t, Type) else ()))
    if not small or called & (sources | {u.name for u in parts}):
        return None
    # what the call gives is not read: numbers stand in for it
    given = [
        torch.zeros([d if isinstance(d, int) else 2 for d in i.type.shape]) for i in graph.inputs if i.role == "input"
    ]
    with torch.no_grad():
        # not what draws random numbers: a report leaves those to the program
        ops = tuple(op for op in graph.ops if op.result in sources or any(op.result == u.name for u in parts))
        alone = replace(graph, ops=ops, times=(), outputs=tuple(parts), effects=(), recurrences=())
        values = Form.of(alone, ())(*given, *(get() for get in compiled.getters))
    return (
        [v.detach().to(torch.promote_types(v.dtype, torch.float32)).numpy() for v in values]
        if all(bool(torch.isfinite(v).all()) for v in values)
        else None
    )


class _Writer:
    def __init__(self, graph: Graph, states: tuple[str, ...], matrices: bool) -> None:
        self.graph, self.by_name, self.states, self.commutes = graph, graph.by_name(), states, not matrices
        self.known: dict[str, Any] = {}

    def sequence(self, name: str) -> Any:
        return sympy.Function(name) if self.commutes else sympy.Function(name, commutative=False)

    def symbol(self, name: str) -> Any:
        return sympy.Symbol(name, commutative=self.commutes)

    def read(self, arg: Arg) -> Any:
        """An argument as an expression."""
        if isinstance(arg, tuple):
            return sympy.Tuple(*map(self.read, arg))
        if not isinstance(arg, Use):
            is_number = isinstance(arg, int | float) and not isinstance(arg, bool)
            return sympy.nsimplify(arg) if is_number else sympy.Symbol(str(arg))
        op = self.by_name.get(arg.name)
        if op is None:
            return self.symbol(arg.name)
        if op.time is None:
            return self.read(op.args[0]) if op.kind in _SAME else self.symbol(arg.name)
        if arg.name in self.states or arg.delay:
            return self.sequence(arg.name)(n - arg.delay)
        if arg.name not in self.known:
            self.known[arg.name] = self.step(op)
        return self.known[arg.name]

    def step(self, op: Op) -> Any:
        """What an op computes at step n."""
        if op.kind == "signal":
            source = op.args[0]
            while isinstance(source, Use) and (made := self.by_name.get(source.name)) and made.kind in _SAME | _TURNED:
                source = made.args[0]
            assert isinstance(source, Use)
            return self.sequence(source.name)(n)
        if op.kind in ("matmul", "mm"):
            return self._turned(op.args[1]) * self.read(op.args[0])
        if op.kind == "linear":
            product = self.read(op.args[1]) * self.read(op.args[0])
            return product + self.read(op.args[2]) if len(op.args) > 2 and op.args[2] is not None else product
        args = [self.read(a) for a in op.args]
        if op.kind in _SAME:
            return args[0]
        if op.kind in ("add", "sub"):
            factor = self.read(dict(op.attrs).get("alpha", 1))
            return args[0] + (factor if op.kind == "add" else -factor) * args[1]
        if op.kind == "rsub":
            return args[1] - args[0]
        if op.kind == "mul":
            return args[0] * args[1]
        if op.kind == "div":
            return args[0] / args[1]
        if op.kind == "select" and isinstance(args[0], sympy.core.function.AppliedUndef):
            return self._channel(op, args[0])
        if op.kind == "neg":
            return -args[0]
        if op.kind == "pow":
            return args[0] ** args[1]
        # of arguments that do not commute sympy may turn the sign of an odd function for ever
        known = _FUNCTIONS.get(op.kind) if all(getattr(a, "is_commutative", True) for a in args) else None
        return (known or self.sequence(op.kind))(*args)

    def _channel(self, op: Op, whole: Any) -> Any:
        """One channel of a sequence, under its name if it is the only one."""
        source, dim, index = op.args
        made = self.by_name[source.name].type if isinstance(source, Use) else None
        only = isinstance(made, Type) and isinstance(dim, int) and made.shape[dim] == 1
        name = str(whole.func) if only else f"{whole.func}_{index}"
        return self.sequence(name)(whole.args[0])

    def _turned(self, arg: Arg) -> Any:
        """The transpose of a matrix that does not vary."""
        op = self.by_name.get(arg.name) if isinstance(arg, Use) else None
        if op is not None and op.time is None and op.kind in _TURNED:
            return self.read(op.args[0])
        return self.symbol(f"{self.read(arg)}^T")


def _is_step(function: Any) -> bool:
    """Is it a sequence at n, or some steps before?"""
    (at, *others) = function.args
    return not others and isinstance(at, sympy.Expr) and bool((n - at).is_Integer)


def _closed(equation: sympy.Eq, state: Any) -> tuple[dict[str, sympy.Expr], dict[str, sympy.Expr]]:
    """Transfer functions and impulse responses of x(n) = sum a_k x(n - k) + sum b_j u_j(n)."""
    back: dict[int, Any] = {}
    drives: dict[str, Any] = {}
    if not all(_is_step(f) for f in equation.rhs.atoms(sympy.core.function.AppliedUndef)):
        return {}, {}
    for term in sympy.Add.make_args(sympy.expand(equation.rhs)):
        functions = term.atoms(sympy.core.function.AppliedUndef)
        if len(functions) != 1:
            return {}, {}
        (f,) = functions
        factor = _factor(term, f)
        if factor is None or (f.func != state and f.args[0] != n):
            return {}, {}
        if f.func == state:
            lag = int(n - f.args[0])
            back[lag] = back.get(lag, 0) + factor
        else:
            drives[str(f.func)] = drives.get(str(f.func), 0) + factor
    commutes = all(a.is_commutative for a in (*back.values(), *drives.values()))
    if not back or (max(back) > 1 and not commutes):
        return {}, {}
    polynomial = 1 - sum(a * z**-k for k, a in back.items())
    transfer = {u: polynomial**-1 * b for u, b in drives.items()}
    if not commutes:
        return transfer, {u: back[1] ** n * b for u, b in drives.items()}
    order = max(back)
    row = [back.get(k, sympy.Integer(0)) for k in range(1, order + 1)]
    companion = sympy.Matrix([row, *sympy.eye(order)[: order - 1, :].tolist()])
    unit = sympy.Matrix([1, *[0] * (order - 1)])
    response = impulse_response(companion, unit, sympy.Matrix([row]), sympy.Matrix([[1]]))
    return transfer, {} if response is None else {u: b * response[0, 0] for u, b in drives.items()}


def _factor(term: Any, f: Any) -> Any | None:
    """What stands before `f` in a product; None if it does not stand there once and last."""
    factors = list(sympy.Mul.make_args(term))
    if factors.count(f) != 1 or (not f.is_commutative and factors[-1] != f):
        return None
    factors.remove(f)
    return sympy.Mul(*factors)
