"""Prove linear: is the next state an affine function of the last ones, over some semiring?

The proof is the operator table (linrec/linear/rules) applied to each component: every value is
constant in the state, affine in it, or neither, and the first op that is neither is the reason. (+, x) is tried
first; another semiring where the component has an operator that only it knows, such as `maximum`. A numeric
superposition test, f(a s + b s') = a f(s) + b f(s') with a + b = 1 in the semiring, backs the proof where an
evaluator is given; alone it would prove nothing. A proof that fails it is withdrawn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import networkx as nx

from linrec.draws import RANDOM
from linrec.ir import Graph, Recurrence
from linrec.linear.analysis import Analysis, state_reads
from linrec.linear.rules import RULES
from linrec.linear.semirings import SUM, TROPICAL, Semiring
from linrec.manager import Context, Pass

ALLOWED = 1e-9  # superposition error in float64, relative


@dataclass(frozen=True)
class ProveLinear(Pass):
    """Decide `kind`: lti if no coefficient varies over time, ltv if one does, else nonlinear."""

    name: ClassVar[str] = "prove-linear"
    after: ClassVar[tuple[str, ...]] = ("find-recurrences", "final-only")

    def run(self, graph: Graph, context: Context) -> Graph:
        """Prove or refuse each recurrence on its own."""
        return replace(graph, recurrences=tuple(self._judge(graph, r, context) for r in graph.recurrences))

    def _judge(self, graph: Graph, recurrence: Recurrence, context: Context) -> Recurrence:
        analysis = _proof(graph, recurrence)
        refusal = analysis.refusal
        recurrence = replace(recurrence, semiring=analysis.semiring.name)
        if refusal is None and (drawn := [m for m in recurrence.members if graph.op(m).kind in RANDOM]):
            context.remark("missed", recurrence.name, f"random numbers drawn at %{drawn[0]}")
            return replace(
                recurrence, kind="nonlinear", code="LR1205", culprit=drawn[0],
                reason="random numbers are drawn inside the recurrence", help="draw them for all steps before the loop",
            )  # fmt: skip
        if refusal is not None:
            reason = f"{refusal.reason} ({_edge(graph, recurrence, analysis, refusal.op)})"
            context.remark("missed", recurrence.name, reason)
            return replace(
                recurrence, kind="nonlinear", code=refusal.code, culprit=refusal.op, reason=reason, help=refusal.help
            )  # fmt: skip
        varying = any(
            analysis.varies(factor.value)
            for state in recurrence.states
            for term in analysis.forms[state].terms
            for factor in term.factors
        )
        kind = "ltv" if varying else "lti"
        notes = recurrence.notes
        if context.superposition is not None:
            error = context.superposition(graph, recurrence)
            if error > ALLOWED:
                context.remark("failed", recurrence.name, f"superposition error {error:.1e}, allowed {ALLOWED:.0e}")
                return replace(
                    recurrence, kind="nonlinear", code="LR9001", culprit=recurrence.states[0],
                    reason=f"the operator table says linear, the superposition test does not ({error:.1e} > {ALLOWED:.0e})",
                )  # fmt: skip
            notes = (*notes, f"superposition error {error:.1e}, allowed {ALLOWED:.0e}")
        context.remark("passed", recurrence.name, f"{kind} over {recurrence.semiring}")
        return replace(recurrence, kind=kind, notes=notes)  # type: ignore[arg-type]


def _proof(graph: Graph, recurrence: Recurrence) -> Analysis:
    """The forms over the first semiring that has rules for every member; where none has, over (+, x)."""
    reads, kinds = state_reads(graph, recurrence), {graph.op(m).kind for m in recurrence.members}
    first = Analysis(graph, recurrence.members, reads)
    if first.refusal is None:
        return first
    others = (Analysis(graph, recurrence.members, reads, s) for s in TROPICAL if kinds & _own_operators(s))
    return next((a for a in others if a.refusal is None), first)


def _own_operators(semiring: Semiring) -> set[str]:
    return {kind for name, kind in RULES if name == semiring.name and (SUM.name, kind) not in RULES}


def _edge(graph: Graph, recurrence: Recurrence, analysis: Analysis, culprit: str) -> str:
    """Which states go into the op that breaks linearity, and which it makes: "h, m -> h"."""
    read = {
        term.state.name
        for use in graph.op(culprit).uses()
        if (form := analysis.form(use)) is not None
        for term in form.terms
    }
    edges: nx.DiGraph[str] = nx.DiGraph()
    edges.add_nodes_from(recurrence.members)
    edges.add_edges_from(
        (use.name, m) for m in recurrence.members for use in graph.op(m).uses() if use.delay == 0 and use.name in edges
    )
    made = (nx.descendants(edges, culprit) | {culprit}) & set(recurrence.states)
    names = [", ".join(s for s in recurrence.states if s in group) for group in (read, made)]
    return " -> ".join(n for n in names if n)
