"""Hoist: what does not vary leaves its loop.

An op that reads no signal is computed once, not once a step. What reads signals but no state needs
no move: in this graph it is a map over time already, and is emitted for all steps at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from linrec.draws import RANDOM
from linrec.ir import Graph, Op
from linrec.manager import Context, Pass


@dataclass(frozen=True)
class Hoist(Pass):
    """Give ops without varying arguments no time domain."""

    name: ClassVar[str] = "hoist"
    after: ClassVar[tuple[str, ...]] = ("cse",)

    def run(self, graph: Graph, context: Context) -> Graph:
        """One walk in order: arguments are decided before their readers."""
        varying = {op.result for op in graph.ops if op.time is not None}
        ops: list[Op] = []
        for op in graph.ops:
            fixed = op.kind in RANDOM or op.kind == "signal" or op.init or any(u.name in varying for u in op.uses())
            if op.time is not None and not fixed and context.allows(op.result):
                varying.discard(op.result)
                op = replace(op, time=None)
                context.remark("passed", op.result, "does not vary, computed once")
            ops.append(op)
        if all(a is b for a, b in zip(ops, graph.ops, strict=True)):
            return graph
        return _converted(replace(graph, ops=tuple(ops)), varying)


def _converted(graph: Graph, varying: set[str]) -> Graph:
    """`last` and `pick` of a value that does not vary are the value; `stack` repeats it."""
    ops: list[Op] = []
    for op in graph.ops:
        used = next(op.uses(), None)
        if op.kind in ("last", "pick") and used is not None and used.name not in varying:
            op = replace(op, kind="alias", args=(used,))
        elif op.leaves_time and used is not None and used.name not in varying and not isinstance(op.type, tuple):
            assert op.type is not None and isinstance(op.args[1], int)
            wide = f"{op.result}.wide"
            one = tuple(1 if i == op.args[1] else d for i, d in enumerate(op.type.shape))
            ops.append(replace(op, result=wide, kind="unsqueeze", type=replace(op.type, shape=one)))
            op = replace(op, kind="expand", args=(type(used)(wide), op.type.shape))
        ops.append(op)
    return replace(graph, ops=tuple(ops))
