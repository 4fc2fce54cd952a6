"""Final only: what is read only at the last step is computed only there.

The last entry of a stack of which nothing else is read, and what a loop carries one step on, is `last`. It moves through maps towards what they read: last(f(a, b)) = f(last(a), last(b)). It stops at a
recurrence, which is then read at its last step only, and turns a signal into one `select`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from linrec.draws import RANDOM
from linrec.ir import Arg, Graph, Op, Type, Use, map_uses, order
from linrec.manager import Context, Pass
from linrec.sizes import Dim, Size


@dataclass(frozen=True)
class FinalOnly(Pass):
    """Move `last` upwards until nothing changes; each move removes one map over time."""

    name: ClassVar[str] = "final-only"
    after: ClassVar[tuple[str, ...]] = ("find-recurrences",)

    def run(self, graph: Graph, context: Context) -> Graph:
        """One move at a time: a map whose every reader is `last`."""
        members = {m for r in graph.recurrences for m in r.members}
        graph = self._said_as_last(graph, context)
        moved = 0
        while (target := self._next(graph, members)) is not None and context.allows(target.result):
            graph = _moved(graph, target)
            moved += 1
        if moved:
            context.remark("passed", graph.name, f"{moved} maps are needed at the last step only")
        return graph

    def _said_as_last(self, graph: Graph, context: Context) -> Graph:
        readers, roots = graph.readers(), graph.roots()
        finals: dict[str, Op] = {}
        gone: set[str] = set()
        for op in graph.ops:
            use = op.args[0] if op.args else None
            if op.kind == "carry" and op.args[1] == 1 and isinstance(use, Use) and not use.delay:
                if context.allows(op.result):
                    finals[op.result] = replace(op, kind="last", args=(use,))
            elif op.kind == "stack" and op.leaves_time and op.result not in roots:
                entries = [_final_entry(graph, op, reader) for reader in readers.get(op.result, [])]
                if entries and None not in entries and context.allows(op.result):
                    finals.update({entry.result: entry for entry in entries if entry is not None})
                    gone.add(op.result)
        ops = tuple(finals.get(op.result, op) for op in graph.ops if op.result not in gone)
        return replace(graph, ops=ops) if finals else graph

    def _next(self, graph: Graph, members: set[str]) -> Op | None:
        readers = graph.readers()
        for op in reversed(graph.ops):
            if op.time is None or op.result in members or op.init or op.kind in RANDOM or op.result in graph.roots():
                continue
            by = readers.get(op.result, [])
            if by and all(r.kind == "last" for r in by) and all(u.delay == 0 for u in op.uses()):
                return op
        return None


def _final_entry(graph: Graph, stack: Op, reader: Op) -> Op | None:
    """`last` for a read of the entry of the last step; None if `reader` reads anything else."""
    (use, axis), dim = stack.args, reader.args[1] if len(reader.args) > 1 else None
    if (
        reader.kind != "select"
        or not isinstance(use, Use)
        or not isinstance(dim, int)
        or not isinstance(stack.type, Type)
    ):
        return None
    time = graph.time(graph.op(use.name).time or "")
    index = reader.args[2] if reader.args[2] != -1 else time.trip - 1
    wanted: Dim = time.trip - 1 if time.direction == "forward" else 0
    if dim % len(stack.type.shape) != axis or index != wanted:
        return None
    return replace(reader, kind="last", args=(use,))


def _moved(graph: Graph, op: Op) -> Graph:
    finals = {r.result for r in graph.readers()[op.result]}
    by_name = graph.by_name()
    new: list[Op] = []

    def last_of(use: Use) -> Arg:
        if use.name not in by_name or by_name[use.name].time is None:
            return use
        name = f"{op.result}.last.{len(new)}"
        new.append(Op(name, "last", (use,), (), by_name[use.name].type, None, (), op.source))
        return Use(name)

    assert op.time is not None
    time = graph.time(op.time)
    result = f"{op.result}.final"
    if op.kind == "signal":
        source, axis, start, stride = op.args
        assert isinstance(start, int | Size) and isinstance(stride, int)
        position: Dim = 0 if time.direction == "backward" else time.trip - 1
        index = start + stride * position
        new.append(replace(op, result=result, kind="select", args=(source, axis, index), time=None))
    else:
        moved = op.map_uses(last_of)
        new.append(replace(moved, result=result, time=None))

    def change(use: Use) -> Arg:
        return Use(result) if use.name in finals else use

    ops = [o.map_uses(change) for o in graph.ops if o.result not in finals and o.result != op.result]
    return replace(
        graph,
        ops=order((*ops, *new)),
        outputs=tuple(map_uses(o, change) for o in graph.outputs),
        effects=tuple((p, Use(result) if u.name in finals else u) for p, u in graph.effects),
    )
