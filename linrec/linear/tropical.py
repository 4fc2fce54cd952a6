"""Lowering over semirings whose plus is no sum: states by a scan, gradients by a second, ordinary recurrence.

A maximum passes its gradient to the argument that is largest, and ties are shared the way each operator of the loop
shares them. So the scan over (max, +) gives states S without a gradient, and the gradient comes from the recurrence
of the derivatives of the user's own operators at S: linear over (+, x), time-varying, and lowered as any other.

    d[k] = J[k] d[k-1] + F[k] du[k],    states = S + d

where du is zero with the gradient of u (`semiring_tangent`), so that d is zero and has the gradient of the loop. For
(logsumexp, +) the derivatives J depend on the states themselves: taken a second time at S + d they have a gradient
of their own, which makes second derivatives right.
"""

from __future__ import annotations

from dataclasses import replace

from linrec.ir import Arg, Graph, Op, Recurrence, Type, Use, order
from linrec.linear.affine import Refusal
from linrec.linear.analysis import Analysis
from linrec.linear.semirings import LOG, SEMIRINGS
from linrec.linear.varying import Layout, Lowering, layout_of, lower_varying


def lower_tropical(graph: Graph, recurrence: Recurrence, *, derivatives: bool = True) -> Graph:
    """Replace a recurrence over (max, +), (min, +) or (logsumexp, +) by a scan and the recurrence of its gradient.

    By the scan alone where nobody takes `derivatives`.
    """
    layout = layout_of(graph, recurrence)
    assert isinstance(layout, Layout)
    if not derivatives:
        return lower_varying(graph, recurrence)
    found, ops = Lowering(graph, recurrence, layout).signals()
    base = {state: f"{state}.value" for state in recurrence.states}
    ops = [*ops, *(replace(op, result=base[state]) for state, op in found.items())]
    graph = replace(graph, ops=order((*graph.ops, *ops)))
    at = base
    for turn in range(2 if SEMIRINGS[recurrence.semiring] == LOG else 1):
        last = SEMIRINGS[recurrence.semiring] != LOG or turn == 1
        graph, at = _with_gradient(graph, recurrence, base, at, "" if last else ".once", f".d{turn}")
    return graph


def _with_gradient(
    graph: Graph, recurrence: Recurrence, base: dict[str, str], at: dict[str, str], suffix: str, mark: str
) -> tuple[Graph, dict[str, str]]:
    """States `base` plus the recurrence of derivatives taken at the states `at`, named with `suffix`."""
    tangents = Tangents(graph, recurrence, at, mark)
    new, derivative = tangents.run()
    named = {s: f"{s}{suffix}" for s in recurrence.states}
    sums = [
        replace(graph.op(s), result=named[s], kind="add", args=(Use(base[s]), Use(tangents.name(s))), attrs=())
        for s in recurrence.states
    ]
    kept = [op for op in graph.ops if op.result not in named.values()]
    graph = replace(graph, ops=order((*kept, *new, *sums)))
    layout = layout_of(graph, derivative)
    assert not isinstance(layout, Refusal), "the derivative mixes no axes that the recurrence does not"
    return lower_varying(graph, derivative), named


