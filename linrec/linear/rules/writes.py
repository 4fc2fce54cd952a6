"""Rules of writes: the state with part of it replaced or added to, as in-place code leaves it."""

from __future__ import annotations

from dataclasses import replace

from linrec.dtypes import LONG
from linrec.ir import Arg, Atom, Op, Type, Use
from linrec.linear.affine import Factor, Form, Refusal, Term
from linrec.linear.rules.maps import Axes, applied, chosen_by_the_state, matrix_of, unknown_length
from linrec.linear.rules.table import Builder, rule, scaled_by, whole
from linrec.linear.semirings import ALL, SUM


@rule("select_scatter", "slice_scatter", semirings=ALL)
def _scattered(op: Op, build: Builder) -> Form | Refusal:
    # rows of the first where nothing is written, rows of the second where they go
    into, part = op.args[:2]
    type_, dim = _type(op), op.args[2] if len(op.args) > 2 else dict(op.attrs).get("dim", 0)
    assert isinstance(dim, int)
    dim %= len(type_.shape)
    length = type_.shape[dim]
    if not isinstance(length, int):
        return unknown_length(op)
    reading = op.kind.removesuffix("_scatter")
    place = op.args[2:] if len(op.args) > 2 else ()
    count = () if reading == "select" else (build.type(part).shape[dim],)
    # `rows` picks the written rows out of the whole: its transpose puts them there
    eye = build.make("eye", (length,), Type(type_.dtype, (length, length)), (("dtype", Atom(LONG[type_.dtype])),))
    rows = build.make(reading, (eye, 0, *place[1:]), Type(type_.dtype, (*count, length)), op.attrs)
    own, written = build.form(into), build.form(part)
    terms: list[Term] = []
    if own is not None:
        held = rows if reading == "select" else build.make("sum", (rows, (0,)), Type(type_.dtype, (length,)))
        keep = build.make("rsub", (held, 1), Type(type_.dtype, (length,)))
        assert isinstance(keep, Use)
        terms += [t.times(Factor(build.indicator(keep), (t.axes[dim],))) for t in own.terms]
    if written is not None:
        assert isinstance(rows, Use)
        for term in written.terms:
            out = build.labels.axis(length)
            axes = list(term.axes)
            source = [] if reading == "select" else [axes[dim]]
            axes[dim : dim + len(source)] = [out]
            terms.append(term.times(Factor(build.indicator(rows), (*source, out)), axes=tuple(axes)))
    offsets = [a if f is None else f.offset for a, f in ((into, own), (part, written))]
    if offsets == [None, None]:
        return Form(tuple(terms))
    full = [whole(o, build.type(a), build) for o, a in zip(offsets, (into, part), strict=True)]
    return Form(tuple(terms), build.make(op.kind, (*full, *op.args[2:]), type_, op.attrs))


def _type(op: Op) -> Type:
    assert isinstance(op.type, Type)
    return op.type


@rule("index_put", "scatter", "index_fill", "index_copy", semirings=ALL)
@rule("scatter_add", "index_add", "scatter_reduce")
def _written(op: Op, build: Builder) -> Form | Refusal:
    """Values written, or added, where an index or a mask says.

    What is left of the state keeps a coefficient of one; values that depend on the state are a map along the axis written to.
    """
    named = dict(op.attrs)
    place = 2 if op.kind == "index_put" else 3
    into, value = op.args[0], op.args[place]
    if any(build.form(a) is not None for a in op.args[1:place]):
        return chosen_by_the_state(op)
    adds = op.kind in ("scatter_add", "index_add") or True in (named.get("accumulate"), *op.args[place + 1 :])
    if op.kind == "scatter_reduce":
        if op.args[place + 1] != "sum" or named.get("include_self") is False:
            return Refusal("LR1209", op.result, f"the state is reduced by `{op.kind}`", "add up with scatter_add")
        adds = True
    elif named.get("reduce") or (adds and build.semiring != SUM):
        return Refusal("LR1299", op.result, f"no rule for `{op.kind}` that computes as it writes")
    own, given = build.form(into), build.form(value)
    terms: list[Term] = []
    if own is not None:
        kept = None if adds else _left(op, place, build)
        terms += [t if kept is None else scaled_by(t, kept, build) for t in own.terms]
    if given is not None:
        axes = _source_axes(op, place, build)
        if axes is None:
            sizes = (*_type(op).shape, *build.type(value).shape)
            spread = f"no rule for values of the state that `{op.kind}` spreads or leaves out"
            known = all(isinstance(d, int) for d in sizes)
            return Refusal("LR1299", op.result, spread) if known else unknown_length(op)
        base = tuple(d if i in (*axes.mixed, *axes.touched) else 1 for i, d in enumerate(_type(op).shape))
        nothing = build.filled(0.0, Type(_type(op).dtype, base))
        matrix = matrix_of(replace(op, args=(nothing, *op.args[1:])), build, axes)
        if isinstance(matrix, Refusal):
            return matrix
        terms += [applied(t, matrix, _type(op).shape, axes, build) for t in given.terms]
    rest = [a if f is None else f.offset for a, f in ((into, own), (value, given))]
    if rest == [None, None]:
        return Form(tuple(terms))
    base_, value_ = (
        r if f is None else whole(r, build.type(a), build)
        for r, f, a in zip(rest, (own, given), (into, value), strict=True)
    )
    return Form(tuple(terms), build.clone(op, (base_, *op.args[1:place], value_, *op.args[place + 1 :])))


