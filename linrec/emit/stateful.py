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
    CREATE,
    NOW,
    SHAPED,
    Along,
    Early,
    Fact,
    Shapes,
    T,
    bounds,
    look_ahead,
    placed,
    reach,
)
from linrec.emit.unpeel import unpeel
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


def stateful(graph: Graph) -> Stateful:
    """Make the state of a captured program explicit.

    Raises StateError where that cannot be: LR4003 for what looks ahead, LR4004 for loops that do not take each step.
    """
    graph = _explicit(unpeel(graph))
    walk = _Walk(graph)
    walk.run()
    return _Builder(graph, walk).build()


def _explicit(graph: Graph) -> Graph:
    """Padding inside operators as an op of its own."""
    ops: list[Op] = []
    for op in graph.ops:
        source = op.args[0] if op.args else None
        if op.kind == "conv1d" and isinstance(source, Use) and len(op.args) > 4 and isinstance(op.args[4], tuple):
            (width,) = op.args[4]
            type_ = _type(graph, source)
            if isinstance(width, int) and width:
                long = Type(type_.dtype, (*type_.shape[:-1], type_.shape[-1] + 2 * width))
                ops.append(Op(f"{op.result}.pad", "pad", (source, (width, width)), (), long, op.time, (), op.source))
                op = replace(op, args=(Use(f"{op.result}.pad"), *op.args[1:4], (0,), *op.args[5:]))
        if op.kind == "diff" and isinstance(source, Use) and len(op.args) == 4 and isinstance(op.args[3], Use):
            type_, first = _type(graph, source), _type(graph, op.args[3])
            dim = op.args[2]
            assert isinstance(dim, int)
            dim %= len(type_.shape)
            shape = tuple(d + first.shape[i] if i == dim else d for i, d in enumerate(type_.shape))
            joined = Op(f"{op.result}.cat", "cat", ((op.args[3], source), dim), (), Type(type_.dtype, shape), op.time)
            ops.append(joined)
            op = replace(op, args=(Use(joined.result), *op.args[1:3]))
        ops.append(op)
    return replace(graph, ops=tuple(ops))


def _type(graph: Graph, use: Use) -> Type:
    types = {i.name: i.type for i in graph.inputs} | {op.result: op.type for op in graph.ops}
    found = types[use.name]
    assert isinstance(found, Type)
    return found


