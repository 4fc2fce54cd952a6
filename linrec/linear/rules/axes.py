"""Rules of axes: moving, merging, cutting, summing and joining the axes of an affine value; see maps.py for the rest."""

from __future__ import annotations

from dataclasses import replace

from linrec.ir import Arg, Atom, Op, Type, Use
from linrec.linear.affine import Axis, Factor, Form, Refusal, Term, fresh, split_to
from linrec.linear.rules.maps import unknown_length
from linrec.linear.rules.table import Builder, aligned, dtype_of, rule, shape_of, through, whole
from linrec.linear.semirings import ALL
from linrec.sizes import Dim


@rule("alias", "to", "_to_copy", "type_as", "positive", semirings=ALL)
def _same(op: Op, build: Builder) -> Form | Refusal:
    form = build.form(op.args[0])
    assert form is not None and isinstance(op.type, Type)
    if op.type.dtype[0] not in "fcb" or op.type.dtype == "bool":
        return Refusal(
            "LR1208", op.result, f"the state is rounded to {op.type.dtype} by `{op.kind}`", "keep it floating point"
        )
    return through(op, build, 0, form, form.terms)


@rule("transpose", "t", "permute", "unsqueeze", "squeeze", "expand", semirings=ALL)
def _axes(op: Op, build: Builder) -> Form | Refusal:
    form = build.form(op.args[0])
    if form is None:
        return Refusal("LR1210", op.result, f"the state shapes another value in `{op.kind}`")
    before, after = build.type(op.args[0]).shape, shape_of(op)
    places = _moved(op, len(before), before)
    if places is None:
        return Refusal("LR1299", op.result, f"no rule for this use of `{op.kind}`")
    terms = []
    for term in form.terms:
        axes = [() if p is None else term.axes[p] for p in places]
        sizes = tuple(1 if p is None else before[p] for p in places)
        terms.append(replace(term, axes=aligned(tuple(axes), sizes, after, build)))
    return through(op, build, 0, form, tuple(terms))


def _moved(op: Op, rank: int, before: tuple[Dim, ...]) -> list[int | None] | None:
    """For each axis of the result the axis of the argument it is, None for a new one."""
    order: list[int | None] = list(range(rank))
    args = op.args[1:]
    if op.kind == "t":
        return order[::-1]
    if op.kind == "transpose":
        a, b = (i % rank for i in args if isinstance(i, int))
        order[a], order[b] = order[b], order[a]
        return order
    if op.kind == "permute" and isinstance(args[0], tuple):
        return [i % rank for i in args[0] if isinstance(i, int)]
    if op.kind == "unsqueeze" and isinstance(args[0], int):
        order.insert(args[0] % (rank + 1), None)
        return order
    if op.kind == "squeeze":
        dims = args[0] if args else tuple(range(rank))
        chosen = {i % rank for i in (dims if isinstance(dims, tuple) else (dims,)) if isinstance(i, int)}
        return [i for i in range(rank) if not (i in chosen and before[i] == 1)]
    if op.kind == "expand":
        return [None] * (len(shape_of(op)) - rank) + order
    return None


@rule("view", "reshape", "_unsafe_view", "flatten", "unflatten", semirings=ALL)
def _reshape(op: Op, build: Builder) -> Form | Refusal:
    form = build.form(op.args[0])
    if form is None:
        return Refusal("LR1210", op.result, f"the state shapes another value in `{op.kind}`")
    if len(op.args) > 1 and isinstance(op.args[1], Atom):
        return Refusal("LR1206", op.result, "another type is read from the state's memory, which has no gradient")
    before, after = build.type(op.args[0]).shape, shape_of(op)
    blocks = _blocks(before, after)
    if blocks is None:
        return Refusal("LR1299", op.result, f"`{op.kind}` cuts axes of the state across each other")
    terms: list[Term] = []
    for term in form.terms:
        place = 0  # axes before it are those of the result
        for old, new in blocks:
            merged = tuple(label for axis in term.axes[place : place + len(old)] for label in axis)
            made: tuple[Axis, ...] = (merged,)
            if len(new) != 1:
                cut = _cut(term, merged, tuple(after[i] for i in new), op, build)
                if isinstance(cut, Refusal):
                    return cut
                term, made = cut
            term = replace(term, axes=(*term.axes[:place], *made, *term.axes[place + len(old) :]))
            place += len(new)
        terms.append(term)
    return through(op, build, 0, form, tuple(terms))


