"""One step: the program from a state, for T = 1, without loops and without a time axis.

A read of h[-d] is a leaf of the state; what is carried on is the new value, or the leaf before. A value that has a
time axis exists *narrow* (without it) or *wide* (with an axis of length one); ops that treat steps one by one run
narrow, the others wide, and a value is converted only where the two meet. Cost: that of one step as written.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from linrec.emit.alignment import ELEMENTWISE, LAST_AXES
from linrec.emit.folding import is_folded
from linrec.emit.stateful import Stateful
from linrec.ir import Arg, Graph, Op, Type, Use, map_uses, specialized
from linrec.sizes import Dim, names_of

_NARROW = ELEMENTWISE | frozenset(LAST_AXES) | {"linear", "embedding"}


def one_step(program: Stateful) -> Graph:
    """The graph of a step: inputs without their time axes, outputs without theirs, then the next state."""
    return _Stepper(program).graph()


@dataclass
class _Stepper:
    program: Stateful
    ops: list[Op] = field(default_factory=list)
    axis: dict[str, int] = field(default_factory=dict)  # values outside the loops: where time is
    narrow: dict[str, Use] = field(default_factory=dict)
    wide: dict[str, Use] = field(default_factory=dict)
    types: dict[str, Type] = field(default_factory=dict)

    def graph(self) -> Graph:
        """Rewrite all ops in their order."""
        onward = self.program.onward
        one = specialized(onward, {"T": 1})
        self.axis = {i.name: a for i, a in zip(onward.inputs, self.program.inputs, strict=False) if a is not None}
        self.types = {i.name: i.type for i in one.inputs}
        self.types |= {op.result: op.type for op in one.ops if isinstance(op.type, Type)}
        inputs = list(one.inputs)
        for n, i in enumerate(inputs):
            if i.name in self.axis:
                inputs[n] = replace(i, type=_without(i.type, self.axis[i.name]))
                self.narrow[i.name] = Use(i.name)
        by_name = one.by_name()
        for before, op in zip(onward.ops, one.ops, strict=True):
            self.step(before, op, by_name)
        outputs: list[Arg] = []
        for out, axis in zip(one.outputs, self.program.outputs, strict=False):
            outputs.append(self.slim(out) if isinstance(axis, int) and isinstance(out, Use) else self.plain(out))
        outputs += [self.plain(o) for o in one.outputs[len(self.program.outputs) :]]
        return replace(
            one, name=f"{one.name}.step", inputs=tuple(inputs), times=(), ops=tuple(self.ops), outputs=tuple(outputs)
        )

    def step(self, before: Op, op: Op, by_name: dict[str, Op]) -> None:
        """One op, inside or outside the loops."""
        source = op.args[0] if op.args else None
        if op.kind == "signal":
            assert isinstance(source, Use) and isinstance(op.args[1], int) and isinstance(op.args[2], int)
            if op.args[2] == 0 and source.name in self.narrow:
                self.put(replace(op, kind="alias", args=(self.narrow[source.name],), time=None))
            else:
                self.put(replace(op, kind="select", args=(self.full(source), *op.args[1:3]), time=None))
        elif op.kind == "carry":
            assert isinstance(source, Use) and isinstance(op.args[1], int)
            self.put(replace(op, kind="alias", args=(self.delayed(Use(source.name, op.args[1] - 1), by_name),)))
        elif op.kind == "stack" and op.leaves_time:
            assert isinstance(source, Use) and isinstance(op.args[1], int) and isinstance(op.type, Type)
            self.axis[op.result] = op.args[1]
            self.narrow[op.result] = self.delayed(source, by_name)
        elif op.kind == "last":
            assert isinstance(source, Use)
            self.put(replace(op, kind="alias", args=(self.delayed(source, by_name),)))
        elif op.time is not None:
            inner = op.map_uses(lambda u: self.delayed(u, by_name))
            self.put(replace(inner, time=None, init=()))
        else:
            self.outside(before, op)

    def put(self, op: Op) -> None:
        """Append an op whose result has no time axis."""
        self.ops.append(op)

    def delayed(self, use: Use, by_name: dict[str, Op]) -> Use:
        """A read of this step or of the state."""
        op = by_name.get(use.name)
        if op is None or not use.delay:
            return Use(use.name)
        found = op.init[use.delay - 1]
        assert isinstance(found, Use)
        return found

    def outside(self, before: Op, op: Op) -> None:
        """An op outside the loops: narrow where it treats steps one by one, else wide."""
        varying = [u for u in op.uses() if u.name in self.axis]
        along = [i for i, d in enumerate(_shape(before)) if "T" in names_of(d) and not is_folded(d)]
        if op.kind == "getitem" and varying:
            self.axis[op.result] = self.axis[varying[0].name]
            return self.wider(op)
        if isinstance(op.type, tuple) and varying:
            self.axis[op.result] = self.axis[varying[0].name]
            return self.wider(op)
        if len(along) != 1 or not varying:
            self.put(op.map_uses(self.full))
            if len(along) == 1:
                self.axis[op.result] = along[0]
                self.wide[op.result] = Use(op.result)
            return None
        self.axis[op.result] = axis = along[0]
        assert isinstance(op.type, Type)
        from_end = len(op.type.shape) - axis
        fits = all(u in varying or len(self.types[u.name].shape) < from_end for u in op.uses())
        if op.kind in _NARROW and fits and not any(isinstance(a, tuple) and op.kind in ELEMENTWISE for a in op.args):
            self.ops.append(
                replace(op.map_uses(lambda u: self.slim(u) if u in varying else u), type=_without(op.type, axis))
            )
            self.narrow[op.result] = Use(op.result)
            return None
        if op.kind == "alias" and varying[0].name in self.narrow:
            self.narrow[op.result] = self.narrow[varying[0].name]
            return None
        return self.wider(op)

    def wider(self, op: Op) -> None:
        """An op on values with a time axis of length one."""
        self.ops.append(op.map_uses(self.full))
        self.wide[op.result] = Use(op.result)

    def plain(self, arg: Arg) -> Arg:
        """An output or a leaf: with its time axis if it has one."""
        return map_uses(arg, self.full)

    def full(self, use: Use) -> Use:
        """The value with its time axis."""
        if use.name not in self.axis or use.name in self.wide:
            return self.wide.get(use.name, use)
        axis, type_ = self.axis[use.name], self.types[use.name]
        made = Op(f"{use.name}.wide", "unsqueeze", (self.narrow[use.name], axis), (), type_)
        self.ops.append(made)
        self.wide[use.name] = Use(made.result)
        return self.wide[use.name]

    def slim(self, use: Use) -> Use:
        """The value without its time axis."""
        if use.name not in self.axis or use.name in self.narrow:
            return self.narrow.get(use.name, use)
        axis = self.axis[use.name]
        made = Op(f"{use.name}.now", "select", (self.wide[use.name], axis, 0), (), _without(self.types[use.name], axis))
        self.ops.append(made)
        self.narrow[use.name] = Use(made.result)
        return self.narrow[use.name]


def _without(type_: Type, axis: int) -> Type:
    return Type(type_.dtype, (*type_.shape[:axis], *type_.shape[axis + 1 :]))


def _shape(op: Op) -> tuple[Dim, ...]:
    return op.type.shape if isinstance(op.type, Type) else ()