@dataclass
class _Walk:
    """Facts about all values, in the order of ops."""

    graph: Graph
    facts: dict[str, Fact] = field(default_factory=dict)
    shift: dict[str, int] = field(default_factory=dict)  # the step at which each loop begins
    back: dict[str, int] = field(default_factory=dict)  # op -> how many steps back it reads its source
    depth: dict[str, int] = field(default_factory=dict)  # value -> how far back it is read
    tables: dict[str, tuple[Use, int, int]] = field(default_factory=dict)  # op -> what it reads at step t: axis, start
    joins: set[str] = field(default_factory=set)  # ops that join along time
    warmup: int = 0
    types: dict[str, Type] = field(default_factory=dict)

    def run(self) -> None:
        """Walk all ops; raises StateError at the first that looks ahead."""
        graph = self.graph
        self.types = {i.name: i.type for i in graph.inputs}
        self.types |= {op.result: op.type for op in graph.ops if isinstance(op.type, Type)}
        for i in graph.inputs:
            along = [axis for axis, dim in enumerate(i.type.shape) if "T" in names_of(dim)]
            if i.role == "input" and along:
                self.facts[i.name] = Along(along[0], _lag(i.type.shape[along[0]]) or 0)
        given = {i.name for i in graph.inputs if i.role == "input"}
        for op in graph.ops:  # an argument of another length that a loop walks, one entry a step
            source = op.args[0] if op.kind == "signal" else None
            if isinstance(source, Use) and source.name in given and source.name not in self.facts:
                assert isinstance(op.args[1], int)
                self.facts[source.name] = Along(op.args[1])
        for time in graph.times:
            first = next((op for op in graph.ops if op.time == time.name), None)
            if first is None:
                continue
            if time.direction == "backward":
                raise look_ahead(graph, first, "the loop runs backward in time")
            begin = _lag(time.trip)
            if begin is None or begin < 0:
                raise look_ahead(graph, first, f"the loop runs {time.trip} steps, not one for each of T", "LR4004")
            self.shift[time.name] = begin
            self.warmup = max(self.warmup, begin)
        for op in graph.ops:
            if op.kind not in SHAPED and "T" in _sizes_in(op):
                raise look_ahead(graph, op, "it computes with the number of steps T")
            if op.time is not None:
                self.inside(op)
            elif op.leaves_time:
                self.leaving(op)
            else:
                fact = self.outside(op)
                if fact is not None:
                    self.facts[op.result] = fact
        for name, steps in self.depth.items():
            fact = self.facts[name]
            assert isinstance(fact, Along)
            self.warmup = max(self.warmup, fact.offset + steps)
        for fact in self.facts.values():
            if isinstance(fact, Early) and fact.step:
                self.warmup = max(self.warmup, fact.step + 1)
        for op in graph.ops:
            fact = self.facts.get(op.result)
            grows = [a for a, d in enumerate(_shape(op)) if "T" in names_of(d)]
            if any(not isinstance(fact, Along) or a != fact.axis for a in grows):
                raise look_ahead(graph, op, "a tensor that grows with the number of steps is kept")
        if any(isinstance(out, Size) and "T" in names_of(out) for out in graph.outputs):
            raise look_ahead(graph, graph.ops[-1], "it returns the number of steps T")
        for name in (u.name for u in uses_in(graph.outputs)):
            fact = self.facts.get(name)
            if isinstance(fact, Along) and (fact.offset < 0 or fact.excess):
                op = next((op for op in graph.ops if op.result == name), graph.ops[-1])
                raise look_ahead(graph, op, "an output has more entries than there are steps", "LR4004")

    # reads ---------------------------------------------------------------------------------------

    def read_back(self, op: Op, source: Use, steps: int) -> None:
        """`op` reads `source` this many steps after it is known."""
        self.back[op.result] = steps
        if steps:
            self.depth[source.name] = max(self.depth.get(source.name, 0), steps)

    def inside(self, op: Op) -> None:
        """An op of a loop."""
        assert op.time is not None
        begin = self.shift[op.time]
        if op.kind == "signal":
            source, axis, start, stride = op.args
            assert isinstance(source, Use) and isinstance(axis, int)
            fact = self.facts.get(source.name)
            if fact is None and stride == 1 and isinstance(start, int):
                self.tables[op.result] = (source, axis, start - begin)
                return
            if not isinstance(fact, Along) or fact.axis != axis or stride != 1 or not isinstance(start, int):
                raise look_ahead(self.graph, op, f"it reads {_affine(start, stride)} at step t")
            behind = begin - start - fact.offset
            if behind < 0:
                raise look_ahead(self.graph, op, f"step t reads position t + {-behind}")
            self.read_back(op, source, behind)
            return
        for use in op.all_uses():
            fact = self.facts.get(use.name)
            if isinstance(fact, Along):
                raise look_ahead(self.graph, op, f"every step reads all of %{use.name}")
            if fact == NOW:
                raise look_ahead(self.graph, op, "the last step is fed back to all steps")
            if isinstance(fact, Early) and fact.step > begin:
                raise look_ahead(self.graph, op, f"step {begin} reads step {fact.step}")

    def leaving(self, op: Op) -> None:
        """A conversion of a signal to a tensor."""
        use = op.args[0]
        assert isinstance(use, Use)
        begin = self.shift[self.graph.op(use.name).time or ""]
        if op.kind == "stack":
            assert isinstance(op.args[1], int)
            self.facts[op.result] = Along(op.args[1], begin)
        elif op.kind == "pick":
            if not isinstance(op.args[1], int):
                raise look_ahead(self.graph, op, f"it reads step {op.args[1]} of the loop by its number", "LR4004")
            self.facts[op.result] = Early(op.args[1] + begin)
        else:
            self.facts[op.result] = NOW

    def outside(self, op: Op) -> Fact:
        """The fact of an op outside the loops."""
        found = [(u, self.facts.get(u.name)) for u in op.uses()]
        if op.kind in CREATE or op.kind == "arange":
            return self.created(op)
        if all(f is None for _, f in found):
            return self.table(op)
        if any(f == NOW for _, f in found):
            if any(isinstance(f, Along) for _, f in found):
                raise look_ahead(self.graph, op, "the last step is fed back to all steps")
            return NOW
        along = {u.name: f for u, f in found if isinstance(f, Along)}
        early = max((f.step for _, f in found if isinstance(f, Early)), default=-1)
        if not along:
            return Early(early)
        if op.kind == "getitem":
            return next(iter(along.values()))
        if len(along) == 1 and isinstance(op.args[0], Use) and op.args[0].name in along:
            special = self.over_time(op, op.args[0], along[op.args[0].name])
            if special is not None:
                return special
        if op.kind in ("cat", "concat"):
            special = self.joined(op, along)
            if special is not None:
                return special
        axis = placed(op, Shapes({n: f.axis for n, f in along.items()}, self.types))
        starts = {(f.offset, f.excess) for f in along.values()}
        if axis is None:
            raise look_ahead(self.graph, op, f"`{op.kind}` mixes steps")
        if len(starts) != 1:
            raise look_ahead(self.graph, op, f"`{op.kind}` takes values of different steps together")
        ((offset, excess),) = starts
        if early > max(offset, 0):
            raise look_ahead(self.graph, op, f"step {max(offset, 0)} reads step {early}")
        return Along(axis, offset, excess)

    def created(self, op: Op) -> Fact:
        """A tensor of some shape: zeros, arange(T)."""
        if not isinstance(op.type, Type):
            return None
        along = [(axis, d) for axis, d in enumerate(op.type.shape) if "T" in names_of(d)]
        if op.kind == "arange" and along and not (op.args[0] == T or (op.args[0] == 0 and op.args[1:] == (T,))):
            raise look_ahead(self.graph, op, "it counts otherwise than from 0 to T - 1", "LR4004")
        if not along:
            return None
        lag = _lag(along[0][1])
        if len(along) > 1 or lag is None:
            raise look_ahead(self.graph, op, "a tensor that grows with the number of steps is kept")
        return Along(along[0][0], max(lag, 0), max(-lag, 0))

    def table(self, op: Op) -> Fact:
        """A fixed tensor: its first T entries are one a step, all else does not vary."""
        source = op.args[0] if op.args else None
        if op.kind == "slice" and isinstance(source, Use) and isinstance(op.type, Type):
            along = [(axis, d) for axis, d in enumerate(op.type.shape) if "T" in names_of(d)]
            if len(along) == 1 and (lag := _lag(along[0][1])) is not None and isinstance(op.args[2] or 0, int):
                axis = along[0][0]
                start = op.args[2] or 0
                assert isinstance(start, int)
                self.tables[op.result] = (source, axis, start - lag)
                return Along(axis, lag)
        return None

    def over_time(self, op: Op, source: Use, fact: Along) -> Fact:
        """Ops along the axis of time itself, None if `op` is none."""
        length = self.types[source.name].shape[fact.axis]
        at_time = (
            len(op.args) > 1 and isinstance(op.args[1], int) and op.args[1] % len(_shape_of(self, source)) == fact.axis
        )
        if op.kind == "select" and at_time:
            index = op.args[2]
            if isinstance(index, int) and index >= 0:
                return Early(max(index + fact.offset, 0))
            found = bounds(length, index, None)
            first = None if found is None else length - found[0]
            if not isinstance(first, int) or first - 1 - fact.excess < 0:
                raise look_ahead(self.graph, op, f"it reads step {index} by its number", "LR4004")
            self.read_back(op, source, first - 1 - fact.excess)
            return NOW
        if op.kind == "slice" and at_time and op.args[4:] in ((), (1,)):
            return self.sliced(op, source, fact, length)
        if op.kind in ("pad", "constant_pad_nd") and isinstance(op.args[1], tuple):
            place = 2 * (len(_shape_of(self, source)) - 1 - fact.axis)
            left, right = (*op.args[1], *(0,) * 64)[place : place + 2]
            if not (left or right):
                return fact
            if op.args[2:3] not in ((), ("constant",)) and op.kind == "pad":
                raise look_ahead(self.graph, op, "it pads time with other steps")
            if not isinstance(left, int) or not isinstance(right, int) or left < 0 or right < 0:
                raise look_ahead(self.graph, op, "it cuts time by a negative padding")
            return Along(fact.axis, fact.offset - left, fact.excess + right)
        window = reach(op, fact.axis, Shapes({source.name: fact.axis}, self.types))
        if window is not None:
            self.read_back(op, source, window[0])
            return Along(window[1], fact.offset + window[0], fact.excess)
        if op.kind == "cumsum" and at_time and fact.offset >= 0 and not fact.excess:
            return fact
        return None

    def sliced(self, op: Op, source: Use, fact: Along, length: Dim) -> Fact:
        """x[:, a:b]: entries of the first steps, of the last ones, or all of them some steps late."""
        found = bounds(length, *(*op.args[2:4], None, None)[:2])
        if found is None:
            raise look_ahead(self.graph, op, f"`{op.kind}` mixes steps")
        first, last = found
        cut = length - last
        if isinstance(first, int) and isinstance(last, int):
            return Early(max(last - 1 + fact.offset, 0))
        if isinstance(cut, int) and isinstance(length - first, int):
            behind = length - first - 1 - fact.excess
            assert isinstance(behind, int)
            if cut < fact.excess:
                raise look_ahead(self.graph, op, "it reads beyond the last step")
            self.read_back(op, source, behind)
            return NOW
        if not isinstance(first, int) or not isinstance(cut, int):
            raise look_ahead(self.graph, op, f"`{op.kind}` mixes steps")
        behind = max(cut - fact.excess, 0)
        self.read_back(op, source, behind)
        return Along(fact.axis, fact.offset + first + behind, max(fact.excess - cut, 0))

    def joined(self, op: Op, along: dict[str, Along]) -> Fact:
        """Something before the first step or after the last, joined along time; None if `op` joins other axes."""
        parts = op.args[0]
        assert isinstance(parts, tuple) and isinstance(op.type, Type)
        dim = op.args[1] if len(op.args) > 1 else dict(op.attrs).get("dim", 0)
        assert isinstance(dim, int)
        dim %= len(op.type.shape)
        (name, fact), *others = along.items()
        if others or fact.axis != dim or len([p for p in parts if isinstance(p, Use) and p.name == name]) != 1:
            return None
        before, after, seen = 0, 0, False
        for part in parts:
            assert isinstance(part, Use)
            if part.name == name:
                seen = True
                continue
            many = self.types[part.name].shape[dim]
            if not isinstance(many, int):
                raise look_ahead(self.graph, op, f"`{op.kind}` mixes steps")
            before, after = (before, after + many) if seen else (before + many, after)
        place = fact.offset - before
        for part in parts:
            assert isinstance(part, Use)
            if part.name == name:
                break
            many, known = self.types[part.name].shape[dim], self.facts.get(part.name)
            assert isinstance(many, int)
            if isinstance(known, Early) and known.step - (many - 1) > max(place, 0):
                raise look_ahead(self.graph, op, f"step {max(place, 0)} reads step {known.step}")
            place += many
        self.joins.add(op.result)
        return Along(dim, fact.offset - before, fact.excess + after)


