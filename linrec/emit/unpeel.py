"""Unpeel: a first or last step that was set apart although it does what every step does goes back into its loop.

If the state before a loop from step 1 is what the loop's own step makes of something, on the inputs of step 0, then
the loop may start at step 0 from that something. If what is joined behind a loop to step T - 2 is what the loop's own
step makes of the last state, on the inputs of step T - 1, then the loop may run to step T - 1. Checked op by op: same
kinds, same arguments, each read of a signal against a read at the step apart, each read h[-1] against the one value
that becomes h's state before step 0, or against the last h.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace

from linrec.emit.alignment import bounds
from linrec.ir import Arg, Graph, Op, Time, Type, Use
from linrec.sizes import Dim, size


def unpeel(graph: Graph) -> Graph:
    """The graph with every first and last step that is no special one inside its loop; the same if there is none."""
    changed = True
    while changed:
        changed = False
        for time in graph.times:
            lag = size("T") - time.trip
            if time.direction == "forward" and isinstance(lag, int) and lag > 0:
                new = _First(graph, time).rewritten() or _Last(graph, time).rewritten()
                if new is not None:
                    graph, changed = new, True
                    break
    return graph


@dataclass
class _Match(ABC):
    """One loop against the ops of a step outside it."""

    graph: Graph
    time: Time
    seen: set[tuple[str, str]] = field(default_factory=set)  # an op of the body, and the op that is its twin

    def __post_init__(self) -> None:
        self.by_name = self.graph.by_name()
        self.types = {i.name: i.type for i in self.graph.inputs}
        self.types |= {op.result: op.type for op in self.graph.ops if isinstance(op.type, Type)}
        self.members = [op for op in self.graph.ops if op.time == self.time.name]

    @abstractmethod
    def reads_state(self, body: Use, apart: Arg) -> bool:
        """Is `apart` what the step reads as `body`, a value of an earlier step?"""

    @abstractmethod
    def reads_input(self, body: Op, apart: Op) -> bool:
        """Is `apart` what the step reads of the signal `body`?"""

    def same(self, body: Arg, apart: Arg) -> bool:
        """Is `apart` what the step apart makes where the loop makes `body`?"""
        if isinstance(body, tuple) and isinstance(apart, tuple):
            return len(body) == len(apart) and all(map(self.same, body, apart))
        if not isinstance(body, Use):
            return body == apart and type(body) is type(apart)
        if body.delay:
            return self.reads_state(body, apart)
        op = self.by_name.get(body.name)
        if op is None or op.time is None:
            return body == apart
        other = self.by_name.get(apart.name) if isinstance(apart, Use) else None
        if other is None or other.time is not None:
            return False
        if (op.result, other.result) in self.seen:
            return True
        if op.kind == "signal":
            return self.reads_input(op, other)
        good = (
            op.kind == other.kind and len(op.args) == len(other.args) and op.type == other.type
            and [k for k, _ in op.attrs] == [k for k, _ in other.attrs]
            and all(self.same(a, b) for a, b in zip(op.args, other.args, strict=True))
            and all(self.same(a, b) for (_, a), (_, b) in zip(op.attrs, other.attrs, strict=True))
        )  # fmt: skip
        if good:
            self.seen.add((op.result, other.result))
        return good

    def joined(self, leaving: set[str], beside: int) -> dict[str, str] | None:
        """cat -> the stack it takes the loop's results from, its neighbour `beside` places on the result of the step
        apart; None if some stack of the loop is read otherwise. `leaving` are conversions that do not matter."""
        found: dict[str, str] = {}
        members = {op.result for op in self.members}
        for op in self.graph.ops:
            source = op.args[0] if op.leaves_time else None
            if not isinstance(source, Use) or source.name not in members or op.kind in leaving:
                continue
            readers = [r for r in self.graph.ops if any(u.name == op.result for u in r.all_uses())]
            if op.kind != "stack" or source.delay or op.result in self.graph.roots() or not readers:
                return None
            for reader in readers:
                parts = reader.args[0] if reader.kind == "cat" else None
                if not isinstance(parts, tuple) or reader.args[1] != op.args[1] or parts.count(Use(op.result)) != 1:
                    return None
                place = parts.index(Use(op.result)) + beside
                piece = parts[place] if 0 <= place < len(parts) else None
                apart = self.by_name.get(piece.name) if isinstance(piece, Use) else None
                if apart is None or apart.kind != "unsqueeze" or apart.args[1] != op.args[1]:
                    return None
                if not self.same(source, apart.args[0]):
                    return None
                found[reader.result] = op.result
        return found

    def longer(self, ops: list[Op], joins: dict[str, str], beside: int) -> Graph:
        """The graph with these ops, a loop of one step more, and what it joins without the step apart."""
        new = [self.lengthened(op, joins, beside) for op in ops]
        times = tuple(replace(t, trip=t.trip + 1) if t.name == self.time.name else t for t in self.graph.times)
        return replace(self.graph, ops=tuple(new), times=times)

    def lengthened(self, op: Op, joins: dict[str, str], beside: int) -> Op:
        if op.result in joins.values() and isinstance(op.type, Type):
            axis = op.args[1]
            shape: tuple[Dim, ...] = tuple(d + 1 if i == axis else d for i, d in enumerate(op.type.shape))
            return replace(op, type=Type(op.type.dtype, shape))
        if op.result not in joins:
            return op
        parts = op.args[0]
        assert isinstance(parts, tuple)
        place = parts.index(Use(joins[op.result])) + beside
        rest = (*parts[:place], *parts[place + 1 :])
        return replace(op, args=(rest, *op.args[1:])) if len(rest) > 1 else replace(op, kind="alias", args=rest)


@dataclass
class _First(_Match):
    """A loop against the step before it."""

    first: dict[str, Arg] = field(default_factory=dict)  # h -> what h[-1] is at step 0

    def rewritten(self) -> Graph | None:
        """The loop with step 0 in it, None if its first step is another."""
        states = [op for op in self.members if op.init]
        if not states or any(len(op.init) != 1 or not self.same(Use(op.result), op.init[0]) for op in states):
            return None
        if any(op.result not in self.first for op in states):
            return None
        if any(
            op.kind == "signal" and (op.args[3] != 1 or not isinstance(op.args[2], int) or op.args[2] < 1)
            for op in self.members
        ):
            return None
        joins = self.joined({"last"}, -1)
        if joins is None:
            return None
        return self.longer([self.earlier(op) for op in self.graph.ops], joins, -1)

    def reads_state(self, body: Use, apart: Arg) -> bool:
        return body.delay == 1 and self.first.setdefault(body.name, apart) == apart

    def reads_input(self, body: Op, apart: Op) -> bool:
        source, axis, start, _ = body.args
        assert isinstance(start, int)
        return apart.kind == "select" and apart.args == (source, axis, start - 1)

    def earlier(self, op: Op) -> Op:
        """An op of the graph whose loop starts one step earlier."""
        if op.time == self.time.name:
            if op.init:
                op = replace(op, init=(self.first[op.result],))
            if op.kind == "signal" and isinstance(op.args[2], int):
                op = replace(op, args=(*op.args[:2], op.args[2] - 1, op.args[3]))
        return op


@dataclass
class _Last(_Match):
    """A loop against the step behind it."""

    def rewritten(self) -> Graph | None:
        """The loop with the last step in it, None if that is another, or if something else reads the state before."""
        joins = self.joined({"last", "carry", "pick"}, 1)
        if not joins or not all(map(self.has_one_more, self.members)):
            return None
        twin = {apart: body for body, apart in self.seen}
        ops = [
            replace(op, kind="last", args=(Use(twin[op.result]),), attrs=()) if op.result in twin else op
            for op in self.graph.ops
        ]
        longer = self.longer(ops, joins, 1)
        # what was read of the state before the step apart is now one step late
        read = {u.name for op in longer.ops for u in op.all_uses()} | longer.roots()
        members = {op.result for op in self.members}
        ends = {op.result for op in longer.ops if op.kind in ("last", "carry") and next(op.uses()).name in members}
        if ends & read - twin.keys():
            return None
        return replace(longer, ops=tuple(op for op in longer.ops if op.result not in ends - read))

    def reads_state(self, body: Use, apart: Arg) -> bool:
        read = self.by_name.get(apart.name) if isinstance(apart, Use) else None
        if read is None or read.kind not in ("last", "carry"):
            return False
        return read.args == ((Use(body.name, body.delay - 1),) if read.kind == "last" else (Use(body.name), body.delay))

    def reads_input(self, body: Op, apart: Op) -> bool:
        source, axis, start, stride = body.args
        if apart.kind != "select" or apart.args[:2] != (source, axis) or stride != 1 or not isinstance(source, Use):
            return False
        assert isinstance(axis, int) and isinstance(start, int)
        found = bounds(self.types[source.name].shape[axis], apart.args[2], None)
        return found is not None and found[0] == self.time.trip + start

    def has_one_more(self, op: Op) -> bool:
        """Can one step more read this signal?"""
        if op.kind != "signal":
            return True
        source, axis, start, stride = op.args
        assert isinstance(source, Use) and isinstance(axis, int)
        if stride != 1 or not isinstance(start, int):
            return False
        left = self.types[source.name].shape[axis] - self.time.trip - start
        return isinstance(left, int) and left > 0
