"""Unpeel: a first step that was set apart although it does what every step does goes back into its loop.

If the state before a loop from step 1 is what the loop's own step makes of something, on the inputs of step 0, then
the loop may start at step 0 from that something. Checked op by op: same kinds, same arguments, each read of a signal
at step 1 + k against a read at step 0, each read h[-1] against the one value that becomes h's state before step 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from linrec.ir import Arg, Graph, Op, Time, Type, Use
from linrec.sizes import size


def unpeel(graph: Graph) -> Graph:
    """The graph with every first step that is no special one inside its loop; the same graph if there is none."""
    changed = True
    while changed:
        changed = False
        for time in graph.times:
            lag = size("T") - time.trip
            if time.direction == "forward" and isinstance(lag, int) and lag > 0:
                new = _Match(graph, time).rewritten()
                if new is not None:
                    graph, changed = new, True
                    break
    return graph


@dataclass
class _Match:
    """One loop against the ops before it."""

    graph: Graph
    time: Time
    first: dict[str, Arg] = field(default_factory=dict)  # h -> what h[-1] is at step 0
    seen: set[tuple[str, str]] = field(default_factory=set)

    def rewritten(self) -> Graph | None:
        """The loop one step longer, None if its first step is another."""
        by_name = self.by_name = self.graph.by_name()
        members = [op for op in self.graph.ops if op.time == self.time.name]
        states = [op for op in members if op.init]
        if not states or any(len(op.init) != 1 or not self.same(Use(op.result), op.init[0]) for op in states):
            return None
        if any(op.result not in self.first for op in states):
            return None
        if any(
            op.kind == "signal" and (op.args[3] != 1 or not isinstance(op.args[2], int) or op.args[2] < 1)
            for op in members
        ):
            return None
        joins = self.joined(by_name, {op.result for op in members})
        if joins is None:
            return None
        ops = [self.longer(op, joins) for op in self.graph.ops]
        times = tuple(replace(t, trip=t.trip + 1) if t.name == self.time.name else t for t in self.graph.times)
        return replace(self.graph, ops=tuple(ops), times=times)

    def same(self, body: Arg, before: Arg) -> bool:
        """Is `before` what the step makes of step 0 where it makes `body` of a later one?"""
        if isinstance(body, tuple) and isinstance(before, tuple):
            return len(body) == len(before) and all(map(self.same, body, before))
        if not isinstance(body, Use):
            return body == before and type(body) is type(before)
        if body.delay:
            return body.delay == 1 and self.first.setdefault(body.name, before) == before
        op = self.by_name.get(body.name)
        if op is None or op.time is None:
            return body == before
        other = self.by_name.get(before.name) if isinstance(before, Use) else None
        if other is None or other.time is not None:
            return False
        if (op.result, other.result) in self.seen:
            return True
        if op.kind == "signal":
            source, axis, start, _ = op.args
            assert isinstance(start, int)
            return other.kind == "select" and other.args == (source, axis, start - 1)
        good = (
            op.kind == other.kind and len(op.args) == len(other.args) and op.type == other.type
            and [k for k, _ in op.attrs] == [k for k, _ in other.attrs]
            and all(self.same(a, b) for a, b in zip(op.args, other.args, strict=True))
            and all(self.same(a, b) for (_, a), (_, b) in zip(op.attrs, other.attrs, strict=True))
        )  # fmt: skip
        if good:
            self.seen.add((op.result, other.result))
        return good

    def joined(self, by_name: dict[str, Op], members: set[str]) -> dict[str, str] | None:
        """cat -> the stack it takes the loop's results from; None if some result is read otherwise."""
        found: dict[str, str] = {}
        for op in self.graph.ops:
            source = op.args[0] if op.leaves_time else None
            if not isinstance(source, Use) or source.name not in members or op.kind == "last":
                continue
            readers = [r for r in self.graph.ops if any(u.name == op.result for u in r.all_uses())]
            if op.kind != "stack" or source.delay or op.result in self.graph.roots() or not readers:
                return None
            for reader in readers:
                parts = reader.args[0] if reader.kind == "cat" else None
                if not isinstance(parts, tuple) or reader.args[1] != op.args[1] or Use(op.result) not in parts[1:]:
                    return None
                lead = parts[parts.index(Use(op.result)) - 1]
                ahead = by_name.get(lead.name) if isinstance(lead, Use) else None
                if ahead is None or ahead.kind != "unsqueeze" or ahead.args[1] != op.args[1]:
                    return None
                if not self.same(source, ahead.args[0]):
                    return None
                found[reader.result] = op.result
        return found

    def longer(self, op: Op, joins: dict[str, str]) -> Op:
        """An op of the graph whose loop starts one step earlier."""
        if op.time == self.time.name:
            if op.init:
                op = replace(op, init=(self.first[op.result],))
            if op.kind == "signal" and isinstance(op.args[2], int):
                op = replace(op, args=(*op.args[:2], op.args[2] - 1, op.args[3]))
        elif op.result in joins.values() and isinstance(op.type, Type):
            axis = op.args[1]
            op = replace(
                op, type=Type(op.type.dtype, tuple(d + 1 if i == axis else d for i, d in enumerate(op.type.shape)))
            )
        elif op.result in joins:
            parts = op.args[0]
            assert isinstance(parts, tuple)
            place = parts.index(Use(joins[op.result]))
            rest = (*parts[: place - 1], *parts[place:])
            op = replace(op, args=(rest, *op.args[1:])) if len(rest) > 1 else replace(op, kind="alias", args=rest)
        return op
