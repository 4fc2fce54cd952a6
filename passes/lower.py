"""Lower: replace each recurrence that has a parallel form by the ops of that form.

Matrices with rank-one updates become reads of states that are never stored (linrec/linear/matrix.py), other
time-invariant recurrences kernels on impulse responses (linrec/linear/invariant.py), time-varying ones scans
(linrec/linear/varying.py), those over other semirings scans with gradients of their own (linrec/linear/tropical.py).
What is left sequential stays a cycle. The records of recurrences stay, for the report.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from linrec.ir import Graph
from linrec.linear.invariant import lower_invariant
from linrec.linear.matrix import lower_matrix
from linrec.linear.rank_one import RankOne, rank_one_of
from linrec.linear.system import System, system_of
from linrec.linear.tropical import lower_tropical
from linrec.linear.varying import lower_varying
from linrec.manager import Context, Pass
from linrec.passes.choose_form import response_of


@dataclass(frozen=True)
class Lower(Pass):
    """Write the chosen forms."""

    name: ClassVar[str] = "lower"
    after: ClassVar[tuple[str, ...]] = ("choose-form",)
    reassociates: ClassVar[bool] = True

    def run(self, graph: Graph, context: Context) -> Graph:
        """One recurrence after the other."""
        for recurrence in graph.recurrences:
            if recurrence.form in ("", "sequential") or not context.allows(recurrence.name):
                continue
            plain = recurrence.semiring == "sum-product"
            rank_one = rank_one_of(graph, recurrence) if plain and recurrence.form in ("chunked", "wy") else None
            if not plain:
                graph = lower_tropical(graph, recurrence, derivatives=context.differentiable)
            elif isinstance(rank_one, RankOne):
                graph = lower_matrix(rank_one, recurrence)
            elif recurrence.form in ("scan", "associative"):
                graph = lower_varying(graph, recurrence)
            else:
                system = system_of(graph, recurrence)
                assert isinstance(system, System), "a form was chosen for a recurrence without a system"
                # states' responses that are kept between calls: a learned readout is then one product with them
                kept = response_of(system, recurrence, context.frozen) == "read"
                graph = lower_invariant(graph, system, recurrence, keep_states=kept)
            context.remark("passed", recurrence.name, f"lowered to {recurrence.form}")
        return graph
