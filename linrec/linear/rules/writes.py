"""Rules of writes: the state with part of it replaced or added to, as in-place code leaves it."""

from __future__ import annotations

from linrec.dtypes import LONG
from linrec.ir import Arg, Atom, Op, Type, Use
from linrec.linear.affine import Factor, Form, Refusal, Term
from linrec.linear.rules.maps import chosen_by_the_state, unknown_length
from linrec.linear.rules.sums import chosen
from linrec.linear.rules.table import Builder, rule, whole
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
def _overwritten(op: Op, build: Builder) -> Form | Refusal:
    """Values of outside written where an index or a mask says: what is left keeps its coefficient of one."""
    form = build.form(op.args[0])
    if form is None or any(build.form(a) is not None for a in op.args[1:-1]):
        return chosen_by_the_state(op)
    if build.form(op.args[-1]) is not None:
        return Refusal("LR1299", op.result, f"no rule for the state written into itself by `{op.kind}`")
    if dict(op.attrs).get("accumulate") or dict(op.attrs).get("reduce"):
        return Refusal("LR1299", op.result, f"no rule for `{op.kind}` that adds up")
    type_ = _type(op)
    true, value = build.filled(True, Type("bool", type_.shape)), op.args[-1]
    nothing: Arg = False
    if isinstance(value, Use):
        like = Type("bool", build.type(value).shape)
        nothing = build.make("zeros_like", (value,), like, (("dtype", Atom("bool")),))
    kept = build.make(op.kind, (true, *op.args[1:-1], nothing), Type("bool", type_.shape), op.attrs)
    written = build.make(op.kind, (build.filled(0.0, type_), *op.args[1:]), type_, op.attrs)
    return chosen(op, build, kept, op.args[0], written)


@rule("scatter_add", "index_add", semirings=(SUM,))
def _added_to(op: Op, build: Builder) -> Form | Refusal:
    form = build.form(op.args[0])
    if form is None or any(build.form(a) is not None for a in op.args[1:]):
        return chosen_by_the_state(op)
    base = whole(form.offset, build.type(op.args[0]), build)
    return Form(form.terms, build.clone(op, (base, *op.args[1:])))
