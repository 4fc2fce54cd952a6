"""Rules of sums: an affine value plus an affine value, weighted or chosen by what does not depend on the state."""

from __future__ import annotations

from dataclasses import replace

from linrec.ir import Arg, Op, Type, Use
from linrec.linear.affine import Factor, Form, Refusal, Term
from linrec.linear.rules.table import (
    RULES,
    Builder,
    broadcast,
    dtype_of,
    joined_shape,
    numbered,
    rule,
    scaled_by,
    shape_of,
    through,
    whole,
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
    scaled = [_signed(o, sign, build) for o, sign in zip(offsets, signs, strict=True) if o is not None]
    if len(scaled) < 2:
        return Form(tuple(terms), *scaled)
    return Form(tuple(terms), _sum(scaled[0], scaled[1], op, build))


def _signed(value: Arg, sign: Arg, build: Builder) -> Arg:
    """A value times a number."""
    if sign == 1:
        return value
    if isinstance(value, Use):
        return build.make("mul", (value, sign), build.type(value))
    assert isinstance(value, int | float | complex) and isinstance(sign, int | float | complex)
    return value * sign


def _sum(left: Arg, right: Arg, op: Op, build: Builder) -> Arg:
    if not isinstance(left, Use):
        left, right = right, left
    if not isinstance(left, Use):
        assert isinstance(left, int | float | complex) and isinstance(right, int | float | complex)
        return left + right
    return build.make("add", (left, right), Type(_dtype(op), joined_shape((left, right), build)))


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
        return _weighing(op, build, start, end, weight)
    shape = shape_of(op)
    rest: Arg = 1 - weight if isinstance(weight, int | float) else build.make("rsub", (weight, 1), build.type(weight))
    terms: list[Term] = []
    offsets: list[Arg] = []
    for arg, factor in ((start, rest), (end, weight)):
        form = build.form(arg)
        offset = arg if form is None else form.offset
        for term in () if form is None else broadcast(form, build.type(arg).shape, shape, build):
            terms.append(scaled_by(term, factor, build))
        if offset is not None:
            product = numbered((offset, factor), _dtype(op), build)
            offsets.append(build.make("mul", product, Type(_dtype(op), joined_shape(product, build))))
    if len(offsets) < 2:
        return Form(tuple(terms), *offsets)
    return Form(tuple(terms), _sum(offsets[0], offsets[1], op, build))


def _weighing(op: Op, build: Builder, start: Arg, end: Arg, weight: Arg) -> Form | Refusal:
    """start + w (end - start) with the state in w alone."""
    if build.form(start) is not None or build.form(end) is not None:
        return Refusal("LR1203", op.result, "the state weighs itself in `lerp`", "compute the weight from the input")
    gap = build.make("sub", (end, start), Type(_dtype(op), joined_shape((end, start), build)))
    product = Op(f"{op.result}.product", "mul", (weight, gap), (), op.type, op.time, (), op.source)
    form = RULES[build.semiring.name, "mul"](product, build)
    if isinstance(form, Refusal):
        return replace(form, op=op.result)
    return Form(form.terms, start if form.offset is None else _sum(start, form.offset, op, build))


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
    filled = tuple(build.semiring.zero if o is None else o for o in offsets)
    if all(o == build.semiring.zero for o in filled):
        return Form(tuple(terms))
    values: tuple[Arg, ...] = filled
    if not any(isinstance(o, Use) for o in filled):
        values = tuple(whole(o, Type(_dtype(op), ()), build) for o in filled)  # numbers alone would be single precision
    type_ = Type(_dtype(op), joined_shape((mask, *values), build))
    return Form(tuple(terms), build.make("where", (mask, *values), type_))


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
