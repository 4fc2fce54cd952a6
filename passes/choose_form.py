"""Choose form: the cheapest form of each proven recurrence, by a cost model that can be printed.

The model (linrec/linear/cost.py) is static: the same program at the same sizes gets the same form on every
machine and in every run. `forms` overrides it. A proven recurrence is never left sequential because a call
is short: the loop is no candidate, its cost says from which length the form pays.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import ClassVar

import networkx as nx

from linrec.ir import Graph, Recurrence, Type, Use
from linrec.linear.affine import Refusal
from linrec.linear.cost import estimates, matrix_estimates, scan_estimates
from linrec.linear.rank_one import RankOne, rank_one_of
from linrec.linear.system import GROUP, System, product, system_of
from linrec.linear.varying import Layout, layout_of
from linrec.manager import Context, Pass
from linrec.sizes import Dim, evaluate, names_of

_RESPONSES = ("final", "convolution", "chunked")  # forms made of the matrices of a system
WIDEST = 128  # a scan of wider matrices never pays on a CPU: n^3 work a step against n^2 in the loop


@dataclass(frozen=True)
class ChooseForm(Pass):
    """Set `form` of every recurrence."""

    name: ClassVar[str] = "choose-form"
    after: ClassVar[tuple[str, ...]] = ("fold-readout",)

    def run(self, graph: Graph, context: Context) -> Graph:
        """Each recurrence on its own."""
        return replace(graph, recurrences=tuple(self._chosen(graph, r, context) for r in graph.recurrences))

    def _chosen(self, graph: Graph, recurrence: Recurrence, context: Context) -> Recurrence:
        wanted = context.forms if isinstance(context.forms, str) else context.forms.get(recurrence.name, "auto")
        unproven = recurrence.kind not in ("lti", "ltv")
        if unproven or wanted == "sequential" or not context.allows(recurrence.name):
            return replace(recurrence, form="sequential")
        types = [graph.op(s).type for s in recurrence.states]
        if any(not isinstance(t, Type) or t.dtype == "bool" for t in types):
            return replace(
                recurrence, form="sequential", code="LR2002",
                reason="linear, but its state is made of booleans", help="make the state floating point",
            )  # fmt: skip
        # integers form a ring modulo 2^n, in which a scan is exact; impulse responses are made of floating point
        exact = all(isinstance(t, Type) and t.dtype[0] in "iu" for t in types)
        plain = recurrence.semiring == "sum-product" and not exact
        if plain and wanted in ("auto", "chunked", "wy"):
            rank_one = rank_one_of(graph, recurrence)
            if isinstance(rank_one, RankOne) and (recurrence.kind == "ltv" or _reads_vary(rank_one)):
                return self._matrix(graph, recurrence, rank_one, context)
        system = system_of(graph, recurrence) if recurrence.kind == "lti" and plain else None
        if isinstance(system, Refusal) and wanted in _RESPONSES and any(n[0] not in "TB" for n in graph.sizes()):
            # the form asked for may apply once every size is known: the program is compiled again for those of the call
            return replace(recurrence, form="sequential", code="LR2002", reason=system.reason)
        if not isinstance(system, System) or wanted in ("scan", "associative"):
            return self._varying(graph, recurrence, context)
        final = is_final(graph, recurrence)
        context.sizes[recurrence.name] = sizes = sizes_of(system, context)
        scans = system.is_diagonal and not final and isinstance(layout_of(graph, recurrence), Layout)
        found = estimates(
            sizes, constant=is_frozen(system, context.frozen), final=final, diagonal=scans, machine=context.machine
        )
        context.costs[recurrence.name] = found
        names = [e.form for e in found if e.form != "sequential"]
        if wanted != "auto" and wanted not in names:
            context.remark("missed", recurrence.name, f"form '{wanted}' does not apply; one of {', '.join(names)} does")
        form = wanted if wanted in names else names[0]
        context.remark("passed", recurrence.name, form)
        return replace(recurrence, form=form)

    def _matrix(self, graph: Graph, recurrence: Recurrence, found: RankOne, context: Context) -> Recurrence:
        lengths = {**dict.fromkeys(graph.sizes(), 64), **context.lengths}
        shape, trip = found.type.shape, graph.time(recurrence.time).trip
        sizes = {
            "E": evaluate(product([shape[i] for i in found.passing]), lengths),
            "T": max(evaluate(trip, lengths), 1),
            "k": evaluate(shape[found.key], lengths),
            "v": evaluate(product([shape[i] for i in found.values]), lengths),
            "r": len(found.updates),
            "m": len(recurrence.members),
        }
        context.costs[recurrence.name] = matrix_estimates(sizes, found.form, machine=context.machine)
        reads = ", ".join(f"%{r.out}" for r in found.reads)
        context.remark("passed", recurrence.name, f"{found.form}: read as {reads}; %{found.state} is not stored")
        return replace(recurrence, form=found.form)

    def _varying(self, graph: Graph, recurrence: Recurrence, context: Context) -> Recurrence:
        layout = layout_of(graph, recurrence)
        if isinstance(layout, Refusal):
            context.remark("missed", recurrence.name, f"no parallel form: {layout.reason}")
            return replace(
                recurrence, form="sequential", code="LR2002",
                reason=f"linear ({recurrence.structure}), but linrec has no parallel form for it yet: {layout.reason}",
            )  # fmt: skip
        n = layout.width
        assert isinstance(n, int)
        if n > WIDEST:
            context.remark("missed", recurrence.name, f"products of {n} x {n} matrices cost more than the loop")
            return replace(
                recurrence, form="sequential", code="LR2003",
                reason=f"linear ({recurrence.structure}), but a scan would multiply {n} x {n} matrices at every step, which costs more than the loop",
                help="give the transition a structure: diagonal, or constant over time",
            )  # fmt: skip
        form = "scan" if n == 1 else "associative"
        first = graph.op(recurrence.states[0]).type
        assert isinstance(first, Type)
        passing = product([first.shape[i] for i in layout.passing])
        named = {
            name: context.lengths.get(name, 64)
            for d in (passing, graph.time(recurrence.time).trip)
            for name in names_of(d)
        }
        trip = graph.time(recurrence.time).trip
        sizes = {
            "E": evaluate(passing, named),
            "T": max(evaluate(trip, named), 1),
            "n": n,
            "m": len(recurrence.members),
        }
        context.costs[recurrence.name] = scan_estimates(sizes, form, machine=context.machine)
        context.remark("passed", recurrence.name, form)
        return replace(recurrence, form=form)


def _reads_vary(found: RankOne) -> bool:
    """Is the state read by something that changes from step to step? Else its impulse response would do."""
    times = {op.result: op.time for op in found.graph.ops}
    values = (f.value for r in found.reads for q, _ in r.queries for f in q)
    return any(isinstance(v, Use) and times.get(v.name) is not None for v in values)


def is_final(graph: Graph, recurrence: Recurrence) -> bool:
    """Is every output read at the last step only?"""
    readers, members = graph.readers(), set(recurrence.members)
    return all(op.kind == "last" for o in recurrence.outputs for op in readers.get(o, []) if op.result not in members)


def is_frozen(system: System, frozen: frozenset[str], rows: Collection[str] | None = None) -> bool:
    """Do the coefficients, those of some rows alone if given, depend on nothing that changes from call to call?"""
    edges = system.graph.edges()
    inputs = {i.name for i in system.graph.inputs}
    read = {
        use.name
        for (row, _), terms in system.terms.items()
        if rows is None or row in rows
        for term in terms
        for factor in term.factors
        if (use := factor.value) is not None and hasattr(use, "name")
    }
    known = {name for name in read if name in edges}
    sources = {a for name in known for a in (nx.ancestors(edges, name) | {name})} & inputs
    return sources <= frozen


def sizes_of(system: System, context: Context) -> dict[str, int]:
    """The sizes that the cost model asks for, at the lengths of the call."""

    def value(dim: Dim) -> int:
        return max(evaluate(dim, {n: context.lengths.get(n, 64) for n in names_of(dim)}), 1)

    state = system.states[0]
    return {
        "B": value(product([d for d, part in zip(state.type.shape, state.parts, strict=True) if part == "batch"])),
        "T": value(system.time.trip),
        "g": value(product(state.sizes(GROUP))),
        "n": value(system.width(system.states)),
        "p": value(system.width(system.drives)),
        "q": value(system.width(system.outputs)),
        "m": len(system.recurrence.members),
    }
