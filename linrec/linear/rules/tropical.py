"""Rules of the semirings whose times is +: (max, +), (min, +) and (logsumexp, +).

Their plus is `maximum`, `minimum` or `logaddexp`; adding a coefficient to the state is their product with it, and
what moves numbers about without changing them is linear over all (maps.py, axes.py).
"""

from __future__ import annotations

from linrec.ir import Arg, Op, Type
from linrec.linear.affine import Form, Refusal, Term
from linrec.linear.rules.table import Builder, broadcast, joined_shape, numbered, rule, scaled_by, shape_of, whole
from linrec.linear.semirings import LOG, MAX, MIN, TROPICAL


@rule("add", "sub", "rsub", semirings=TROPICAL)
def _times(op: Op, build: Builder) -> Form | Refusal:
    left, right = op.args[:2]
    forms = build.form(left), build.form(right)
    place = 0 if forms[1] is None else 1
    form, other = forms[place], op.args[1 - place]
    alpha = dict(op.attrs).get("alpha", op.args[2] if len(op.args) > 2 else 1)
    signs = {"add": (1, alpha), "sub": (1, -_number(alpha)), "rsub": (-_number(alpha), 1)}[op.kind]
    if form is None or forms[1 - place] is not None:
        return Refusal(
            "LR1201", op.result, f"`{op.kind}` adds the state to itself, a product over {build.semiring.name}"
        )
    if signs[place] != 1:
        return Refusal("LR1204", op.result, f"`{op.kind}` scales the state, a power over {build.semiring.name}")
    sign = signs[1 - place]
    if sign not in (1, -1):
        other = build.make("mul", (other, sign), build.type(other))
    terms = tuple(
        scaled_by(t, other, build, inverse=sign == -1)
        for t in broadcast(form, build.type(op.args[place]).shape, shape_of(op), build)
    )
    if form.offset is None:
        return Form(terms)
    args = numbered(tuple(form.offset if i == place else a for i, a in enumerate(op.args)), _type(op).dtype, build)
    return Form(terms, build.make(op.kind, args, Type(_type(op).dtype, joined_shape(args, build)), op.attrs))


def _number(value: Arg) -> float:
    assert isinstance(value, int | float)
    return value


@rule("maximum", "max", semirings=(MAX,))
@rule("minimum", "min", semirings=(MIN,))
@rule("logaddexp", semirings=(LOG,))
def _plus(op: Op, build: Builder) -> Form | Refusal:
    if op.kind in ("max", "min") and (len(op.args) < 2 or isinstance(op.args[1], int)):
        return _total(op, build)
    return _joined(op, build, op.args[0], op.args[1])


def _joined(op: Op, build: Builder, left: Arg, right: Arg) -> Form:
    terms: list[Term] = []
    offsets: list[Arg] = []
    for arg in (left, right):
        form = build.form(arg)
        offsets.append(arg if form is None else form.offset)
        terms += broadcast(form, build.type(arg).shape, shape_of(op), build) if form is not None else ()
    known = [o for o in offsets if o is not None]
    if len(known) < 2:
        return Form(tuple(terms), *known)
    numbers = [build.filled(o, Type(_type(op).dtype, ())) if isinstance(o, int | float) else o for o in known]
    return Form(
        tuple(terms),
        build.make(build.semiring.plus, tuple(numbers), Type(_type(op).dtype, joined_shape(numbers, build))),
    )


@rule("relu", "clamp_min", "clamp", semirings=(MAX,))
@rule("clamp_max", "clamp", semirings=(MIN,))
def _bounded(op: Op, build: Builder) -> Form | Refusal:
    # max(x, bound)
    low = dict(op.attrs).get("min", op.args[1] if len(op.args) > 1 else None)
    high = dict(op.attrs).get("max", op.args[2] if len(op.args) > 2 else None)
    if op.kind == "relu":
        low = 0.0
    elif op.kind == "clamp_max":
        low, high = None, op.args[1]
    bound, other = (low, high) if build.semiring == MAX else (high, low)
    if bound is None or other is not None or build.form(op.args[0]) is None:
        return Refusal(
            "LR1208", op.result, f"the state is bounded by `{op.kind}`", "bound what is read from the state instead"
        )
    return _joined(op, build, op.args[0], bound)


@rule("amax", semirings=(MAX,))
@rule("amin", semirings=(MIN,))
@rule("logsumexp", semirings=(LOG,))
def _total(op: Op, build: Builder) -> Form | Refusal:
    """Plus over axes: a label that leaves the result is summed over."""
    form, shape = build.form(op.args[0]), build.type(op.args[0]).shape
    assert form is not None
    if not shape:
        return Refusal("LR1299", op.result, f"no rule for `{op.kind}` along an axis of a value that has none")
    dims = op.args[1] if len(op.args) > 1 and op.args[1] not in (None, ()) else tuple(range(len(shape)))
    gone = {d % len(shape) for d in (dims if isinstance(dims, tuple) else (dims,)) if isinstance(d, int)}
    keep = bool(dict(op.attrs).get("keepdim", op.args[2] if len(op.args) > 2 else False))
    terms: list[Term] = []
    for term in form.terms:
        held = {x for axis in term.state_axes for x in axis} | {x for f in term.factors for a in f.axes for x in a}
        if build.semiring == LOG and any(x not in held for i in gone for x in term.axes[i]):
            return Refusal("LR1299", op.result, f"no rule for `{op.kind}` over an axis the state was repeated along")
        axes = tuple(() if i in gone else axis for i, axis in enumerate(term.axes) if keep or i not in gone)
        terms.append(term.times(axes=axes))
    if form.offset is None:
        return Form(tuple(terms))
    type_ = op.type[0] if isinstance(op.type, tuple) else _type(op)
    offset = whole(form.offset, build.type(op.args[0]), build)
    return Form(tuple(terms), build.make(build.semiring.total, (offset, tuple(sorted(gone)), keep), type_))


@rule("getitem", semirings=(MAX, MIN))
def _getitem(op: Op, build: Builder) -> Form | Refusal:
    """The first of several results is the value; the second an index."""
    form = build.form(op.args[0])
    assert form is not None
    if op.args[1] != 0:
        return Refusal("LR1210", op.result, "the state chooses an index", "compute the index from the input")
    return form


def _type(op: Op) -> Type:
    assert isinstance(op.type, Type)
    return op.type
