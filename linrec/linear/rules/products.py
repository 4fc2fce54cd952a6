"""Rules of products: an affine value times a coefficient, elementwise or contracted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from linrec.ir import Arg, Op, Type
from linrec.linear.affine import Axis, Factor, Form, Refusal, Term
from linrec.linear.rules.table import (
    Builder,
    aligned,
    broadcast,
    joined_shape,
    numbered,
    one_state,
    rule,
    scaled_by,
    shape_of,
    through,
    whole,
)
from linrec.sizes import Dim


@rule("mul")
def _mul(op: Op, build: Builder) -> Form | Refusal:
    found = one_state(op, build, 0, 1)
    if isinstance(found, Refusal):
        return found
    place, form = found
    other, shape = op.args[1 - place], shape_of(op)
    terms = []
    for term in broadcast(form, build.type(op.args[place]).shape, shape, build):
        terms.append(scaled_by(term, other, build))
    return through(op, build, place, form, tuple(terms))


@rule("div")
def _div(op: Op, build: Builder) -> Form | Refusal:
    if build.form(op.args[1]) is not None:
        return Refusal(
            "LR1202", op.result, "the state stands in a denominator", "divide by something computed from the input"
        )
    if dict(op.attrs).get("rounding_mode") is not None:
        return Refusal("LR1208", op.result, "the state is rounded by a division", "use true division")
    form, shape = build.form(op.args[0]), shape_of(op)
    assert form is not None
    terms = []
    for term in broadcast(form, build.type(op.args[0]).shape, shape, build):
        terms.append(scaled_by(term, op.args[1], build, inverse=True))
    return through(op, build, 0, form, tuple(terms))


@rule("addcmul")
def _addcmul(op: Op, build: Builder) -> Form | Refusal:
    product = Op(f"{op.result}.product", "mul", op.args[1:3], (), op.type, op.time, (), op.source)
    if any(build.form(a) is not None for a in op.args[1:3]):
        form = _mul(product, build)
        if isinstance(form, Refusal):
            return replace(form, op=op.result)
    else:
        form = Form((), build.make("mul", op.args[1:3], _joined(op, op.args[1:3], build)))
    return _plus_scaled(op, build, op.args[0], form)


def _plus_scaled(op: Op, build: Builder, base: Arg, form: Form) -> Form:
    """base + value * form, `value` being the operator's attribute."""
    scale, own = dict(op.attrs).get("value", 1), build.form(base)
    terms = tuple(t if scale == 1 else t.times(Factor(scale)) for t in form.terms)
    first = () if own is None else broadcast(own, build.type(base).shape, shape_of(op), build)
    left = base if own is None else own.offset
    return Form((*first, *terms), _weighted_sum(op, build, (left, 1), (form.offset, scale)))


def _joined(op: Op, values: Sequence[Arg], build: Builder) -> Type:
    """The type of what is made of values that may be smaller than the op's own result."""
    assert isinstance(op.type, Type)
    return Type(op.type.dtype, joined_shape(values, build))


def _weighted_sum(op: Op, build: Builder, *parts: tuple[Arg, Arg]) -> Arg:
    """Offsets times numbers, added; None where there are none."""
    total: Arg = None
    for value, weight in parts:
        if value is None:
            continue
        if weight != 1:
            value, *_ = numbered((value,), _joined(op, (), build).dtype, build)
            value = build.make("mul", (value, weight), _joined(op, (value,), build))
        if total is not None:
            total, *_ = numbered((total,), _joined(op, (), build).dtype, build)
            value = build.make("add", (total, value), _joined(op, (total, value), build))
        total = value
    return total


@rule("addcdiv")
def _addcdiv(op: Op, build: Builder) -> Form | Refusal:
    # a + value * b / c
    quotient = Op(f"{op.result}.quotient", "div", op.args[1:3], (), op.type, op.time, (), op.source)
    depends = [build.form(a) for a in op.args[1:3]]
    if depends == [None, None]:
        form: Form | Refusal = Form((), build.make("div", op.args[1:3], _joined(op, op.args[1:3], build)))
    else:
        form = _div(quotient, build)
    if isinstance(form, Refusal):
        return replace(form, op=op.result)
    return _plus_scaled(op, build, op.args[0], form)


@rule("batch_norm")
def _batch_norm(op: Op, build: Builder) -> Form | Refusal:
    # with fixed statistics: y[b, c, ...] = (x - mean[c]) w[c] / sqrt(var[c] + eps) + bias[c]
    _, weight, _, _, variance, training = op.args[:6]
    form = build.form(op.args[0])
    if training is not False or form is None or any(build.form(a) is not None for a in op.args[1:5]):
        return Refusal(
            "LR1205", op.result, "`batch_norm` normalises the state by statistics of the call",
            "apply it to the input or to the output, or call `eval()`",
        )  # fmt: skip
    channel = build.type(variance)
    shifted = build.make("add", (variance, op.args[7]), channel)
    scale = build.make("rsqrt", (shifted,), channel)
    if weight is not None:
        scale = build.make("mul", (scale, weight), channel)
    terms = tuple(t.times(Factor(scale, (t.axes[1],))) for t in form.terms)
    return Form(terms, build.clone(op, (whole(form.offset, build.type(op.args[0]), build), *op.args[1:])))