@dataclass
class _Builder:
    """The onward program and its start."""

    graph: Graph
    walk: _Walk
    leaves: list[Leaf] = field(default_factory=list)
    first: list[Op | Arg] = field(default_factory=list)  # each leaf's first value: an argument or an op
    following: list[Arg] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)

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
        return Stateful(onward, self.start(), walk.warmup, tuple(self.leaves), given, outputs, offsets)

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
        self.steps = Use(f"{now.name}.steps")

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
            op = replace(op, type=Type(op.type.dtype, _with(op.type.shape, fact.axis, T)))
        if op.kind == "arange" and isinstance(fact, Along):
            return [replace(op, kind="_to_copy", args=(self.steps,), attrs=_cast(op))]
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
                return (*arg[: fact.axis], T, *arg[fact.axis + 1 :])
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
            many = _shape(op)[axis] if fact == NOW else T
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


def _lag(dim: Dim) -> int | None:
    """T - dim, if that is a number."""
    lag = T - dim
    return lag if isinstance(lag, int) else None


def _with(shape: tuple[Dim, ...], axis: int, length: Dim) -> tuple[Dim, ...]:
    return (*shape[:axis], length, *shape[axis + 1 :])


def _shape(op: Op) -> tuple[Dim, ...]:
    return op.type.shape if isinstance(op.type, Type) else ()


def _shape_of(walk: _Walk, use: Use) -> tuple[Dim, ...]:
    return walk.types[use.name].shape


def _cast(op: Op) -> tuple[tuple[str, Arg], ...]:
    """The attributes with which step numbers become what an arange made."""
    assert isinstance(op.type, Type)
    return (("dtype", Atom(op.type.dtype)), *((k, v) for k, v in op.attrs if k == "device"))


def _sizes_in(op: Op) -> set[str]:
    def inside(arg: Arg) -> set[str]:
        if isinstance(arg, tuple):
            return set().union(*map(inside, arg)) if arg else set()
        return set(names_of(arg)) if isinstance(arg, Size) else set()

    return inside((*op.args, *(a for _, a in op.attrs)))


def _affine(start: Arg, stride: Arg) -> str:
    step = "t" if stride == 1 else f"{stride}*t"
    return f"position {step}" if start == 0 else f"position {step} + {start}"