def _cut(
    term: Term, axis: Axis, parts: tuple[Dim, ...], op: Op, build: Builder
) -> tuple[Term, tuple[Axis, ...]] | Refusal:
    """An axis of a term cut into parts; where they go across its labels it is made one label first, by an identity."""
    cut = split_to(term, axis, parts, build.labels)
    if cut is None:
        length = build.labels.extent(axis)
        if not isinstance(length, int):
            return unknown_length(op)
        one = build.labels.axis(length)
        eye = build.make("eye", (length,), Type(_type(op).dtype, (length, length)), (("dtype", dtype_of(op)),))
        assert isinstance(eye, Use)
        cut = split_to(term.times(Factor(build.indicator(eye), (axis, one))), one, parts, build.labels)
        assert cut is not None, "an axis of one label can be cut anywhere"
    return cut


def _type(op: Op) -> Type:
    assert isinstance(op.type, Type)
    return op.type


def _blocks(before: tuple[Dim, ...], after: tuple[Dim, ...]) -> list[tuple[list[int], list[int]]] | None:
    """Smallest groups of axes with equal products on both sides."""
    blocks: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        old, new = [i] if i < len(before) else [], [j] if j < len(after) else []
        left: Dim = before[i] if old else 1
        right: Dim = after[j] if new else 1
        i, j = i + bool(old), j + bool(new)
        while left != right:
            if i < len(before) and (
                not isinstance(left, int) or not isinstance(right, int) or left < right or j >= len(after)
            ):
                left, old, i = before[i] * left, [*old, i], i + 1
            elif j < len(after):
                right, new, j = after[j] * right, [*new, j], j + 1
            else:
                return None
        blocks.append((old, new))
    return blocks


@rule("sum", "mean")
def _sum(op: Op, build: Builder) -> Form | Refusal:
    form = build.form(op.args[0])
    assert form is not None
    shape = build.type(op.args[0]).shape
    dims = op.args[1] if len(op.args) > 1 and op.args[1] is not None else tuple(range(len(shape)))
    chosen = {i % len(shape) for i in (dims if isinstance(dims, tuple) else (dims,)) if isinstance(i, int)}
    keep = bool(op.args[2]) if len(op.args) > 2 else bool(dict(op.attrs).get("keepdim", False))
    terms: list[Term] = []
    for term in form.terms:
        term = fresh(term, build.labels)
        held = {x for axis in term.state_axes for x in axis} | {x for f in term.factors for a in f.axes for x in a}
        summed = [x for i in chosen for x in term.axes[i]]
        # along labels that the result alone has the state was repeated: there a sum is a product, a mean the same
        counted = [x for x in summed if (x in held) == (op.kind == "mean")]
        sizes = [build.labels.size[x] for x in counted]
        if not all(isinstance(n, int) for n in sizes):
            return unknown_length(op)
        axes = tuple(() if i in chosen else axis for i, axis in enumerate(term.axes) if keep or i not in chosen)
        scales = [Factor(n, (), inverse=op.kind == "mean") for n in sizes]
        terms.append(term.times(*scales, axes=axes))
    return through(op, build, 0, form, tuple(terms))


@rule("cat", "stack", semirings=ALL)
def _cat(op: Op, build: Builder) -> Form | Refusal:
    items, shape = op.args[0], shape_of(op)
    assert isinstance(items, tuple) and isinstance(op.type, Type)
    dim = op.args[1] if len(op.args) > 1 else dict(op.attrs).get("dim", 0)
    assert isinstance(dim, int)
    dim %= len(shape)
    total = shape[dim]
    if not isinstance(total, int):
        return unknown_length(op)
    terms: list[Term] = []
    offsets: list[Arg] = []
    start = 0
    for item in items:
        own = build.type(item)
        width = own.shape[dim] if op.kind == "cat" else 1
        assert isinstance(width, int)
        form = build.form(item)
        offsets.append(item if form is None else form.offset)
        if form is not None:
            # rows start .. start + width of eye(total) put the item in its place
            unit = build.make("eye", (total,), Type(op.type.dtype, (total, total)), (("dtype", dtype_of(op)),))
            rows = build.make("slice", (unit, 0, start, start + width), Type(op.type.dtype, (width, total)))
            assert isinstance(rows, Use)
            for term in form.terms:
                out = build.labels.axis(total)
                axes = list(term.axes)
                if op.kind == "stack":
                    axes.insert(dim, ())
                factor = Factor(build.indicator(rows), (axes[dim], out))
                axes[dim] = out
                terms.append(term.times(factor, axes=tuple(axes)))
        start += width
    if all(o is None for o in offsets):
        return Form(tuple(terms))
    joined = tuple(whole(o, build.type(i), build) for o, i in zip(offsets, items, strict=True))
    return Form(tuple(terms), build.clone(op, (joined, *op.args[1:])))
