"""Common subexpressions: equal ops on equal reads at equal delays are one op."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from linrec.draws import RANDOM
from linrec.ir import Graph, Op, Use
from linrec.manager import Context, Pass
from linrec.passes.canonicalize import reading


@dataclass(frozen=True)
class CommonSubexpressions(Pass):
    """Compute once what is computed twice; random operators are never equal."""

    name: ClassVar[str] = "cse"
    after: ClassVar[tuple[str, ...]] = ("canonicalize",)

    def run(self, graph: Graph, context: Context) -> Graph:
        """Merge until nothing changes: one walk for each level of nesting."""
        while True:
            first: dict[object, Op] = {}
            same: dict[str, Use] = {}
            for op in graph.ops:
                if op.kind in RANDOM:
                    continue
                key = (op.kind, op.args, op.attrs, tuple(map(type, op.args)), op.type, op.time, op.init)
                known = first.setdefault(key, op)
                if known is not op and op.result not in graph.roots() and context.allows(op.result):
                    same[op.result] = Use(known.result)
                    context.remark("passed", op.result, f"equal to %{known.result}")
            if not same:
                return graph
            graph = reading(replace(graph, ops=tuple(op for op in graph.ops if op.result not in same)), same)
