"""Rules of sums: an affine value plus an affine value, weighted or chosen by what does not depend on the state."""

from __future__ import annotations

from linrec.ir import Arg, Op, Type, Use
from linrec.linear.affine import Factor, Form, Refusal, Term
from linrec.linear.rules.table import (
    Builder,
    broadcast,
    dtype_of,
    rule,
    scaled_by,
    shape_of,
    through,
)
from linrec.linear.semirings import ALL


@rule("add", "sub", "rsub")
def _add(op: Op, build: Builder) -> Form | Refusal:
    target = shape_of(op)
    alpha = dict(op.attrs).get("alpha", op.args[2] if len(op.args) > 2 else 1)
    signs: tuple[Arg, Arg] = {"add": (1, alpha), "sub": (1, _negative(alpha)), "rsub": (_negative(alpha), 1)}[op.kind]
    terms: list[Term] = []
    offsets: list[Arg] = []
    for arg, sign in zip(op.args[:2], signs, strict=True):
        form = build.form(arg)
        offsets.append(arg if form is None else form.offset)
        if form is not None:
            for term in broadcast(form, build.type(arg).shape, target, build):
                terms.append(term if sign == 1 else term.times(Factor(sign)))
    left, right = offsets
    if op.kind == "add" and alpha == 1 and (left is None or right is None):
        return Form(tuple(terms), left if right is None else right)
    if right is None and op.kind == "sub":
        return Form(tuple(terms), left)
    return Form(tuple(terms), _offsets(op, build, op.args[2:], left, right))


def _negative(value: Arg) -> Arg:
    assert isinstance(value, int | float | complex)
    return -value


@rule("neg")
def _neg(op: Op, build: Builder) -> Form | Refusal:
    form = build.form(op.args[0])
    assert form is not None
    return through(op, build, 0, form, tuple(t.times(Factor(-1)) for t in form.terms))


@rule("lerp")
def _lerp(op: Op, build: Builder) -> Form | Refusal:
    # lerp(a, b, w) = a + w (b - a) = (1 - w) a + w b
    start, end, weight = op.args[:3]
    if build.form(weight) is not None:
        return Refusal("LR1203", op.result, "the state weighs itself in `lerp`", "compute the weight from the input")
    shape = shape_of(op)
    rest: Arg = 1 - weight if isinstance(weight, int | float) else build.make("rsub", (weight, 1), build.type(weight))
    terms: list[Term] = []
    offsets: list[Arg] = []
    for arg, factor in ((start, rest), (end, weight)):
        form = build.form(arg)
        offsets.append(arg if form is None else form.offset)
        for term in () if form is None else broadcast(form, build.type(arg).shape, shape, build):
            terms.append(scaled_by(term, factor, build))
    if offsets == [None, None]:
        return Form(tuple(terms))
    if offsets[0] is None:
        assert offsets[1] is not None
        return Form(tuple(terms), build.make("mul", (offsets[1], weight), Type(build.type(end).dtype, shape)))
    if offsets[1] is None:
        return Form(tuple(terms), build.make("mul", (offsets[0], rest), Type(build.type(start).dtype, shape)))
    return Form(tuple(terms), build.clone(op, (*offsets, weight)))


@rule("where", semirings=ALL)
def _where(op: Op, build: Builder) -> Form | Refusal:
    mask, left, right = op.args
    if build.form(mask) is not None:
        return Refusal("LR1207", op.result, "the state decides in `where`", "compute the condition from the input")
    return chosen(op, build, mask, left, right)


def chosen(op: Op, build: Builder, mask: Arg, left: Arg, right: Arg) -> Form:
    """`left` where the mask is true, else `right`: coefficients of zero and one."""
    shape, type_ = shape_of(op), Type(_dtype(op), build.type(mask).shape)
    keep = build.make("to", (mask, dtype_of(op)), type_)
    drop = build.make("rsub", (keep, 1), type_)
    terms: list[Term] = []
    offsets: list[Arg] = []
    for arg, factor in ((left, keep), (right, drop)):
        form = build.form(arg)
        offsets.append(arg if form is None else form.offset)
        if form is not None:
            assert isinstance(factor, Use)
            value = build.indicator(factor)
            terms += [scaled_by(t, value, build) for t in broadcast(form, build.type(arg).shape, shape, build)]
    if offsets == [None, None]:
        return Form(tuple(terms))
    filled = tuple(build.semiring.zero if o is None else o for o in offsets)
    return Form(tuple(terms), build.make("where", (mask, *filled), Type(_dtype(op), shape)))


def _dtype(op: Op) -> str:
    assert isinstance(op.type, Type)
    return op.type.dtype


@rule("masked_fill", semirings=ALL)
def _masked_fill(op: Op, build: Builder) -> Form | Refusal:
    value, mask, fill = op.args
    if build.form(mask) is not None:
        return Refusal(
            "LR1207", op.result, "the state decides in `masked_fill`", "compute the condition from the input"
        )
    return chosen(op, build, mask, fill, value)


def _offsets(op: Op, build: Builder, args: tuple[Arg, ...], left: Arg, right: Arg) -> Arg:
    """Offset of a sum where either summand may be zero."""
    if left is None and right is None:
        return None
    return build.clone(op, (0 if left is None else left, 0 if right is None else right, *args))