@rule("linear")
def _linear(op: Op, build: Builder) -> Form | Refusal:
    # y[..., o] = sum_i x[..., i] W[o, i] + b[o]
    x, weight = op.args[:2]
    bias = op.args[2] if len(op.args) > 2 else dict(op.attrs).get("bias")
    form = build.form(x)
    if form is None or build.form(weight) is not None or build.form(bias) is not None:
        return _weighted(
            op, build, ("...i,oi->...o" if len(build.type(weight).shape) > 1 else "...i,i->...", (x, weight)), bias
        )
    terms = _contracted(form.terms, -1, weight, build.type(weight).shape, (1, 0), build)
    if form.offset is not None:
        return Form(terms, build.clone(op, (whole(form.offset, build.type(x), build), *op.args[1:])))
    return Form(terms, bias)


def _contracted(
    terms: tuple[Term, ...], axis: int, matrix: Arg, shape: tuple[Dim, ...], order: tuple[int, int], build: Builder
) -> tuple[Term, ...]:
    """Sum `axis` against axis order[0] of a matrix; its axis order[1] takes the place of `axis`."""
    new: list[Term] = []
    for term in terms:
        out = build.labels.axis(shape[order[1]])
        pair = (term.axes[axis], out) if order == (0, 1) else (out, term.axes[axis])
        axes = list(term.axes)
        axes[axis] = out
        new.append(replace(term, axes=tuple(axes), factors=(*term.factors, Factor(matrix, pair))))
    return tuple(new)


@rule("matmul", "mm", "bmm", "mv", "dot")
def _matmul(op: Op, build: Builder) -> Form | Refusal:
    found = one_state(op, build, 0, 1)
    if isinstance(found, Refusal):
        return found
    place, form = found
    left, right = (build.type(a).shape for a in op.args[:2])
    other = op.args[1 - place]
    batch = shape_of(op)[: len(shape_of(op)) - (len(left) > 1) - (len(right) > 1)]
    terms: list[Term] = []
    for term in form.terms:
        terms.append(_product(term, place, (left, right)[place], (left, right)[1 - place], other, batch, build))
    return through(op, build, place, form, tuple(terms))


def _product(
    term: Term,
    place: int,
    mine: tuple[Dim, ...],
    other: tuple[Dim, ...],
    value: Arg,
    batch: tuple[Dim, ...],
    build: Builder,
) -> Term:
    """Matrix product with the state on side `place`; 1-d operands are vectors, batch axes broadcast."""
    # X[..., i, j] Y[..., j, k]: j is summed; a vector on the left has no i, on the right no k
    summed_mine = len(mine) - 1 if place == 0 or len(mine) == 1 else len(mine) - 2
    kept_mine = None if len(mine) == 1 else (len(mine) - 2 if place == 0 else len(mine) - 1)
    j = term.axes[summed_mine]
    kept_other = build.labels.axis(other[-1] if place == 0 else other[-2]) if len(other) > 1 else None
    own_batch = aligned(term.axes[:-2] if len(mine) > 1 else (), mine[:-2] if len(mine) > 1 else (), batch, build)
    sizes = other[:-2] if len(other) > 1 else ()
    coefficient_batch = tuple(
        () if size == 1 else axis for size, axis in zip(sizes, own_batch[len(batch) - len(sizes) :], strict=True)
    )
    if kept_other is None:
        matrix: tuple[Axis, ...] = (j,)
    else:
        matrix = (j, kept_other) if place == 0 else (kept_other, j)
    mine_out = () if kept_mine is None else (term.axes[kept_mine],)
    other_out = () if kept_other is None else (kept_other,)
    tail = mine_out + other_out if place == 0 else other_out + mine_out
    return replace(
        term, axes=(*own_batch, *tail), factors=(*term.factors, Factor(value, (*coefficient_batch, *matrix)))
    )


# base + product: the equation of the product where it is no matrix product
_ADDED = {"addmm": "", "baddbmm": "", "addmv": "", "addbmm": "bij,bjk->ik", "addr": "i,j->ij"}


