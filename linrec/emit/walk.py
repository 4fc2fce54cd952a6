"""The walk: facts about every value of a captured program, and how far back each is read.

One pass over the ops in their order. It places each tensor outside the loops in time (`linrec.emit.alignment`), finds
the step at which each loop begins, and collects what must be remembered: reads of earlier entries, tables read at step
t, and the number of steps that the program needs to have seen.
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
from linrec.emit.folding import VIEWS, viewed
from linrec.ir import Arg, Graph, Op, Type, Use, uses_in
from linrec.sizes import Dim, Size, names_of


def explicit(graph: Graph) -> Graph:
    """Padding inside operators as an op of its own; an entry counted from the last as what is carried from there."""
    ops: list[Op] = []
    made = graph.by_name()
    for op in graph.ops:
        source = op.args[0] if op.args else None
        if op.kind == "pick" and isinstance(source, Use) and isinstance(op.args[1], Size) and not source.delay:
            loop = made[source.name]
            back = graph.time(loop.time or "").trip - op.args[1]
            if isinstance(back, int) and 1 <= back <= len(loop.init):
                op = replace(op, kind="carry", args=(source, back))
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
class Walk:
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
            if "T" in (_sizes_in(op) if op.kind not in SHAPED else _filled_with(op)):
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
            grows = [a for a, d in enumerate(shape_of(op)) if "T" in names_of(d)]
            if any(not isinstance(fact, Along) or a != fact.axis for a in grows):
                raise look_ahead(graph, op, "a tensor that grows with the number of steps is kept")
        if any(isinstance(out, Size) and "T" in names_of(out) for out in graph.outputs):
            raise look_ahead(graph, graph.ops[-1], "it returns the number of steps T")
        for name in (u.name for u in uses_in(graph.outputs)):
            fact = self.facts.get(name)
            if not isinstance(fact, Along):
                continue
            op = next((op for op in graph.ops if op.result == name), graph.ops[-1])
            if fact.is_folded:
                raise look_ahead(graph, op, "an output has the number of steps in one axis with others", "LR4004")
            if fact.offset < 0 or fact.excess:
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
            if (
                not isinstance(fact, Along) or fact.is_folded or fact.axis != axis or stride != 1
                or not isinstance(start, int)
            ):  # fmt: skip
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
                raise look_ahead(self.graph, self.taken(use, fact, op), f"step {begin} reads step {fact.step}")

    def taken(self, use: Use, fact: Early, reader: Op) -> Op:
        """Where a value of an early step was taken from the sequence; its reader if that is not known."""
        made = {op.result: op for op in self.graph.ops}
        while (op := made.get(use.name)) is not None:
            found = next((u for u in op.uses() if self.facts.get(u.name) == fact), None)
            if found is None:
                return op if op.source is not None else reader
            use = found
        return reader

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
        source = op.args[0] if len(along) == 1 and isinstance(op.args[0], Use) else None
        special: Fact = None
        if source is not None and op.kind in VIEWS:
            special = viewed(op, self.types[source.name], along[source.name])
        elif source is not None and source.name in along and not along[source.name].is_folded:
            special = self.over_time(op, source, along[source.name])
        if special is None and op.kind in ("cat", "concat"):
            special = self.joined(op, along)
        if special is not None:
            return special
        axis = placed(op, Shapes({n: f.axis for n, f in along.items()}, self.types))
        if axis is None:
            raise look_ahead(self.graph, op, f"`{op.kind}` mixes steps")
        starts = {replace(f, axis=axis) for f in along.values()}
        if len(starts) != 1:
            raise look_ahead(self.graph, op, f"`{op.kind}` takes values of different steps together")
        (start,) = starts
        if early > max(start.offset, 0):
            raise look_ahead(self.graph, op, f"step {max(start.offset, 0)} reads step {early}")
        return start

    def created(self, op: Op) -> Fact:
        """A tensor of some shape: zeros, arange(T)."""
        if not isinstance(op.type, Type):
            return None
        along = [(axis, d) for axis, d in enumerate(op.type.shape) if "T" in names_of(d)]
        if op.kind == "arange" and along and counted_from(op) is None:
            raise look_ahead(self.graph, op, "it counts otherwise than up by one", "LR4004")
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
                return None
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
        if (
            others
            or fact.is_folded
            or fact.axis != dim
            or len([p for p in parts if isinstance(p, Use) and p.name == name]) != 1
        ):
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


def counted_from(op: Op) -> int | None:
    """The number with which an arange that counts up by one begins."""
    first = op.args[0] if len(op.args) > 1 else 0
    return first if isinstance(first, int) and op.args[2:] in ((), (1,)) else None


def _lag(dim: Dim) -> int | None:
    """T - dim, if that is a number."""
    lag = T - dim
    return lag if isinstance(lag, int) else None


def _shape_of(walk: Walk, use: Use) -> tuple[Dim, ...]:
    return walk.types[use.name].shape


def _sizes_in(op: Op) -> set[str]:
    def inside(arg: Arg) -> set[str]:
        if isinstance(arg, tuple):
            return set().union(*map(inside, arg)) if arg else set()
        return set(names_of(arg)) if isinstance(arg, Size) else set()

    return inside((*op.args, *(a for _, a in op.attrs)))


def _filled_with(op: Op) -> set[str]:
    """The lengths in the number that a tensor is made of; those in its shape say how long it is."""
    at = {"full": 1, "new_full": 2}.get(op.kind)
    fill = op.args[at] if at is not None and len(op.args) > at else None
    return set(names_of(fill)) if isinstance(fill, Size) else set()


def _affine(start: Arg, stride: Arg) -> str:
    step = "t" if stride == 1 else f"{stride}*t"
    return f"position {step}" if start == 0 else f"position {step} + {start}"


def shape_of(op: Op) -> tuple[Dim, ...]:
    """The shape of a result, () for several."""
    return op.type.shape if isinstance(op.type, Type) else ()
