"""Stateful: a program that goes on from a given state and returns the state to go on from.

With every value outside the loops aligned to steps (`linrec.emit.alignment`), the program for steps n .. n + T - 1
is the captured one with its loops running all T steps, and with the following as its state:

    h, h.2     what a loop reads of its own value 1, 2, ... steps back
    u.past     the last entries of a tensor that is read later than it is known: x[:, t - 2], a convolution over time
    x0         a value of the first steps that later ones read
    c.sum      the running sum of a cumsum
    t          the number of steps so far, where a table is read at step t

A program whose first steps are special (a state that begins as None, a loop from 1) is *warming up* for its first
few steps: they are kept until the whole program can run on them. What looks ahead raises StateError.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from linrec.emit.alignment import (
    NOW,
    SHAPED,
    Along,
    Early,
    Fact,
    T,
)
from linrec.emit.unpeel import unpeel
from linrec.emit.unscatter import unscatter
from linrec.emit.walk import Walk, counted_from, explicit, shape_of
from linrec.ir import Arg, Atom, Graph, Input, Op, Type, Use, map_uses, uses_in
from linrec.sizes import Dim, Size, names_of


@dataclass(frozen=True)
class Leaf:
    """One tensor of the state: its name, the graph input that holds it, and its type."""

    name: str
    input: str
    type: Type


@dataclass(frozen=True)
class Stateful:
    """A program with its state as inputs and outputs.

    `onward` runs any number of steps from a state; its inputs are the program's and one for each leaf, its outputs
    the program's and the leaves. If `warmup` is 0, `start` gives the first state from the program's inputs;
    else it is the whole program on more than `warmup` steps, with the program's outputs and the leaves after them.
    `inputs[i]` and `outputs[j]` are the time axes of arguments and results: an axis, "last" for a value of the last
    step, None for what does not vary. `offsets[j]` is the step at which result j has its first entry.
    """

    onward: Graph
    start: Graph
    warmup: int
    leaves: tuple[Leaf, ...]
    inputs: tuple[int | None, ...]
    outputs: tuple[int | str | None, ...]
    offsets: tuple[int, ...]
    clock: str = ""  # the input that counts the steps so far, if they are counted


def stateful(graph: Graph) -> Stateful:
    """Make the state of a captured program explicit.

    Raises StateError where that cannot be: LR4003 for what looks ahead, LR4004 for loops that do not take each step.
    """
    graph = explicit(unpeel(unscatter(graph)))
    walk = Walk(graph)
    walk.run()
    return _Builder(graph, walk).build()


@dataclass
class _Builder:
    """The onward program and its start."""

    graph: Graph
    walk: Walk
    leaves: list[Leaf] = field(default_factory=list)
    first: list[Op | Arg] = field(default_factory=list)  # each leaf's first value: an argument or an op
    following: list[Arg] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    counter: str = ""  # the input that holds the number of steps so far

    def build(self) -> Stateful:
        """Ops are rewritten in their order, then the leaves' next values added."""
        graph, walk = self.graph, self.walk
        self.clock()
        for i in graph.inputs:
            self.lengthen(i.name)
        kept = self.kept()
        for name in sorted(kept):
            self.renamed[name] = self.leaf(name, walk.types[name], Use(name))
            self.following.append(Use(self.renamed[name]))
        for op in graph.ops:
            fact = walk.facts.get(op.result)
            if isinstance(fact, Early):
                continue
            self.ops += self.rewritten(op, fact)
            self.lengthen(op.result)
        onward = self.onward()
        axes = tuple(self.axis(Use(i.name)) if i.role == "input" else None for i in graph.inputs)
        given = tuple(a if isinstance(a, int) else None for a in axes)
        offsets = tuple(self.offset(o) for o in graph.outputs)
        outputs = tuple(self.axis(o) for o in graph.outputs)
        return Stateful(onward, self.start(), walk.warmup, tuple(self.leaves), given, outputs, offsets, self.counter)

    def axis(self, arg: Arg) -> int | str | None:
        """The time axis of a result, "last" for a value of the last step."""
        fact = self.walk.facts.get(arg.name) if isinstance(arg, Use) else None
        return fact.axis if isinstance(fact, Along) else "last" if fact == NOW else None

    def offset(self, arg: Arg) -> int:
        """The step at which a result has its first entry."""
        fact = self.walk.facts.get(arg.name) if isinstance(arg, Use) else None
        return fact.offset if isinstance(fact, Along) else 0

    # leaves --------------------------------------------------------------------------------------

    def leaf(self, name: str, type_: Type, first: Op | Arg) -> str:
        """A new leaf of the state; the name of its input."""
        self.leaves.append(Leaf(name, f"state.{name}", type_))
        self.first.append(first)
        return f"state.{name}"

    def clock(self) -> None:
        """The number of steps so far, where it is needed."""
        counts = any(op.kind == "arange" and op.result in self.walk.facts for op in self.graph.ops)
        if not (self.walk.tables or counts):
            return
        taken = {i.name for i in self.graph.inputs} | {op.result for op in self.graph.ops}
        name = "t" if "t" not in taken else "t.so_far"
        now = Use(self.leaf(name, Type("i64", ()), T if self.walk.warmup else 0))
        # 1, 2, ... on the device of the count itself
        self.ops.append(Op(f"{now.name}.ones", "new_ones", (now, (T,)), (), Type("i64", (T,))))
        self.ops.append(Op(f"{now.name}.one", "cumsum", (Use(f"{now.name}.ones"), 0), (), Type("i64", (T,))))
        self.ops.append(Op(f"{now.name}.zero", "sub", (Use(f"{now.name}.one"), 1), (), Type("i64", (T,))))
        self.ops.append(Op(f"{now.name}.steps", "add", (Use(f"{now.name}.zero"), now), (), Type("i64", (T,))))
        self.ops.append(Op(f"{now.name}.next", "add", (now, T), (), Type("i64", ())))
        self.following.append(Use(f"{now.name}.next"))
        self.steps, self.counter = Use(f"{now.name}.steps"), now.name

    def kept(self) -> set[str]:
        """Values of the first steps that later ones read, as arguments rather than as initial states."""
        facts = self.walk.facts
        read = {u.name for u in uses_in(self.graph.outputs)}
        for op in self.graph.ops:
            if not isinstance(facts.get(op.result), Early) and op.result not in self.walk.joins:
                read |= {u.name for u in op.uses()}
        return {n for n in read if isinstance(facts.get(n), Early)}

    def lengthen(self, name: str) -> None:
        """The history of a value that is read late: %name.long = [past, value], past = the last entries."""
        steps = self.walk.depth.get(name, 0)
        fact = self.walk.facts.get(name)
        if not steps or not isinstance(fact, Along):
            return
        axis, type_ = fact.axis, self.walk.types[name]
        past_type = Type(type_.dtype, _with(type_.shape, axis, steps))
        here: Dim = T if self.walk.warmup else 0  # the state after `here` steps holds entries here-steps .. here-1
        first = Op("", "slice", (Use(name), axis, here - steps - fact.offset, here - fact.offset), (), past_type)
        past = Use(self.leaf(f"{name}.past", past_type, first))
        value = Use(self.renamed.get(name, name))
        long = Type(type_.dtype, _with(type_.shape, axis, T + steps))
        self.ops.append(Op(f"{name}.long", "cat", ((past, value), axis), (), long))
        self.ops.append(Op(f"{past.name}.next", "slice", (Use(f"{name}.long"), axis, T, T + steps), (), past_type))
        self.following.append(Use(f"{past.name}.next"))

    def loop_leaves(self, op: Op) -> tuple[Arg, ...]:
        """A leaf for each step back that a loop reads its own value."""
        assert isinstance(op.type, Type)
        found: list[Arg] = []
        for back, initial in enumerate(op.init, 1):
            name = op.result if len(op.init) == 1 else f"{op.result}.{back}"
            first: Op | Arg = Op("", "carry", (Use(op.result), back), (), op.type) if self.walk.warmup else initial
            found.append(Use(self.leaf(name, op.type, first)))
            self.following.append(Use(f"state.{name}.next"))
        return tuple(found)

    # ops -----------------------------------------------------------------------------------------

    def rewritten(self, op: Op, fact: Fact) -> list[Op]:
        """An op of the onward program."""
        source = op.args[0] if op.args else None
        if op.init:
            op = replace(op, init=self.loop_leaves(op))
        if op.result in self.walk.tables:
            return self.looked_up(op)
        if isinstance(fact, Along) and isinstance(op.type, Type):
            op = replace(op, type=Type(op.type.dtype, _with(op.type.shape, fact.axis, fact.long(T))))
        if op.kind == "arange" and isinstance(fact, Along):
            first = counted_from(op)
            assert first is not None
            counts = Op(f"{op.result}.steps", "add", (self.steps, first - fact.offset), (), Type("i64", (T,)))
            return [counts, replace(op, kind="_to_copy", args=(Use(counts.result),), attrs=_cast(op))]
        if op.result in self.walk.back:
            assert isinstance(source, Use)
            return self.read_late(op, source, fact)
        if isinstance(fact, Along) and isinstance(op.type, Type):
            if op.result in self.walk.joins or op.kind in ("pad", "constant_pad_nd"):
                return [self.renaming(self.unpadded(op, fact, len(op.type.shape)))]
            if op.kind == "cumsum" and isinstance(op.args[1], int) and op.args[1] % len(op.type.shape) == fact.axis:
                return self.running_sum(op, fact, op.type)
            op = replace(op, args=tuple(self.shape_argument(a, op, fact) for a in op.args))
        return [self.renaming(op)]

    def renaming(self, op: Op) -> Op:
        """Reads of what became a leaf."""
        inits = op.init
        return replace(op.map_uses(lambda u: Use(self.renamed.get(u.name, u.name), u.delay)), init=inits)

    def shape_argument(self, arg: Arg, op: Op, fact: Along) -> Arg:
        """A shape as an argument: time is T long now."""
        if (
            op.kind in SHAPED
            and isinstance(arg, tuple)
            and isinstance(op.type, Type)
            and len(arg) == len(op.type.shape)
        ):
            if "T" in (names_of(d) if isinstance(d := arg[fact.axis], Size) else ()):
                return (*arg[: fact.axis], fact.long(T), *arg[fact.axis + 1 :])
        return arg

    def looked_up(self, op: Op) -> list[Op]:
        """A table at the steps of this chunk."""
        source, axis, start = self.walk.tables[op.result]
        index = f"{op.result}.index"
        assert isinstance(op.type, Type)
        whole = self.walk.types[source.name]
        type_ = Type(whole.dtype, _with(whole.shape, axis, T))
        made = [Op(index, "add", (self.steps, start), (), Type("i64", (T,)))]
        name = op.result if op.kind == "slice" else f"{op.result}.table"
        made.append(Op(name, "index_select", (source, axis, Use(index)), (), type_, None, (), op.source))
        if op.kind == "signal":
            made.append(replace(op, args=(Use(name), axis, 0, 1)))
        return made

    def read_late(self, op: Op, source: Use, fact: Fact) -> list[Op]:
        """An op that reads a value some steps after it is known."""
        steps, back = self.walk.depth.get(source.name, 0), self.walk.back[op.result]
        known = self.walk.facts[source.name]
        assert isinstance(known, Along)
        axis = known.axis
        value = Use(f"{source.name}.long") if steps else Use(self.renamed.get(source.name, source.name))
        if op.kind == "signal":
            return [replace(op, args=(value, axis, steps - back, 1))]
        if op.kind == "select":
            return [replace(op, args=(value, axis, T + (steps - back - 1)))]
        if op.kind == "slice":
            begin: Dim = T + (steps - back - 1) if fact == NOW else steps - back
            many = shape_of(op)[axis] if fact == NOW else T
            if not steps and fact != NOW:
                return [replace(op, kind="alias", args=(value,))]
            return [replace(op, args=(value, axis, begin, begin + many))]
        if steps == back:  # a window over all there is
            return [self.renaming(replace(op, args=(value, *op.args[1:])))]
        type_ = self.walk.types[source.name]
        window = Op(
            f"{op.result}.window", "slice", (value, axis, steps - back, T + steps), (),
            Type(type_.dtype, _with(type_.shape, axis, T + back)),
        )  # fmt: skip
        return [window, self.renaming(replace(op, args=(Use(window.result), *op.args[1:])))]

    def unpadded(self, op: Op, fact: Along, rank: int) -> Op:
        """What was put before the first step or after the last is history, or cut off again."""
        if op.result in self.walk.joins:
            parts = op.args[0]
            assert isinstance(parts, tuple)
            (along,) = (p for p in parts if isinstance(p, Use) and isinstance(self.walk.facts.get(p.name), Along))
            return replace(op, kind="alias", args=(along,), attrs=())
        widths = op.args[1]
        assert isinstance(widths, tuple)
        place = 2 * (rank - 1 - fact.axis)
        rest = tuple(0 if i in (place, place + 1) else w for i, w in enumerate(widths))
        if any(rest):
            return replace(op, args=(op.args[0], rest, *op.args[2:]))
        return replace(op, kind="alias", args=(op.args[0],), attrs=())

    def running_sum(self, op: Op, fact: Along, type_: Type) -> list[Op]:
        """cumsum over n + T steps = the sum of the first n + cumsum over the last T."""
        one = Type(type_.dtype, _with(type_.shape, fact.axis, 1))
        end = Op("", "slice", (Use(op.result), fact.axis, -1, None), (), one)
        so_far = Use(self.leaf(f"{op.result}.sum", one, end if self.walk.warmup else 0))
        self.following.append(Use(f"{so_far.name}.next"))
        return [
            self.renaming(replace(op, result=f"{op.result}.chunk")),
            Op(op.result, "add", (Use(f"{op.result}.chunk"), so_far), (), type_, None, (), op.source),
            Op(f"{so_far.name}.next", "slice", (Use(op.result), fact.axis, T - 1, T), (), one),
        ]

    # graphs --------------------------------------------------------------------------------------

    def onward(self) -> Graph:
        """The program from a state: every loop takes all T steps."""
        walk = self.walk
        inputs = [
            replace(i, type=Type(i.type.dtype, _with(i.type.shape, f.axis, T))) if isinstance(f := walk.facts.get(i.name), Along) else i
            for i in self.graph.inputs
        ]  # fmt: skip
        states = [Input(leaf.input, leaf.type, "captured", f"state:{leaf.name}") for leaf in self.leaves]
        ops = list(self.ops)
        for op in self.graph.ops:
            for back in range(1, len(op.init) + 1):
                name = op.result if len(op.init) == 1 else f"{op.result}.{back}"
                assert isinstance(op.type, Type)
                ops.append(Op(f"state.{name}.next", "carry", (Use(op.result), back), (), op.type))
        outputs = [map_uses(o, lambda u: Use(self.renamed.get(u.name, u.name), u.delay)) for o in self.graph.outputs]
        times = tuple(replace(t, trip=T) for t in self.graph.times)
        return replace(
            self.graph, inputs=(*inputs, *states), ops=tuple(ops), outputs=(*outputs, *self.following),
            times=times, effects=(), recurrences=(),
        )  # fmt: skip

    def start(self) -> Graph:
        """The first state, or the whole program with the state after it."""
        ops = list(self.graph.ops)
        firsts: list[Arg] = []
        for leaf, first in zip(self.leaves, self.first, strict=True):
            if isinstance(first, Op):
                ops.append(replace(first, result=f"{leaf.input}.first"))
                firsts.append(Use(f"{leaf.input}.first"))
            else:
                firsts.append(first)
        outputs = (*self.graph.outputs, *firsts) if self.walk.warmup else tuple(firsts)
        return replace(self.graph, ops=tuple(ops), outputs=outputs, effects=(), recurrences=())


def _with(shape: tuple[Dim, ...], axis: int, length: Dim) -> tuple[Dim, ...]:
    return (*shape[:axis], length, *shape[axis + 1 :])


def _cast(op: Op) -> tuple[tuple[str, Arg], ...]:
    """The attributes with which step numbers become what an arange made."""
    assert isinstance(op.type, Type)
    return (("dtype", Atom(op.type.dtype)), *((k, v) for k, v in op.attrs if k == "device"))