@rule(*_ADDED)
def _addmm(op: Op, build: Builder) -> Form | Refusal:
    attrs, equation = dict(op.attrs), _ADDED[op.kind]
    beta, alpha = attrs.get("beta", 1), attrs.get("alpha", 1)
    kind, args = ("einsum", (equation, op.args[1:3])) if equation else ("matmul", op.args[1:3])
    product = Op(f"{op.result}.product", kind, args, (), op.type, op.time, (), op.source)
    base = build.form(op.args[0])
    if any(build.form(a) is not None for a in op.args[1:3]):
        form = (_einsum if equation else _matmul)(product, build)
        if isinstance(form, Refusal):
            return replace(form, op=op.result)
    else:
        assert isinstance(op.type, Type)
        form = Form((), build.make(kind, args, op.type))
    own = () if base is None else broadcast(base, build.type(op.args[0]).shape, shape_of(op), build)
    left = op.args[0] if base is None else base.offset
    terms = (*(_times(t, beta) for t in own), *(_times(t, alpha) for t in form.terms))
    return Form(terms, _weighted_sum(op, build, (left, beta), (form.offset, alpha)))


def _times(term: Term, number: Arg) -> Term:
    return term if number == 1 else term.times(Factor(number))


def _spelled_out(equation: str, ranks: list[int]) -> str:
    """The equation with letters for `...`: those of the axes it stands for, aligned on the right."""
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    if "..." not in inputs:
        return f"{inputs}{arrow}{output}"
    parts = inputs.split(",")
    widths = [rank - len(p.replace("...", "")) if "..." in p else 0 for p, rank in zip(parts, ranks, strict=True)]
    free = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in equation][: max(widths)]
    named = [p.replace("...", "".join(free[len(free) - w :])) for p, w in zip(parts, widths, strict=True)]
    letters = inputs.replace("...", "").replace(",", "")
    made = (
        output.replace("...", "".join(free))
        if arrow
        else "".join(free) + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    )
    return f"{','.join(named)}->{made}"


@rule("einsum")
def _einsum(op: Op, build: Builder) -> Form | Refusal:
    equation, operands = op.args[0], op.args[1]
    assert isinstance(equation, str) and isinstance(operands, tuple)
    inputs, arrow, output = _spelled_out(equation, [len(build.type(o).shape) for o in operands]).partition("->")
    parts = inputs.split(",")
    letters = "".join(parts)
    if not arrow:
        output = "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    places = [i for i, operand in enumerate(operands) if build.form(operand) is not None]
    if any(len(set(p)) != len(p) for p in parts):
        return Refusal("LR1299", op.result, "no rule for `einsum` with a repeated index")
    if len(places) != 1:
        return Refusal(
            "LR1201", op.result, "`einsum` multiplies the state with itself",
            "let one of the two be computed from the input",
        )  # fmt: skip
    (place,) = places
    form = build.form(operands[place])
    assert form is not None
    sizes: dict[str, Dim] = {}
    for part, operand in zip(parts, operands, strict=True):
        for letter, size in zip(part, build.type(operand).shape, strict=True):
            sizes[letter] = size if sizes.get(letter, 1) == 1 else sizes[letter]
    terms: list[Term] = []
    for term in form.terms:
        named = dict(zip(parts[place], term.axes, strict=True))
        for letter, size in zip(parts[place], build.type(operands[place]).shape, strict=True):
            if size != sizes[letter]:
                named[letter] = build.labels.axis(sizes[letter])
        for letter in letters:
            if letter not in named:
                named[letter] = build.labels.axis(sizes[letter])
        factors = list(term.factors)
        for i, (part, operand) in enumerate(zip(parts, operands, strict=True)):
            if i != place:
                shape = build.type(operand).shape
                axes = tuple(() if size == 1 else named[c] for c, size in zip(part, shape, strict=True))
                factors.append(Factor(operand, axes))
        terms.append(replace(term, axes=tuple(named[c] for c in output), factors=tuple(factors)))
    if form.offset is None:
        return Form(tuple(terms))
    offset = whole(form.offset, build.type(operands[place]), build)
    again = tuple(offset if i == place else o for i, o in enumerate(operands))
    return Form(tuple(terms), build.clone(op, (equation, again)))


@rule("bilinear")
def _bilinear(op: Op, build: Builder) -> Form | Refusal:
    # y[..., o] = sum_ij x[..., i] W[o, i, j] z[..., j] + b[o]
    x, z, weight = op.args[:3]
    bias = op.args[3] if len(op.args) > 3 else dict(op.attrs).get("bias")
    return _weighted(op, build, ("...i,oij,...j->...o", (x, weight, z)), bias)


def _weighted(op: Op, build: Builder, product: tuple[str, tuple[Arg, ...]], bias: Arg) -> Form | Refusal:
    """An einsum plus a bias, with the state in any one of its operands, or in the bias."""
    made = Op(f"{op.result}.product", "einsum", product, (), op.type, op.time, (), op.source)
    known = all(build.form(a) is None for a in product[1])
    form = Form((), build.clone(made, made.args)) if known else _einsum(made, build)
    if isinstance(form, Refusal):
        return replace(form, op=op.result, reason=form.reason.replace("einsum", op.kind))
    return form if bias is None else _plus_scaled(replace(op, attrs=()), build, bias, form)
