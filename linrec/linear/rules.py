"""The operator table: which operators keep a value affine in the state, and why others do not.

A rule takes the op and the forms of its arguments and gives the form of the result or a refusal.
An operator without a rule is refused by name; linearity is never guessed from numbers (a numeric
test would take `round` and `detach` for linear). Adding an operator is adding a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from linrec.dtypes import LONG
from linrec.ir import Arg, Atom, Op, Type, Use
from linrec.linear.affine import MAX_TERMS, Axis, Factor, Form, Labels, Refusal, Term, fresh, split_to
from linrec.sizes import Dim


class Builder(Protocol):
    """What a rule may ask of the analysis."""

    labels: Labels

    def form(self, arg: Arg) -> Form | None:
        """The form of an argument, or None if it does not depend on the state."""

    def type(self, arg: Arg) -> Type:
        """The type of an argument; numbers are scalars."""

    def clone(self, op: Op, args: tuple[Arg, ...]) -> Arg:
        """The same operator on other arguments: how offsets are carried along."""

    def make(self, kind: str, args: tuple[Arg, ...], type_: Type, attrs: tuple[tuple[str, Arg], ...] = ()) -> Arg:
        """A new op on values that do not depend on the state."""


Rule = Callable[[Op, Builder], Form | Refusal]
RULES: dict[str, Rule] = {}


def rule(*kinds: str) -> Callable[[Rule], Rule]:
    """Register a rule for operators."""

    def add(function: Rule) -> Rule:
        for kind in kinds:
            RULES[kind] = function
        return function

    return add


def apply(op: Op, build: Builder) -> Form | Refusal:
    """The form of `op`, whose arguments include values that depend on the state."""
    found = RULES.get(op.kind)
    if found is not None:
        result = found(op, build)
        if isinstance(result, Form) and len(result.terms) > MAX_TERMS:
            return Refusal("LR1298", op.result, f"the state reaches `{op.kind}` along more than {MAX_TERMS} paths")
        return result
    for code, (kinds, reason, help_) in _REFUSED.items():
        if op.kind in kinds:
            return Refusal(code, op.result, reason.format(op.kind), help_)
    return Refusal("LR1299", op.result, f"no rule says what `{op.kind}` does to the state")


_REFUSED: dict[str, tuple[frozenset[str], str, str]] = {
    "LR1204": (
        frozenset(
            "tanh sigmoid relu gelu silu exp log log1p expm1 sin cos tan asin acos atan sinh cosh sqrt rsqrt pow square abs "
            "softplus elu selu celu leaky_relu hardtanh hardswish hardsigmoid mish logsigmoid log_sigmoid reciprocal erf "
            "sign sgn prelu glu logit log2 log10 exp2 threshold relu6 tanhshrink softsign".split()
        ),
        "the state passes through `{}`",
        "if the nonlinearity may act on the output: keep the state linear and apply it to what is read from it",
    ),
    "LR1205": (
        frozenset("dropout native_dropout batch_norm native_batch_norm _native_batch_norm_legit feature_dropout alpha_dropout instance_norm".split()),
        "`{}` acts on the state, and differs from call to call",
        "apply it to the input or to the output",
    ),
    "LR1206": (
        frozenset(["detach"]),
        "`{}` cuts the gradient through the state, so values would be linear but gradients would not",
        "drop it, or detach what is read from the state",
    ),
    "LR1207": (
        frozenset("gt lt ge le eq ne where_state isnan logical_not logical_and logical_or heaviside".split()),
        "the state is compared with `{}`",
        "compute the condition from the input",
    ),
    "LR1208": (
        frozenset("round floor ceil trunc frac clamp clamp_min clamp_max clip maximum minimum fmod remainder fix hardshrink softshrink nan_to_num".split()),
        "the state is rounded or bounded by `{}`",
        "bound what is read from the state instead",
    ),
    "LR1209": (
        frozenset("softmax log_softmax _softmax layer_norm native_layer_norm group_norm native_group_norm rms_norm norm linalg_vector_norm normalize std var logsumexp amax amin max min argmax cummax cumprod prod logcumsumexp".split()),
        "the state is normalised or reduced by `{}`",
        "normalise the input, or what is read from the state",
    ),
}  # fmt: skip


# helpers ---------------------------------------------------------------------------------------------


def _aligned(
    axes: tuple[Axis, ...], shape: tuple[Dim, ...], target: tuple[Dim, ...], build: Builder
) -> tuple[Axis, ...]:
    """Axes broadcast to `target`: new labels where the value is repeated."""
    padded = ((),) * (len(target) - len(shape)) + axes
    sizes = (1,) * (len(target) - len(shape)) + shape
    return tuple(
        axis if size == want else build.labels.axis(want)
        for axis, size, want in zip(padded, sizes, target, strict=True)
    )


def _broadcast(form: Form, shape: tuple[Dim, ...], target: tuple[Dim, ...], build: Builder) -> tuple[Term, ...]:
    if shape == target:
        return form.terms
    return tuple(replace(t, axes=_aligned(t.axes, shape, target, build)) for t in form.terms)


def _scaled(term: Term, value: Arg, target: tuple[Dim, ...], build: Builder, *, inverse: bool = False) -> Term | None:
    """The term times a coefficient that broadcasts against it; None if their axes are cut differently."""
    if not isinstance(value, Use):
        return replace(term, factors=(*term.factors, Factor(value, (), inverse)))
    shape = build.type(value).shape
    axes: list[Axis] = []
    for size, axis in zip(shape, term.axes[len(term.axes) - len(shape) :], strict=True):
        axes.append(() if size == 1 else axis)
    return replace(term, factors=(*term.factors, Factor(value, tuple(axes), inverse)))


def _shape(op: Op) -> tuple[Dim, ...]:
    assert isinstance(op.type, Type)
    return op.type.shape


def _one_state(op: Op, build: Builder, *places: int) -> tuple[int, Form] | Refusal:
    """The one argument among `places` that depends on the state."""
    found = [(i, f) for i in places if i < len(op.args) and (f := build.form(op.args[i])) is not None]
    if len(found) != 1:
        return Refusal(
            "LR1201", op.result, f"`{op.kind}` multiplies the state with itself",
            "let one of the two be computed from the input",
        )  # fmt: skip
    return found[0]


def _through(op: Op, build: Builder, place: int, form: Form, terms: tuple[Term, ...]) -> Form:
    """Terms mapped by a linear operator, and the offset by the operator itself."""
    if form.offset is None:
        return Form(terms)
    args = tuple(form.offset if i == place else a for i, a in enumerate(op.args))
    return Form(terms, build.clone(op, args))


def _offsets(op: Op, build: Builder, args: tuple[Arg, ...], left: Arg, right: Arg) -> Arg:
    """Offset of a sum where either summand may be zero."""
    if left is None and right is None:
        return None
    return build.clone(op, (0 if left is None else left, 0 if right is None else right, *args))


# sums ------------------------------------------------------------------------------------------------


@rule("add", "sub", "rsub")
def _add(op: Op, build: Builder) -> Form | Refusal:
    target = _shape(op)
    alpha = dict(op.attrs).get("alpha", op.args[2] if len(op.args) > 2 else 1)
    signs: tuple[Arg, Arg] = {"add": (1, alpha), "sub": (1, _negative(alpha)), "rsub": (_negative(alpha), 1)}[op.kind]
    terms: list[Term] = []
    offsets: list[Arg] = []
    for arg, sign in zip(op.args[:2], signs, strict=True):
        form = build.form(arg)
        offsets.append(arg if form is None else form.offset)
        if form is not None:
            for term in _broadcast(form, build.type(arg).shape, target, build):
                terms.append(term if sign == 1 else replace(term, factors=(*term.factors, Factor(sign))))
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
    return _through(op, build, 0, form, tuple(replace(t, factors=(*t.factors, Factor(-1))) for t in form.terms))


@rule("lerp")
def _lerp(op: Op, build: Builder) -> Form | Refusal:
    # lerp(a, b, w) = a + w (b - a) = (1 - w) a + w b
    start, end, weight = op.args[:3]
    if build.form(weight) is not None:
        return Refusal("LR1203", op.result, "the state weighs itself in `lerp`", "compute the weight from the input")
    shape = _shape(op)
    rest: Arg = 1 - weight if isinstance(weight, int | float) else build.make("rsub", (weight, 1), build.type(weight))
    terms: list[Term] = []
    offsets: list[Arg] = []
    for arg, factor in ((start, rest), (end, weight)):
        form = build.form(arg)
        offsets.append(arg if form is None else form.offset)
        for term in () if form is None else _broadcast(form, build.type(arg).shape, shape, build):
            scaled = _scaled(term, factor, shape, build)
            assert scaled is not None
            terms.append(scaled)
    if offsets == [None, None]:
        return Form(tuple(terms))
    if offsets[0] is None:
        assert offsets[1] is not None
        return Form(tuple(terms), build.make("mul", (offsets[1], weight), Type(build.type(end).dtype, shape)))
    if offsets[1] is None:
        return Form(tuple(terms), build.make("mul", (offsets[0], rest), Type(build.type(start).dtype, shape)))
    return Form(tuple(terms), build.clone(op, (*offsets, weight)))


@rule("where")
def _where(op: Op, build: Builder) -> Form | Refusal:
    mask, left, right = op.args
    if build.form(mask) is not None:
        return Refusal("LR1207", op.result, "the state decides in `where`", "compute the condition from the input")
    shape = _shape(op)
    assert isinstance(op.type, Type)
    chosen = Type(op.type.dtype, build.type(mask).shape)
    keep = build.make("to", (mask, _dtype(op)), chosen)
    drop = build.make("rsub", (keep, 1), chosen)
    terms: list[Term] = []
    offsets: list[Arg] = []
    for arg, factor in ((left, keep), (right, drop)):
        form = build.form(arg)
        offsets.append(arg if form is None else form.offset)
        for term in () if form is None else _broadcast(form, build.type(arg).shape, shape, build):
            scaled = _scaled(term, factor, shape, build)
            assert scaled is not None
            terms.append(scaled)
    if offsets == [None, None]:
        return Form(tuple(terms))
    filled = tuple(0.0 if o is None else o for o in offsets)
    return Form(tuple(terms), build.clone(op, (mask, *filled)))


def _dtype(op: Op) -> Arg:
    assert isinstance(op.type, Type)
    return Atom(LONG[op.type.dtype])


# products --------------------------------------------------------------------------------------------


@rule("mul")
def _mul(op: Op, build: Builder) -> Form | Refusal:
    found = _one_state(op, build, 0, 1)
    if isinstance(found, Refusal):
        return found
    place, form = found
    other, shape = op.args[1 - place], _shape(op)
    terms = []
    for term in _broadcast(form, build.type(op.args[place]).shape, shape, build):
        scaled = _scaled(term, other, shape, build)
        assert scaled is not None
        terms.append(scaled)
    return _through(op, build, place, form, tuple(terms))


@rule("div")
def _div(op: Op, build: Builder) -> Form | Refusal:
    if build.form(op.args[1]) is not None:
        return Refusal(
            "LR1202", op.result, "the state stands in a denominator", "divide by something computed from the input"
        )
    if dict(op.attrs).get("rounding_mode") is not None:
        return Refusal("LR1208", op.result, "the state is rounded by a division", "use true division")
    form, shape = build.form(op.args[0]), _shape(op)
    assert form is not None
    terms = []
    for term in _broadcast(form, build.type(op.args[0]).shape, shape, build):
        scaled = _scaled(term, op.args[1], shape, build, inverse=True)
        assert scaled is not None
        terms.append(scaled)
    return _through(op, build, 0, form, tuple(terms))


@rule("addcmul")
def _addcmul(op: Op, build: Builder) -> Form | Refusal:
    product = Op(f"{op.result}.product", "mul", op.args[1:3], (), op.type, op.time, (), op.source)
    if any(build.form(a) is not None for a in op.args[1:3]):
        form = _mul(product, build)
        if isinstance(form, Refusal):
            return replace(form, op=op.result)
    else:
        form = Form((), build.make("mul", op.args[1:3], build.type(op.args[1])))
    scale = dict(op.attrs).get("value", 1)
    base = build.form(op.args[0])
    terms = tuple(t if scale == 1 else replace(t, factors=(*t.factors, Factor(scale))) for t in form.terms)
    own = () if base is None else _broadcast(base, build.type(op.args[0]).shape, _shape(op), build)
    left = op.args[0] if base is None else base.offset
    offset = left if form.offset is None else form.offset if left is None and scale == 1 else None
    if form.offset is not None and (left is not None or scale != 1):
        assert isinstance(op.type, Type)
        offset = build.make("add", (0 if left is None else left, form.offset), op.type, (("alpha", scale),))
    return Form((*own, *terms), offset)


@rule("linear")
def _linear(op: Op, build: Builder) -> Form | Refusal:
    # y[..., o] = sum_i x[..., i] W[o, i] + b[o]
    x, weight = op.args[:2]
    bias = op.args[2] if len(op.args) > 2 else dict(op.attrs).get("bias")
    if build.form(weight) is not None or (bias is not None and build.form(bias) is not None):
        return Refusal("LR1203", op.result, "the state is the weight of `linear`")
    form = build.form(x)
    assert form is not None
    terms = _contracted(form.terms, -1, weight, build.type(weight).shape, (1, 0), build)
    if form.offset is not None:
        return Form(terms, build.clone(op, (form.offset, *op.args[1:])))
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


@rule("matmul", "mm", "bmm", "mv")
def _matmul(op: Op, build: Builder) -> Form | Refusal:
    found = _one_state(op, build, 0, 1)
    if isinstance(found, Refusal):
        return found
    place, form = found
    left, right = (build.type(a).shape for a in op.args[:2])
    other = op.args[1 - place]
    batch = _shape(op)[: len(_shape(op)) - (len(left) > 1) - (len(right) > 1)]
    terms: list[Term] = []
    for term in form.terms:
        terms.append(_product(term, place, (left, right)[place], (left, right)[1 - place], other, batch, build))
    return _through(op, build, place, form, tuple(terms))


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
    own_batch = _aligned(term.axes[:-2] if len(mine) > 1 else (), mine[:-2] if len(mine) > 1 else (), batch, build)
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


@rule("addmm", "baddbmm")
def _addmm(op: Op, build: Builder) -> Form | Refusal:
    attrs = dict(op.attrs)
    beta, alpha = attrs.get("beta", 1), attrs.get("alpha", 1)
    product = Op(f"{op.result}.product", "matmul", op.args[1:3], (), op.type, op.time, (), op.source)
    base = build.form(op.args[0])
    if any(build.form(a) is not None for a in op.args[1:3]):
        form = _matmul(product, build)
        if isinstance(form, Refusal):
            return replace(form, op=op.result)
    else:
        assert isinstance(op.type, Type)
        form = Form((), build.make("matmul", op.args[1:3], op.type))
    own = () if base is None else _broadcast(base, build.type(op.args[0]).shape, _shape(op), build)
    left = op.args[0] if base is None else base.offset
    assert isinstance(op.type, Type)
    terms = (*(_times(t, beta) for t in own), *(_times(t, alpha) for t in form.terms))
    scaled = [
        value if value is None or scale == 1 else build.make("mul", (value, scale), op.type)
        for value, scale in ((left, beta), (form.offset, alpha))
    ]
    if None in scaled:
        return Form(terms, next((v for v in scaled if v is not None), None))
    return Form(terms, build.make("add", (scaled[0], scaled[1]), op.type))


def _times(term: Term, number: Arg) -> Term:
    return term if number == 1 else replace(term, factors=(*term.factors, Factor(number)))


@rule("einsum")
def _einsum(op: Op, build: Builder) -> Form | Refusal:
    equation, operands = op.args[0], op.args[1]
    assert isinstance(equation, str) and isinstance(operands, tuple)
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    parts = inputs.split(",")
    letters = "".join(parts)
    if not arrow:
        output = "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    places = [i for i, operand in enumerate(operands) if build.form(operand) is not None]
    if "." in equation or any(len(set(p)) != len(p) for p in parts):
        return Refusal("LR1299", op.result, "no rule for `einsum` with `...` or a repeated index")
    if len(places) != 1:
        return Refusal("LR1201", op.result, "`einsum` multiplies the state with itself")
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
    again = tuple(form.offset if i == place else o for i, o in enumerate(operands))
    return Form(tuple(terms), build.clone(op, (equation, again)))


# axes ------------------------------------------------------------------------------------------------


@rule("alias", "clone", "contiguous", "to", "_to_copy", "float", "double", "type_as", "lift_fresh", "positive")
def _same(op: Op, build: Builder) -> Form | Refusal:
    form = build.form(op.args[0])
    assert form is not None and isinstance(op.type, Type)
    if op.type.dtype[0] not in "fcb" or op.type.dtype == "bool":
        return Refusal(
            "LR1208", op.result, f"the state is rounded to {op.type.dtype} by `{op.kind}`", "keep it floating point"
        )
    return _through(op, build, 0, form, form.terms)


@rule(
    "transpose", "t", "numpy_T", "mT", "permute", "unsqueeze", "squeeze", "expand", "expand_as", "swapaxes", "movedim"
)
def _axes(op: Op, build: Builder) -> Form | Refusal:
    form = build.form(op.args[0])
    if form is None:
        return Refusal("LR1210", op.result, f"the state shapes another value in `{op.kind}`")
    before, after = build.type(op.args[0]).shape, _shape(op)
    places = _moved(op, len(before), before)
    if places is None:
        return Refusal("LR1299", op.result, f"no rule for this use of `{op.kind}`")
    terms = []
    for term in form.terms:
        axes = [() if p is None else term.axes[p] for p in places]
        sizes = tuple(1 if p is None else before[p] for p in places)
        terms.append(replace(term, axes=_aligned(tuple(axes), sizes, after, build)))
    return _through(op, build, 0, form, tuple(terms))


def _moved(op: Op, rank: int, before: tuple[Dim, ...]) -> list[int | None] | None:
    """For each axis of the result the axis of the argument it is, None for a new one."""
    order: list[int | None] = list(range(rank))
    args = op.args[1:]
    if op.kind in ("t", "numpy_T"):
        return order[::-1]
    if op.kind == "mT":
        return [*order[:-2], order[-1], order[-2]]
    if op.kind in ("transpose", "swapaxes"):
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
    if op.kind in ("expand", "expand_as"):
        return [None] * (len(_shape(op)) - rank) + order
    return None


@rule("view", "reshape", "_unsafe_view", "flatten", "unflatten", "view_as", "reshape_as")
def _reshape(op: Op, build: Builder) -> Form | Refusal:
    form = build.form(op.args[0])
    if form is None:
        return Refusal("LR1210", op.result, f"the state shapes another value in `{op.kind}`")
    before, after = build.type(op.args[0]).shape, _shape(op)
    blocks = _blocks(before, after)
    if blocks is None:
        return Refusal("LR1299", op.result, f"`{op.kind}` cuts axes of the state across each other")
    terms: list[Term] = []
    for term in form.terms:
        axes: list[Axis] = []
        for old, new in blocks:
            merged = tuple(label for i in old for label in term.axes[i])
            if len(new) == 1:
                axes.append(merged)
                continue
            cut = split_to(term, merged, tuple(after[i] for i in new), build.labels)
            if cut is None:
                return Refusal("LR1299", op.result, f"`{op.kind}` cuts axes of the state across each other")
            done, term = [tuple(axis) for axis in axes], cut[0]
            axes = [*done, *cut[1]]
        terms.append(replace(term, axes=tuple(axes)))
    return _through(op, build, 0, form, tuple(terms))


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
        axes = tuple(() if i in chosen else axis for i, axis in enumerate(term.axes) if keep or i not in chosen)
        factors = [*term.factors]
        missing = _summed_alone(term, chosen)
        if missing:
            # a label that only the result had: summing it multiplies by its length
            return Refusal("LR1299", op.result, f"no rule for `{op.kind}` over an axis the state was repeated along")
        if op.kind == "mean":
            for i in chosen:
                size = shape[i]
                if not isinstance(size, int):
                    return Refusal("LR1299", op.result, "no rule for `mean` over an axis of unknown length")
                factors.append(Factor(size, (), inverse=True))
        terms.append(Term(term.state, term.state_axes, axes, tuple(factors)))
    return _through(op, build, 0, form, tuple(terms))


def _summed_alone(term: Term, chosen: set[int]) -> bool:
    held = {x for axis in term.state_axes for x in axis} | {x for f in term.factors for axis in f.axes for x in axis}
    return any(label not in held for i in chosen for label in term.axes[i])


@rule("select", "slice", "index_select", "flip", "roll", "cumsum", "narrow", "constant_pad_nd", "pad", "diff")
def _along(op: Op, build: Builder) -> Form | Refusal:
    """An operator along one axis is a constant 0/1-like matrix there: what it makes of eye(n)."""
    form = build.form(op.args[0])
    if form is None:
        return Refusal(
            "LR1210", op.result, f"the state chooses an index in `{op.kind}`", "compute the index from the input"
        )
    shape = build.type(op.args[0]).shape
    dim = _dimension(op, len(shape))
    if dim is None or not isinstance(shape[dim], int):
        return Refusal("LR1299", op.result, f"no rule for this use of `{op.kind}`")
    length, after = shape[dim], _shape(op)
    assert isinstance(op.type, Type)
    eye = build.make("eye", (length,), Type(op.type.dtype, (length, length)), (("dtype", _dtype(op)),))
    gone = len(after) < len(shape)
    matrix_type = Type(op.type.dtype, (length,) if gone else (after[dim], length))
    args = tuple(eye if i == 0 else a for i, a in enumerate(op.args))
    matrix = build.make(op.kind, _along_axis_zero(op, args), matrix_type, op.attrs)
    terms: list[Term] = []
    for term in form.terms:
        out = () if gone else build.labels.axis(after[dim])
        factor = Factor(matrix, (term.axes[dim],) if gone else (out, term.axes[dim]))
        axes = [axis for i, axis in enumerate(term.axes) if not (gone and i == dim)]
        if not gone:
            axes[dim] = out
        terms.append(replace(term, axes=tuple(axes), factors=(*term.factors, factor)))
    return _through(op, build, 0, form, tuple(terms))


def _dimension(op: Op, rank: int) -> int | None:
    if op.kind in ("flip", "roll"):
        dims = op.args[1 if op.kind == "flip" else 2] if len(op.args) > (1 if op.kind == "flip" else 2) else None
        return dims[0] % rank if isinstance(dims, tuple) and len(dims) == 1 and isinstance(dims[0], int) else None
    if op.kind in ("constant_pad_nd", "pad"):
        widths = op.args[1]
        fill = op.args[2] if len(op.args) > 2 else 0
        return (
            rank - 1
            if isinstance(widths, tuple) and len(widths) == 2 and fill in (0, None) and op.kind != "pad"
            else None
        )
    dim = op.args[1] if len(op.args) > 1 else dict(op.attrs).get("dim", 0)
    return dim % rank if isinstance(dim, int) else None


def _along_axis_zero(op: Op, args: tuple[Arg, ...]) -> tuple[Arg, ...]:
    if op.kind == "flip":
        return (args[0], (0,))
    if op.kind == "roll":
        return (args[0], args[1], (0,))
    if op.kind == "constant_pad_nd":
        widths = args[1]
        assert isinstance(widths, tuple)
        return (args[0], (0, 0, *widths), 0.0)
    return (args[0], 0, *args[2:])


@rule("cat", "stack")
def _cat(op: Op, build: Builder) -> Form | Refusal:
    items, shape = op.args[0], _shape(op)
    assert isinstance(items, tuple) and isinstance(op.type, Type)
    dim = op.args[1] if len(op.args) > 1 else dict(op.attrs).get("dim", 0)
    assert isinstance(dim, int)
    dim %= len(shape)
    total = shape[dim]
    if not isinstance(total, int):
        return Refusal("LR1299", op.result, f"no rule for `{op.kind}` to an unknown length")
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
            whole = build.make("eye", (total,), Type(op.type.dtype, (total, total)), (("dtype", _dtype(op)),))
            rows = build.make("slice", (whole, 0, start, start + width), Type(op.type.dtype, (width, total)))
            for term in form.terms:
                out = build.labels.axis(total)
                axes = list(term.axes)
                if op.kind == "stack":
                    axes.insert(dim, ())
                factor = Factor(rows, (axes[dim], out))
                axes[dim] = out
                terms.append(replace(term, axes=tuple(axes), factors=(*term.factors, factor)))
        start += width
    if all(o is None for o in offsets):
        return Form(tuple(terms))
    zeros = [
        build.make("zeros_like", (i,), build.type(i)) if o is None and build.form(i) is None else o
        for i, o in zip(items, offsets, strict=True)
    ]
    if any(z is None for z in zeros):
        filled = tuple(
            build.make("new_zeros", (next(z for z in zeros if z is not None), build.type(i).shape), build.type(i))
            if z is None
            else z
            for i, z in zip(items, zeros, strict=True)
        )
        return Form(tuple(terms), build.clone(op, (filled, *op.args[1:])))
    return Form(tuple(terms), build.clone(op, (tuple(zeros), *op.args[1:])))