class Tangents:
    """Writes the derivative of every member of a recurrence at given states."""

    def __init__(self, graph: Graph, recurrence: Recurrence, at: dict[str, str], mark: str) -> None:
        self.graph, self.recurrence, self.at, self.mark = graph, recurrence, at, mark
        self.by_name = graph.by_name()
        self.members = set(recurrence.members)
        self.analysis = Analysis(graph, (), ())
        self.ops: list[Op] = []
        self.carriers: dict[Use, Use] = {}

    def name(self, member: str) -> str:
        """The derivative of a member."""
        return f"{member}{self.mark}"

    def value(self, arg: Arg) -> Arg:
        """A member's value at the given states; everything else is itself."""
        if isinstance(arg, tuple):
            return tuple(map(self.value, arg))
        if not isinstance(arg, Use) or arg.name not in self.members:
            return arg
        if arg.name in self.at:
            return Use(self.at[arg.name], arg.delay)
        return Use(f"{arg.name}{self.mark}.at", arg.delay)

    def run(self) -> tuple[list[Op], Recurrence]:
        """The new ops, and the recurrence that they are."""
        for member in self.recurrence.members:
            op = self.by_name[member]
            if member not in self.at:
                self.ops.append(op.map_uses(self._reread))
                self.ops[-1] = replace(self.ops[-1], result=f"{member}{self.mark}.at")
            made = self._tangent(op)
            init = tuple(self._carrier(v) for v in op.init)
            type_ = op.type[0] if isinstance(op.type, tuple) else op.type
            self.ops.append(Op(self.name(member), "alias", (made,), (), type_, op.time, init, op.source))
        new = {op.result for op in self.ops}
        outputs = tuple(self.name(s) for s in self.recurrence.states)
        inner = tuple(op.result for op in self.ops if op.result in new and self._is_inside(op))
        derivative = Recurrence(
            f"{self.recurrence.name}{self.mark}", self.recurrence.time, outputs, inner, outputs, kind="ltv"
        )
        return self.ops, derivative

    def _is_inside(self, op: Op) -> bool:
        # values at given states and what is carried in from outside are coefficients and drives
        return op.result.removesuffix(self.mark) in self.members or f"{self.mark}~" in op.result

    def _reread(self, use: Use) -> Arg:
        return self.value(use)

    def _make(self, kind: str, args: tuple[Arg, ...], type_: Type, *, inside: bool, time: str | None) -> Use:
        name = f"{self.recurrence.name}.{kind}{len(self.ops)}{self.mark}{'~' if inside else ''}"
        self.ops.append(Op(name, kind, args, (), type_, time))
        return Use(name)

    # derivatives ---------------------------------------------------------------------------------------

    def _carrier(self, arg: Arg) -> Arg:
        """The derivative of an argument: that of a member, or zero with the gradient of what comes from outside."""
        if isinstance(arg, tuple):
            return tuple(map(self._carrier, arg))
        if not isinstance(arg, Use):
            return 0.0 if isinstance(arg, int | float) and not isinstance(arg, bool) else arg
        if arg.name in self.members:
            return Use(self.name(arg.name), arg.delay)
        type_ = self.analysis.type(arg)
        if not _has_derivative(type_):
            return 0.0
        if arg not in self.carriers:
            read = self.by_name.get(arg.name)
            time = read.time if read is not None else None
            self.carriers[arg] = self._make("semiring_tangent", (arg,), type_, inside=False, time=time)
        return self.carriers[arg]

    def _tangent(self, op: Op) -> Arg:
        kind, args = op.kind, op.args
        several = isinstance(op.type, tuple)
        if kind in ("maximum", "minimum", "logaddexp") or (kind in ("max", "min") and len(args) > 1 and not several):
            plain = {"max": "maximum", "min": "minimum"}.get(kind, kind)
            return self._split(op, plain, args[0], args[1])
        if kind in ("relu", "clamp_min", "clamp_max", "clamp"):
            return self._bounded(op)
        if kind in ("amax", "amin", "logsumexp", "max", "min"):
            return self._reduced(op)
        if kind == "getitem":
            return self._carrier(args[0])
        return self._moved(op)

    def _split(self, op: Op, kind: str, left: Arg, right: Arg) -> Arg:
        """w dl + (1 - w) dr with the weight w of the left argument."""
        type_ = _type(op)
        weight = self._make(
            "semiring_weight", (kind, self.value(left), self.value(right)), type_, inside=False, time=op.time
        )
        return self._weighted(op, weight, left, right)

    def _weighted(self, op: Op, weight: Use, left: Arg, right: Arg) -> Arg:
        type_ = _type(op)
        rest = self._make("rsub", (weight, 1), type_, inside=False, time=op.time)
        first = self._make("mul", (weight, self._carrier(left)), type_, inside=True, time=op.time)
        second = self._make("mul", (rest, self._carrier(right)), type_, inside=True, time=op.time)
        return self._make("add", (first, second), type_, inside=True, time=op.time)

    def _bounded(self, op: Op) -> Arg:
        attrs = dict(op.attrs)
        low = attrs.get("min", op.args[1] if len(op.args) > 1 else None)
        high = attrs.get("max", op.args[2] if len(op.args) > 2 else None)
        bound: Arg = 0.0
        if op.kind == "relu":
            kind = "relu"
        elif op.kind == "clamp_max" or low is None:
            kind, bound = "high", high if op.kind == "clamp" else op.args[1]
        else:
            kind, bound = "low", low
        args = (kind, self.value(op.args[0]), self.value(bound))
        weight = self._make("semiring_bound", args, _type(op), inside=False, time=op.time)
        return self._weighted(op, weight, op.args[0], bound)

    def _reduced(self, op: Op) -> Arg:
        """sum over the axes of w dx with the weight w of each element."""
        given = self.analysis.type(op.args[0])
        rank = len(given.shape)
        dims = op.args[1] if len(op.args) > 1 and op.args[1] not in (None, ()) else tuple(range(rank))
        chosen = tuple(d % rank for d in (dims if isinstance(dims, tuple) else (dims,)) if isinstance(d, int))
        keep = bool(dict(op.attrs).get("keepdim", op.args[2] if len(op.args) > 2 else False))
        one = isinstance(op.type, tuple)
        args = (
            (op.kind, self.value(op.args[0]), chosen[0])
            if one
            else (_REDUCTIONS[op.kind], self.value(op.args[0]), chosen)
        )
        weight = self._make("semiring_choice" if one else "semiring_share", args, given, inside=False, time=op.time)
        product = self._make("mul", (weight, self._carrier(op.args[0])), given, inside=True, time=op.time)
        type_ = op.type[0] if isinstance(op.type, tuple) else _type(op)
        return self._make("sum", (product, chosen, keep), type_, inside=True, time=op.time)

    def _moved(self, op: Op) -> Arg:
        """An operator that is linear in all it reads: itself, on derivatives; masks and indices stay."""
        places = _NUMBERS.get(op.kind, ())
        args = [self._carrier(a) if self._is_linear_in(a) or i in places else a for i, a in enumerate(op.args)]
        if op.kind in ("add", "sub", "rsub") and not any(isinstance(a, Use) for a in args[:2]):
            return 0.0
        name = f"{self.recurrence.name}.{op.kind}{len(self.ops)}{self.mark}~"
        attrs = tuple((k, v) for k, v in op.attrs)
        self.ops.append(replace(op, result=name, args=tuple(args), attrs=attrs, init=()))
        return Use(name)

    def _is_linear_in(self, arg: Arg) -> bool:
        """Is it a tensor that has a derivative, or several?"""
        if isinstance(arg, tuple):
            return any(map(self._is_linear_in, arg))
        return isinstance(arg, Use) and (arg.name in self.members or _has_derivative(self.analysis.type(arg)))


def _has_derivative(type_: Type) -> bool:
    return type_.dtype[0] in "fb" and type_.dtype != "bool"


_REDUCTIONS = {"max": "amax", "min": "amin", "amax": "amax", "amin": "amin", "logsumexp": "logsumexp"}
# where what moves numbers takes one of its own, whose derivative is zero
_NUMBERS: dict[str, tuple[int, ...]] = {
    "add": (0, 1), "sub": (0, 1), "rsub": (0, 1), "where": (1, 2), "masked_fill": (2,), "constant_pad_nd": (2,), "pad": (3,),
    "scatter": (3,), "index_fill": (3,),
}  # fmt: skip


def _type(op: Op) -> Type:
    assert isinstance(op.type, Type)
    return op.type