def _left(op: Op, place: int, build: Builder) -> Use:
    """One where nothing is written, zero elsewhere."""
    type_, value = _type(op), op.args[place]
    true = build.filled(True, Type("bool", type_.shape))
    nothing: Arg = False
    if isinstance(value, Use):
        nothing = build.filled(False, Type("bool", build.type(value).shape))
    marks = build.make(op.kind, (true, *op.args[1:place], nothing), Type("bool", type_.shape), op.attrs)
    made = build.make("to", (marks, Atom(LONG[type_.dtype])), type_)
    assert isinstance(made, Use)
    return build.indicator(made)


def _source_axes(op: Op, place: int, build: Builder) -> Axes | None:
    """How values go into what they are written to; None where they are repeated, or some of them left out."""
    into, value = build.type(op.args[0]).shape, build.type(op.args[place]).shape
    rank, touched = len(into), []
    if op.kind == "index_put":
        indices = op.args[1]
        assert isinstance(indices, tuple)
        chosen = [i for i, index in enumerate(indices) if index is not None]
        index = build.type(indices[chosen[0]])
        if len(chosen) != 1 or len(index.shape) != 1 or index.dtype in ("bool", "u8"):
            return None
        dim, counts = chosen[0], (*into[: chosen[0]], *index.shape, *into[chosen[0] + 1 :])
    else:
        axis, index = op.args[1], build.type(op.args[2])
        assert isinstance(axis, int)
        dim = axis % rank
        counts = (*into[:dim], *index.shape, *into[dim + 1 :]) if len(index.shape) < rank else index.shape
        touched = [i for i in range(rank) if i != dim and counts[i] != 1] if op.kind.startswith("scatter") else []
    whole_ = value == counts and all(a == b for i, (a, b) in enumerate(zip(into, value, strict=True)) if i != dim)
    return Axes(place, [dim], {i: i for i in range(rank) if i != dim}, touched) if whole_ else None


@rule("diagonal_scatter", semirings=ALL)
def _diagonal(op: Op, build: Builder) -> Form | Refusal:
    """Values on the diagonal of two axes; what is not on it keeps a coefficient of one."""
    into, value = op.args[:2]
    own, given = build.form(into), build.form(value)
    type_, rank = _type(op), len(_type(op).shape)
    terms: list[Term] = []
    if own is not None:
        true, no = (build.filled(v, Type("bool", t.shape)) for v, t in ((True, type_), (False, build.type(value))))
        marks = build.make(op.kind, (true, no, *op.args[2:]), Type("bool", type_.shape), op.attrs)
        kept = build.make("to", (marks, Atom(LONG[type_.dtype])), type_)
        assert isinstance(kept, Use)
        terms += [scaled_by(t, build.indicator(kept), build) for t in own.terms]
    if given is not None:
        places = (*op.args[3:5], *(0, 1)[len(op.args[3:5]) :])
        pair = {i % rank for i in places if isinstance(i, int)}
        rest = [i for i in range(rank) if i not in pair]
        nothing = build.filled(0.0, Type(type_.dtype, tuple(d if i in pair else 1 for i, d in enumerate(type_.shape))))
        axes = Axes(1, [rank - 2], dict(enumerate(rest)))
        matrix = matrix_of(replace(op, args=(nothing, *op.args[1:])), build, axes)
        if isinstance(matrix, Refusal):
            return matrix
        terms += [applied(t, matrix, type_.shape, axes, build) for t in given.terms]
    rest_ = [a if f is None else f.offset for a, f in ((into, own), (value, given))]
    if rest_ == [None, None]:
        return Form(tuple(terms))
    full = [whole(o, build.type(a), build) for o, a in zip(rest_, (into, value), strict=True)]
    return Form(tuple(terms), build.clone(op, (*full, *op.args[2:])))
