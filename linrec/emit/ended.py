"""Ended: a program over T steps for rows that end at steps of their own, in one run.

Row b ends after `ends[b]` of the T steps. What is read at the end of all steps is read at the end of each row instead:
entry ends[b] - 1 of a signal's stack, ends[b] - d of what a loop carries from d steps back, a window before ends[b] of a
history. No step depends on later ones, so what is read so is right whatever comes behind a row's end.

It must be harmless to gradients too, where 0 * inf is NaN: a state that runs on may overflow though it never did before
the end. So the caller repeats the last valid inputs behind the end, and there

    an lti recurrence runs on, so that its parallel form stays what it is; what the rest reads of it is held
    an ltv one stands still: h = where(valid, step(h), h[-1])
    a nonlinear one takes its last valid step again: h[-1] is read as r = where(valid, h[-1], r[-1])
    other reads of earlier steps (lags, windows over time, running sums) are held

and every step behind the end copies the last valid one. Cost: a `where` for each state and each value that is held.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from linrec.emit.alignment import T, bounds
from linrec.emit.batchfirst import B
from linrec.ir import Arg, Graph, Input, Op, Recurrence, Type, Use, order
from linrec.sizes import Dim, names_of

ENDS, VALID = Use("row.ends"), Use("row.valid")  # i64[B] and bool[B, T]


def ended(graph: Graph) -> Graph | None:
    """The program with `ends` and `valid` as its last inputs; None if a value of the last step is one for all rows.

    `graph` is the program from a state or from its start, its recurrences found and proven.
    """
    try:
        return _Ender(graph).build()
    except _SharedError:
        return None


def _beyond(long: Dim) -> int:
    """n of T + n."""
    found = long - T
    if not isinstance(found, int):
        raise _SharedError
    return found


class _SharedError(Exception):
    """A value that is needed for each row is one for all rows."""


@dataclass
class _Ender:
    graph: Graph
    ops: list[Op] = field(default_factory=list)
    types: dict[str, Type] = field(default_factory=dict)
    of: dict[str, Recurrence] = field(default_factory=dict)  # member -> its recurrence
    known: dict[object, Use] = field(default_factory=dict)  # what was made before

    def build(self) -> Graph:
        """Every op, with what it reads instead."""
        graph = self.graph
        inputs = (
            *graph.inputs,
            Input(ENDS.name, Type("i64", (B,)), "captured", "row:ends"),
            Input(VALID.name, Type("bool", (B, T)), "captured", "row:valid"),
        )
        self.types = {i.name: i.type for i in inputs}
        self.types |= {op.result: op.type for op in graph.ops if isinstance(op.type, Type)}
        self.of = {m: r for r in graph.recurrences for m in r.members}
        for op in graph.ops:
            self.rewrite(op)
        return replace(graph, inputs=inputs, ops=order(tuple(self.ops)), recurrences=())

    def rewrite(self, op: Op) -> None:
        """One op of the program."""
        if op.kind in ("last", "carry"):
            return self.leave(op)
        if op.time is not None and op.kind != "signal":
            op = op.map_uses(lambda use: self.instead(op.result, use))
            mine = self.of.get(op.result)
            if mine is not None and mine.kind == "ltv" and op.result in mine.states and self.row(op.result) is not None:
                step = self.put(f"{op.result}.step", replace(op, init=()))
                op = replace(op, kind="where", args=(self.valid(op), step, Use(op.result, 1)), attrs=())
            self.ops.append(op)
        elif op.kind == "stack" and op.leaves_time:
            self.ops.append(op.map_uses(lambda use: self.instead(op.result, use)))
        elif op.kind in ("slice", "select") and (behind := self.from_end(op)) is not None:
            self.read_at_end(op, behind)
        elif (axis := self.reaches_back(op)) is not None and self.row(op.result) is not None:
            open_ = self.put(f"{op.result}.open", op)
            if op.kind == "signal":
                held = self.held(open_, op)
                self.ops.append(Op(op.result, "alias", (held,), (), op.type, op.time, (), op.source))
            else:
                self.ops.append(replace(self.at_valid(open_, axis), result=op.result))
        else:
            self.ops.append(op)

    # what is read behind the end -------------------------------------------------------------------

    def instead(self, reader: str, use: Use) -> Arg:
        """What a reader inside or outside a loop takes for a read of a signal."""
        made = self.graph.by_name().get(use.name)
        if made is None or made.time is None or self.row(use.name) is None:
            return use
        maker = self.of.get(use.name)
        if maker is not None and maker.kind not in ("lti", "ltv"):
            return self.register(made, use) if use.delay else use
        if maker is not None and reader in maker.members:
            return use
        runs_on = maker is not None and maker.kind == "lti"
        return self.held(use, made) if use.delay or runs_on else use

    def register(self, made: Op, use: Use) -> Use:
        """h[-d], or behind the end what was read so last."""
        if use not in self.known:
            name = f"{use.name}.read.{use.delay}"
            self.known[use] = Use(name)
            self.types[name] = self.types[use.name]
            first = (made.init[use.delay - 1],)
            self.ops.append(
                Op(name, "where", (self.valid(made), use, Use(name, 1)), (), made.type, made.time, first, made.source)
            )
        return self.known[use]

    def held(self, use: Use, made: Op) -> Use:
        """A signal that keeps its last valid value behind the end."""
        if use not in self.known:
            name, type_ = f"{use.name}.held.{use.delay}", self.types[use.name]
            now = self.put(f"{name}.now", Op("", "alias", (use,), (), type_, made.time))
            shape = (self.trip(made), *type_.shape)
            stacked = self.put(f"{name}.all", Op("", "stack", (now, 0), (), Type(type_.dtype, shape)))
            whole = self.put(f"{name}.whole", self.at_valid(stacked, 0))
            self.known[use] = self.put(name, Op("", "signal", (whole, 0, 0, 1), (), type_, made.time, (), made.source))
        return self.known[use]

    def at_valid(self, value: Use, axis: int) -> Op:
        """A tensor with its entries along time kept at the last valid one behind the end."""
        type_, row = self.types[value.name], self.batch(value.name)
        long = type_.shape[axis]
        shape = tuple(B if a == row else long if a == axis else 1 for a in range(len(type_.shape)))
        mask, name = self.before_end(long), "valid." + "_".join(map(str, shape))
        if axis < row:
            mask = self.once(f"{name}.turned", "permute", (mask, (1, 0)), Type("bool", (long, B)))
        mask = self.once(name, "reshape", (mask, shape), Type("bool", shape))
        return Op("", "where", (mask, value, self.at_end(value, axis, _beyond(long) - 1, 1)), (), type_)

    def before_end(self, long: Dim) -> Use:
        """Which entries of an axis of T + n entries are a row's own: j < ends + n, for bool[B, T + n]."""
        many = _beyond(long)
        if many == 0:
            return VALID
        if many < 0:
            return self.once(f"valid.{long}", "slice", (VALID, 1, -many, T), Type("bool", (B, long)))
        first = self.once(f"valid.{long}.first", "new_ones", (VALID, (B, many)), Type("bool", (B, many)))
        return self.once(f"valid.{long}", "cat", ((first, VALID), 1), Type("bool", (B, long)))

    def trip(self, op: Op) -> Dim:
        """The number of steps of the loop that an op is in."""
        assert op.time is not None
        return self.graph.time(op.time).trip

    def valid(self, op: Op) -> Use:
        """Is this step before the row's end? For a value of an op's shape."""
        assert op.time is not None
        row, rank = self.batch(op.result), len(self.types[op.result].shape)
        shape, long = tuple(B if a == row else 1 for a in range(rank)), self.trip(op)
        name = f"valid.{row}.{rank}.{long}"
        mask = self.once(name, "reshape", (self.before_end(long), (*shape, long)), Type("bool", (*shape, long)))
        return self.once(f"{name}.{op.time}", "signal", (mask, rank, 0, 1), Type("bool", shape), op.time)

    # what is read at the end -----------------------------------------------------------------------

    def leave(self, op: Op) -> None:
        """last(h) = entry ends - 1 of h's stack; carry(h, d) = entry ends - d, before the first that of `init`."""
        use, back = op.args[0], op.args[1] if op.kind == "carry" else 1
        assert isinstance(use, Use) and isinstance(back, int)
        type_, made = self.types[use.name], self.graph.op(use.name)
        before = made.init if op.kind == "carry" else ()
        trip = self.trip(made)
        whole = Type(type_.dtype, (trip, *type_.shape))
        stacked = self.once(f"{use.name}.{use.delay}.all", "stack", (use, 0), whole)
        if before:
            one = Type(type_.dtype, (1, *type_.shape))
            first = tuple(
                self.once(f"{use.name}.before.{d}", "unsqueeze", (before[d - 1], 0), one)
                for d in range(len(before), 0, -1)
            )
            long = Type(type_.dtype, (trip + len(before), *type_.shape))
            stacked = self.once(f"{use.name}.long", "cat", ((*first, stacked), 0), long)
        self.at_end(stacked, 0, _beyond(trip) + len(before) - back, 1, op)

    def from_end(self, op: Op) -> int | None:
        """How far from step T a slice or an entry begins, None if it is none of time or not counted from its end."""
        source, axis = op.args[0], op.args[1] if len(op.args) > 1 else 0
        if not isinstance(source, Use) or not isinstance(axis, int):
            return None
        shape = self.types[source.name].shape
        length = shape[axis % len(shape)]
        if "T" not in names_of(length):
            return None
        if op.kind == "slice":
            if not isinstance(op.type, Type) or "T" in names_of(op.type.shape[axis % len(shape)]):
                return None
            found = bounds(length, *(*op.args[2:4], None, None)[:2])
        else:
            found = bounds(length, op.args[2], None)
        behind = None if found is None else found[0] - T
        return behind if isinstance(behind, int) else None

    def read_at_end(self, op: Op, behind: int) -> None:
        """x[:, T + behind] and slices from there on, each row's own."""
        source, axis = op.args[0], op.args[1] if len(op.args) > 1 else 0
        assert isinstance(source, Use) and isinstance(axis, int) and isinstance(op.type, Type)
        axis %= len(self.types[source.name].shape)
        many = op.type.shape[axis] if op.kind == "slice" else 1
        assert isinstance(many, int)
        self.at_end(source, axis, behind, many, op)

    def at_end(self, value: Use, axis: int, behind: int, many: int, instead: Op | None = None) -> Use:
        """Entries ends + behind .. ends + behind + many - 1 along an axis; without it, `instead` of an op that has none."""
        type_, row = self.types[value.name], self.batch(value.name)
        name = f"ends.{behind}.{many}"
        place = self.once(f"{name}.from", "add", (ENDS, behind), Type("i64", (B,)))
        place = self.once(f"{name}.least", "clamp", (place, 0), Type("i64", (B,)))
        if many > 1:
            ones = self.once(f"{name}.ones", "new_ones", (ENDS, (many - 1,)), Type("i64", (many - 1,)))
            zero = self.once(f"{name}.zero", "new_zeros", (ENDS, (1,)), Type("i64", (1,)))
            steps = self.once(f"{name}.steps", "cat", ((zero, ones), 0), Type("i64", (many,)))
            steps = self.once(f"{name}.count", "cumsum", (steps, 0), Type("i64", (many,)))
            column = self.once(f"{name}.column", "unsqueeze", (place, 1), Type("i64", (B, 1)))
            place = self.once(f"{name}.rows", "add", (column, steps), Type("i64", (B, many)))
            if axis < row:
                place = self.once(f"{name}.turned", "permute", (place, (1, 0)), Type("i64", (many, B)))
        thin = tuple(B if a == row else many if a == axis else 1 for a in range(len(type_.shape)))
        full = tuple(many if a == axis else d for a, d in enumerate(type_.shape))
        shown = "_".join(map(str, thin))
        place = self.once(f"{name}.{shown}", "reshape", (place, thin), Type("i64", thin))
        mine = f"{value.name}.{value.delay}.{name}.{axis}"
        index = self.once(f"{mine}.index", "expand", (place, full), Type("i64", full))
        found = self.once(f"{mine}.entries", "gather", (value, axis, index), Type(type_.dtype, full))
        if instead is None:
            return found
        kept = isinstance(instead.type, Type) and len(instead.type.shape) == len(full)
        kind, args = ("alias", (found,)) if kept else ("select", (found, axis, 0))
        self.ops.append(Op(instead.result, kind, args, (), instead.type, None, (), instead.source))
        return Use(instead.result)

    # what ops are ----------------------------------------------------------------------------------

    def reaches_back(self, op: Op) -> int | None:
        """The time axis of a value made of a longer one, a history, or of a running sum."""
        if not isinstance(op.type, Type) or (op.time is not None) != (op.kind == "signal"):
            return None
        axis = next((a for a, d in enumerate(op.type.shape) if "T" in names_of(d)), 0)
        long = self.trip(op) if op.kind == "signal" else (op.type.shape or (1,))[axis]
        if "T" not in names_of(long):
            return None
        over = [
            d - long for u in op.uses() if u.name in self.types for d in self.types[u.name].shape if "T" in names_of(d)
        ]
        return axis if op.kind == "cumsum" or any(isinstance(n, int) and n > 0 for n in over) else None

    def row(self, name: str) -> int | None:
        """The batch axis of a value, None if it has none."""
        type_ = self.types.get(name)
        return type_.shape.index(B) if type_ is not None and B in type_.shape else None

    def batch(self, name: str) -> int:
        """The batch axis of a value that must have one."""
        found = self.row(name)
        if found is None:
            raise _SharedError
        return found

    def put(self, name: str, op: Op) -> Use:
        """Add an op under a name."""
        assert isinstance(op.type, Type)
        self.ops.append(replace(op, result=name))
        self.types[name] = op.type
        return Use(name)

    def once(self, name: str, kind: str, args: tuple[Arg, ...], type_: Type, time: str | None = None) -> Use:
        """An op that is made at its first use."""
        if name not in self.known:
            self.known[name] = self.put(name, Op("", kind, args, (), type_, time))
        return self.known[name]
