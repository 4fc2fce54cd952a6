"""Paths: many terms of one state as one, by adding up their coefficients.

    sum_p C_p[o, r] s[r]  =  (sum_p C_p)[o, r] s[r]

The number of terms is the number of paths from a state to a value and doubles wherever two of them join, so a long
step would have no end of them. Axes that pass in every path still pass; the others are mixed by one dense coefficient,
and what was known of its structure is lost.
"""

from __future__ import annotations

from dataclasses import replace

from linrec.ir import Use
from linrec.linear.affine import Axis, Factor, Form, Label, Term
from linrec.linear.analysis import Analysis
from linrec.linear.system import Writer, product
from linrec.sizes import Dim

LARGEST = 1 << 16  # numbers in a coefficient, beside those along axes that pass


def joined(form: Form, analysis: Analysis, prefix: str, dtype: str) -> Form:
    """The form with one term for each state and each conjugate of a state; as it is where a size is not known.

    The coefficients are new ops of the analysis, named after `prefix`. O(paths * numbers in a coefficient).
    """
    groups: dict[tuple[Use, bool], list[Term]] = {}
    for term in form.terms:
        groups.setdefault((term.state, term.conjugate), []).append(term)
    terms: list[Term] = []
    for i, ((state, _), group) in enumerate(groups.items()):
        # of a complex state only all paths together make a real value, z and its conjugate among them
        own = analysis.type(state).dtype
        width = own if own[0] == "c" else dtype
        terms += _sum(group, analysis, f"{prefix}.paths{i}", width) if len(group) > 1 else group
    return replace(form, terms=tuple(terms))


def _sum(group: list[Term], analysis: Analysis, prefix: str, dtype: str) -> list[Term]:
    labels, first = analysis.labels, group[0]
    passing = set.intersection(*map(_passing, group))  # (axis of the state, axis of the value)
    touched = {pair for pair in passing if any(_touches(t, t.axes[pair[1]]) for t in group)}
    rows = [j for j in range(len(first.axes)) if j not in {b for _, b in passing}]
    columns = [i for i in range(len(first.state_axes)) if i not in {a for a, _ in passing}]

    def extents(term: Term) -> tuple[list[Dim], list[Dim], list[Dim]]:
        return (
            [labels.extent(term.axes[b]) for _, b in sorted(touched)],
            [labels.extent(term.axes[j]) for j in rows],
            [labels.extent(term.state_axes[i]) for i in columns],
        )

    held, made, read = extents(first)
    numbers = product([*made, *read])
    if not isinstance(numbers, int) or numbers > LARGEST or any(extents(t) != (held, made, read) for t in group):
        return group
    write = Writer(analysis, dtype, prefix)
    shape = (*held, *made, *read)
    total: Use | None = None
    for term in group:
        out = [term.axes[b] for _, b in sorted(touched)] + [term.axes[j] for j in rows]
        one = write.term(term, _flat(out), _flat([term.state_axes[i] for i in columns]), shape)
        total = one if total is None else write.plus(total, one, shape)
    assert total is not None
    analysis.ops, analysis.types, analysis.times = write.ops, write.types, write.times
    # new labels: an axis that passes has those of the first path, which no other term shares
    axes: list[Axis] = [first.axes[b] if b in {b for _, b in passing} else labels.axis(labels.extent(first.axes[b]))
                        for b in range(len(first.axes))]  # fmt: skip
    state_axes = list(first.state_axes)
    for i in columns:
        state_axes[i] = labels.axis(labels.extent(first.state_axes[i]))
    order = (*(axes[b] for _, b in sorted(touched)), *(axes[j] for j in rows), *(state_axes[i] for i in columns))
    return [replace(first, state_axes=tuple(state_axes), axes=tuple(axes), factors=(Factor(total, order),))]


def _passing(term: Term) -> set[tuple[int, int]]:
    """Axes of the state that are an axis of the value, and which."""
    return {
        (i, term.axes.index(axis))
        for i, axis in enumerate(term.state_axes)
        if axis and term.axes.count(axis) == 1 and term.state_axes.count(axis) == 1
    }


def _touches(term: Term, axis: Axis) -> bool:
    held = {x for f in term.factors for a in f.axes for x in a}
    return bool(held & set(axis))


def _flat(axes: list[Axis]) -> list[Label]:
    return [x for axis in axes for x in axis]
