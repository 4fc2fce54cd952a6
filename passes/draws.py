"""Draws: random numbers come in the order of the program, where a loop draws more than once a step.

    dropout(x, p) = x * dropout(ones, p)

bit for bit, and the right factor depends on no value: all draws of a loop run step by step, as the program's do, and
what they act on still runs for all steps at once. A draw that acts on a state stays where it is: it is no constant
factor to whoever trains. Costs a search for cycles where a loop draws twice.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import ClassVar

import networkx as nx

from linrec.draws import RANDOM
from linrec.dtypes import LONG
from linrec.ir import Arg, Atom, Graph, Op, Type, Use
from linrec.manager import Context, Pass


@dataclass(frozen=True)
class Draws(Pass):
    """Part dropouts into a draw, which keeps its turn, and a product."""

    name: ClassVar[str] = "draws"
    after: ClassVar[tuple[str, ...]] = ("hoist", "cse")

    def run(self, graph: Graph, context: Context) -> Graph:
        """Where another draw is made in the same loop."""
        turns = Counter(op.time for op in graph.ops if op.kind in RANDOM and op.time is not None)
        if not any(n > 1 for n in turns.values()):
            return graph
        edges = graph.edges()
        cyclic = set().union(*(c for c in nx.strongly_connected_components(edges) if len(c) > 1))
        ops: list[Op] = []
        for op in graph.ops:
            is_alone = op.time is None or turns[op.time] < 2 or op.result in cyclic or op.init
            if (
                op.kind != "dropout"
                or is_alone
                or not context.allows(op.result)
                or not isinstance(op.type, Type)
                or not graph.inputs
            ):
                ops.append(op)
                continue
            ones, drawn = f"{op.result}.ones", f"{op.result}.drawn"
            shape: tuple[Arg, ...] = (Use(graph.inputs[0].name), op.type.shape, 1.0)  # where the inputs are
            ops.append(
                Op(ones, "new_full", shape, (("dtype", Atom(LONG[op.type.dtype])),), op.type, None, (), op.source)
            )
            ops.append(replace(op, result=drawn, args=(Use(ones), *op.args[1:])))
            ops.append(replace(op, kind="mul", args=(op.args[0], Use(drawn)), attrs=()))
        return graph if len(ops) == len(graph.ops) else replace(graph, ops=tuple(ops))
