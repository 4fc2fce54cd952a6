"""Analysis: the affine forms of a set of ops in given variables.

Walks the ops in order, keeps a form for every value that depends on a variable, and stops at the
first op that is not affine. New ops that carry offsets along are collected in `ops`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from linrec.dtypes import LONG
from linrec.ir import Arg, Atom, Graph, Op, Recurrence, Type, Use
from linrec.linear.affine import MAX_TERMS, Form, Labels, Refusal, variable
from linrec.linear.rules import apply
from linrec.linear.semirings import SEMIRINGS, SUM, Semiring


class Analysis:
    """Forms of `members` in `variables` over a semiring; `refusal` says where that ended, if it did."""

    def __init__(
        self,
        graph: Graph,
        members: Collection[str],
        variables: Iterable[Use],
        semiring: Semiring = SUM,
        labels: Labels | None = None,
    ) -> None:
        self.graph, self.semiring = graph, semiring
        self.labels = Labels() if labels is None else labels  # given where forms of several analyses are joined
        self.ops: list[Op] = []
        self.refusal: Refusal | None = None
        self.types: dict[str, Type] = {i.name: i.type for i in graph.inputs}
        self.times: dict[str, str | None] = {op.result: op.time for op in graph.ops}
        self.types |= {op.result: op.type for op in graph.ops if isinstance(op.type, Type)}
        self.variables = {use: variable(use, self.types[use.name], self.labels) for use in variables}
        self.forms: dict[str, Form] = {}
        self._current: Op | None = None
        for op in graph.ops:
            if op.result in members and self.refusal is None:
                self._visit(op)

    def _visit(self, op: Op) -> None:
        self._current = op
        if not any(self.form(use) is not None for use in op.uses()):
            return
        result = apply(op, self)
        if isinstance(result, Form) and len(result.terms) > MAX_TERMS:
            from linrec.linear.paths import joined  # writes ops, as everything built on analyses does

            result = joined(result, self, op.result, self.type(Use(op.result)).dtype)
            if len(result.terms) > MAX_TERMS:
                reason = f"the state reaches `{op.kind}` along more than {MAX_TERMS} paths"
                result = Refusal(
                    "LR1298", op.result, reason, "combine the coefficients first: h @ A + h @ B is h @ (A + B)"
                )
        if isinstance(result, Refusal):
            self.refusal = result
        else:
            self.forms[op.result] = result

    # what rules ask ------------------------------------------------------------------------------

    def form(self, arg: Arg) -> Form | None:
        """The form of an argument, None if it depends on no variable."""
        if isinstance(arg, tuple):
            return next((f for item in arg if (f := self.form(item)) is not None), None)
        if not isinstance(arg, Use):
            return None
        known = self.variables.get(arg)
        return known if known is not None else self.forms.get(arg.name) if arg.delay == 0 else None

    def type(self, arg: Arg) -> Type:
        """The type of an argument; a number is a scalar."""
        if not isinstance(arg, Use):
            return Type("f64", ())
        if arg.name not in self.types:  # of several results the first is meant
            several = self.graph.op(arg.name).type
            assert isinstance(several, tuple)
            return several[0]
        return self.types[arg.name]

    def clone(self, op: Op, args: tuple[Arg, ...]) -> Arg:
        """`op` on other arguments."""
        assert isinstance(op.type, Type)
        return self.make(op.kind, args, op.type, op.attrs)

    def make(self, kind: str, args: tuple[Arg, ...], type_: Type, attrs: tuple[tuple[str, Arg], ...] = ()) -> Arg:
        """A new op, varying over time if one of its arguments does."""
        assert self._current is not None
        name = f"{self._current.result}.{len(self.ops)}"
        while name in self.types:
            name += "_"
        op = Op(name, kind, args, attrs, type_, None, (), self._current.source)
        times = {t for use in op.uses() if (t := self.times.get(use.name)) is not None}
        op = replace(op, time=times.pop() if times else None)
        self.ops.append(op)
        self.types[name], self.times[name] = type_, op.time
        return Use(name)

    def filled(self, value: Arg, type_: Type) -> Arg:
        """A tensor of one number, on the device of the program's first input."""
        anchor = Use(self.graph.inputs[0].name)
        return self.make("new_full", (anchor, type_.shape, value), type_, (("dtype", Atom(LONG[type_.dtype])),))

    def indicator(self, matrix: Use) -> Use:
        """Zeros and ones of numbers as those of the semiring."""
        if self.semiring.is_ring:
            return matrix
        type_ = self.types[matrix.name]
        chosen = self.make("ne", (matrix, 0), Type("bool", type_.shape))
        made = self.make("where", (chosen, self.semiring.one, self.semiring.zero), Type("f32", type_.shape))
        made = self.make("to", (made, Atom(LONG[type_.dtype])), type_)
        assert isinstance(made, Use)
        return made

    def conjugates(self) -> bool:
        """Does a complex state reach a value through its conjugate?"""
        return any(term.conjugate for form in self.forms.values() for term in form.terms)

    def varies(self, arg: Arg) -> bool:
        """Does a coefficient change from step to step?"""
        return isinstance(arg, Use) and self.times.get(arg.name) is not None


def analysed(graph: Graph, recurrence: Recurrence) -> Analysis:
    """The forms of a recurrence in its own states, over the semiring it was proven in."""
    return Analysis(graph, recurrence.members, state_reads(graph, recurrence), SEMIRINGS[recurrence.semiring])


def state_reads(graph: Graph, recurrence: Recurrence) -> tuple[Use, ...]:
    """The delayed reads of states by members: the variables of the recurrence, nearest first."""
    by_name = graph.by_name()
    found = {
        use
        for name in recurrence.members
        for use in by_name[name].uses()
        if use.delay > 0 and use.name in recurrence.states
    }
    return tuple(sorted(found, key=lambda use: (recurrence.states.index(use.name), use.delay)))


def driven_by(graph: Graph, recurrence: Recurrence) -> tuple[Use, ...]:
    """The signals of outside that members read: the drives of the recurrence."""
    by_name = graph.by_name()
    members = set(recurrence.members)
    return tuple(
        dict.fromkeys(
            use
            for name in recurrence.members
            for use in by_name[name].uses()
            if use.name not in members and use.name in by_name and by_name[use.name].time is not None
        )
    )
