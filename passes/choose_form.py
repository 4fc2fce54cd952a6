"""Choose form: the cheapest form of each proven recurrence, by a cost model that can be printed.

The model (linrec/linear/cost.py) is static: the same program at the same sizes gets the same form in every run, and on
every machine with the same constants. `forms` overrides it. A proven recurrence is never left sequential because a
call is short: the loop is chosen only where it is the cheapest at every length, and the report then says that this is
a matter of cost. Else the cost of a form says from which length it pays.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import networkx as nx

from linrec.ir import Graph, Recurrence, Type, Use
from linrec.linear.affine import Refusal
from linrec.linear.analysis import analysed
from linrec.linear.cost import Estimate, Response, estimates, is_loop_best, matrix_estimates, scan_estimates
from linrec.linear.rank_one import RankOne, rank_one_of
from linrec.linear.semirings import SEMIRINGS
from linrec.linear.system import BATCH, GROUP, System, product, system_of
from linrec.linear.varying import Layout, layout_of, touched
from linrec.manager import Context, Pass
from linrec.sizes import Dim, evaluate, names_of

_RESPONSES = ("final", "convolution", "chunked")  # forms made of the matrices of a system
Model = Callable[[Mapping[str, int]], list[Estimate]]


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
            return self._varying(graph, recurrence, wanted, context)
        final, sizes = is_final(graph, recurrence), sizes_of(system, context)
        layout = layout_of(graph, recurrence)
        width = layout.width if isinstance(layout, Layout) and not final else 0  # of the vector that a scan mixes
        options: dict[str, Any] = {
            "response": response_of(system, recurrence, context.frozen),
            "final": final,
            "diagonal": system.is_diagonal and width != 0,
            "elementwise": system.is_elementwise,
            "associative": width not in (0, 1) and sizes["n"] <= sizes["q"],
            "dtype": system.dtype,
            "gradients": context.gradients,
            "machine": context.machine,
        }
        return self._cheapest(recurrence, wanted, sizes, lambda at: estimates(at, **options), context)

    def _cheapest(
        self, recurrence: Recurrence, wanted: str, sizes: Mapping[str, int], estimate: Model, context: Context
    ) -> Recurrence:
        """The form asked for if it applies, else the cheapest; the loop where that is so at every length."""
        found = estimate(sizes)
        context.costs[recurrence.name] = found
        names = [e.form for e in found if e.form != "sequential"]
        if wanted in names:
            form = wanted
        elif wanted == "auto" and is_loop_best(estimate, sizes):
            return self._by_cost(recurrence, found, sizes["T"], context)
        else:
            form = names[0]
            if wanted != "auto":
                told = f"form '{wanted}' does not apply; one of {', '.join(names)} does"
                context.remark("missed", recurrence.name, told)
        context.remark("passed", recurrence.name, form)
        return replace(recurrence, form=form)

    def _by_cost(self, recurrence: Recurrence, found: Sequence[Estimate], steps: int, context: Context) -> Recurrence:
        loop, best = found[0], found[1]
        reason = (
            f"linear ({recurrence.structure}), left a loop by cost: at these sizes {best.form} would take "
            f"{1e6 * best.seconds / steps:.2g} us a step, the loop {1e6 * loop.seconds / steps:.2g} us"
        )
        context.remark("missed", recurrence.name, reason)
        return replace(
            recurrence, form="sequential", code="LR2003", reason=reason,
            help=f'nothing is wrong; forms="{best.form}" asks for that form all the same',
        )  # fmt: skip

    def _matrix(self, graph: Graph, recurrence: Recurrence, found: RankOne, context: Context) -> Recurrence:
        shape = found.type.shape
        sizes = {
            "E": _value(product([shape[i] for i in found.passing]), context),
            "T": _value(graph.time(recurrence.time).trip, context),
            "k": _value(shape[found.key], context),
            "v": _value(product([shape[i] for i in found.values]), context),
            "r": len(found.updates),
            "m": len(recurrence.members),
        }
        context.costs[recurrence.name] = matrix_estimates(
            sizes, found.form, dtype=found.type.dtype, machine=context.machine
        )
        reads = ", ".join(f"%{r.out}" for r in found.reads)
        context.remark("passed", recurrence.name, f"{found.form}: read as {reads}; %{found.state} is not stored")
        return replace(recurrence, form=found.form)

    def _varying(self, graph: Graph, recurrence: Recurrence, wanted: str, context: Context) -> Recurrence:
        layout = layout_of(graph, recurrence)
        if isinstance(layout, Refusal):
            context.remark("missed", recurrence.name, f"no parallel form: {layout.reason}")
            return replace(
                recurrence, form="sequential", code="LR2002",
                reason=f"linear ({recurrence.structure}), but linrec has no parallel form for it yet: {layout.reason}",
            )  # fmt: skip
        first, analysis = graph.op(recurrence.states[0]).type, analysed(graph, recurrence)
        assert isinstance(first, Type) and isinstance(layout.width, int)
        differing = touched(layout, recurrence, analysis)
        factors = {f for s in recurrence.states for term in analysis.forms[s].terms for f in term.factors}
        read = [product([analysis.labels.size[x] for x in f.labels]) for f in factors if analysis.varies(f.value)]
        sizes = {
            "E": _value(product([first.shape[i] for i in layout.passing]), context),
            "T": _value(graph.time(recurrence.time).trip, context),
            "n": layout.width,
            "L": _value(product([first.shape[i] for i in differing]), context),
            "F": sum(_value(dim, context) for dim in read),
            "m": len(recurrence.members),
        }
        options: dict[str, Any] = {
            "ring": SEMIRINGS[recurrence.semiring].is_ring,
            "dtype": first.dtype,
            "gradients": context.gradients,
            "differentiable": context.differentiable,
            "machine": context.machine,
        }
        return self._cheapest(recurrence, wanted, sizes, lambda at: scan_estimates(at, **options), context)


def _value(dim: Dim, context: Context) -> int:
    """A size at the lengths of the call; lengths that it does not tell count as 64."""
    return max(evaluate(dim, {n: context.lengths.get(n, 64) for n in names_of(dim)}), 1)


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


def response_of(system: System, recurrence: Recurrence, frozen: frozenset[str]) -> Response:
    """What of the impulse response is kept from call to call."""
    if is_frozen(system, frozen):
        return "kept"
    return "read" if is_frozen(system, frozen, recurrence.states) else "built"


def sizes_of(system: System, context: Context) -> dict[str, int]:
    """The sizes that the cost model asks for, at the lengths of the call."""

    state = system.states[0]
    return {
        "B": _value(product(state.sizes(BATCH)), context),
        "T": _value(system.time.trip, context),
        "g": _value(product(state.sizes(GROUP)), context),
        "n": _value(system.width(system.states), context),
        "p": _value(system.width(system.drives), context),
        "q": _value(system.width(system.outputs), context),
        "m": len(system.recurrence.members),
    }
