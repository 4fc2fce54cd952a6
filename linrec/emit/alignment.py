"""Alignment: at which step each entry of a tensor outside the loops is known.

Every such value has a *fact*:

    None            it does not depend on time (a parameter, an h0)
    Along(a, o, e)  axis a is time: entry j is known at step j + o, and entries reach to step T - 1 + e
                    (an axis that is `before` x time x `behind` in one holds time as well: `linrec.emit.folding`)
    Early(s)        it is known from step s on and does not change (x[:, 0], the mean of the first three steps)
    NOW             it is a value of the last step so far (the final state, its readout)

A rule for each operator says how facts move through it. What no rule can place looks ahead, or is not known to
this table: StateError names the user's line either way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from linrec.errors import StateError
from linrec.ir import Arg, Graph, Op, Source, Type, Use
from linrec.sizes import Dim, Size, size

T = size("T")


def product(dims: tuple[Dim, ...]) -> Dim:
    """The number of entries of a shape."""
    total: Dim = 1
    for d in dims:
        total = d * total
    return total


@dataclass(frozen=True)
class Along:
    """Entry j of `axis` is known at step j + offset; the entries reach to step T - 1 + excess.

    `before` and `behind` are the lengths of axes that are one with time.
    """

    axis: int
    offset: int = 0
    excess: int = 0
    before: tuple[Dim, ...] = ()
    behind: tuple[Dim, ...] = ()

    @property
    def is_folded(self) -> bool:
        """Is time one axis with others?"""
        return bool(self.before or self.behind)

    def long(self, steps: Dim) -> Dim:
        """The length of the axis for a number of steps."""
        return product((*self.before, steps, *self.behind))


@dataclass(frozen=True)
class Early:
    """Known from this step on, the same ever after."""

    step: int


Now = Literal["now"]
NOW: Now = "now"
Fact = Along | Early | Now | None


def look_ahead(graph: Graph, op: Op, why: str, code: str = "LR4003") -> StateError:
    """The error for a program without a recurrent form: the line, and why."""
    source = _written(graph, op)
    return StateError(
        code, f"{graph.name} has no recurrent form: {why}",
        file=source.file if source else None, line=source.line if source else None,
        help="a step sees one x_t and the state; move what needs the whole sequence out of the model",
    )  # fmt: skip


def _written(graph: Graph, op: Op) -> Source | None:
    """The user's line of an op: what is made of functions of t and T has none, but is read on one."""
    readers, near = graph.readers(), [op]
    for reader in near:
        if reader.source is not None:
            return reader.source
        near += [r for r in readers.get(reader.result, []) if r not in near]
    return None


# operators that treat every position along any axis alike, shapes aligned from the last axis
ELEMENTWISE = frozenset(
    "add sub rsub mul div true_divide floor_divide remainder fmod neg negative abs exp exp2 expm1 log log1p log2 log10 "
    "sqrt rsqrt sin cos tan asin acos atan atan2 sinh cosh tanh sigmoid logit relu relu6 gelu silu mish softplus elu "
    "selu celu leaky_relu prelu hardtanh hardsigmoid hardswish softsign tanhshrink logsigmoid log_sigmoid square pow "
    "float_power reciprocal lerp where clamp clamp_min clamp_max clip maximum minimum fmax fmin max min to _to_copy "
    "type_as sign sgn round floor ceil trunc frac addcmul addcdiv detach clone alias contiguous conj resolve_conj "
    "resolve_neg conj_physical real imag angle complex polar gt lt ge le eq ne not_equal logical_not logical_and "
    "logical_or logical_xor bitwise_not bitwise_and bitwise_or erf erfc dropout native_dropout feature_dropout "
    "zeros_like ones_like full_like rand_like randn_like isnan isinf isfinite nan_to_num masked_fill threshold "
    "lift_fresh lift_fresh_copy copy logaddexp hypot heaviside sinc xlogy expand_as bernoulli".split()
)
# operators that make a tensor of a given shape
CREATE = frozenset("zeros ones full empty new_zeros new_ones new_full new_empty rand randn".split())
# operators whose arguments may name the number of steps: it says how long a result is, nothing else
SHAPED = CREATE | frozenset(
    "view reshape _unsafe_view expand broadcast_to slice narrow arange unflatten repeat select select_scatter "
    "slice_scatter pad constant_pad_nd signal stack pick".split()
)
# operators over the axes that argument 1 names
REDUCE = frozenset(
    "sum mean var std amax amin prod logsumexp linalg_vector_norm norm any all argmax argmin max min median".split()
)
LAST_AXES = {"layer_norm": 1, "rms_norm": 1}  # argument that says how many of the last axes are one
ONE_AXIS = frozenset("softmax log_softmax _softmax _log_softmax flip roll sort cumprod logcumsumexp cummax glu".split())
MOVING = frozenset(
    "transpose swapaxes permute unsqueeze squeeze movedim select mT mH numpy_T t slice narrow".split()
) | frozenset({"split", "chunk", "unbind", "split_with_sizes"})

Rule = Callable[[Op, "Shapes"], int | None]
RULES: dict[str, Rule] = {}


@dataclass(frozen=True)
class Shapes:
    """What a rule may ask: the time axis of each varying argument, and shapes."""

    axes: dict[str, int]
    types: dict[str, Type]

    def rank(self, use: Use) -> int:
        """How many axes a value has."""
        return len(self.types[use.name].shape)

    def time(self, arg: Arg) -> int | None:
        """The time axis of an argument, None if it does not vary."""
        return self.axes.get(arg.name) if isinstance(arg, Use) else None

    def only(self, op: Op) -> Use | None:
        """The one varying argument, if it is one."""
        found = {u for u in op.uses() if u.name in self.axes}
        return next(iter(found)) if len(found) == 1 else None


def rule(*kinds: str) -> Callable[[Rule], Rule]:
    """Register where these operators put time; None says that they mix steps."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(kinds, function))
        return function

    return register


def placed(op: Op, shapes: Shapes) -> int | None:
    """The time axis of the result of an op that treats steps one by one; None if it mixes them, or is not known."""
    found = RULES.get(op.kind)
    return None if found is None else found(op, shapes)


@rule(*ELEMENTWISE)
def _elementwise(op: Op, shapes: Shapes) -> int | None:
    if op.kind in ("max", "min") and not (len(op.args) > 1 and isinstance(op.args[1], Use)):
        return _reduce(op, shapes)
    if not isinstance(op.type, Type):
        return None
    ends = {shapes.rank(u) - shapes.axes[u.name] for u in op.uses() if u.name in shapes.axes}
    return len(op.type.shape) - next(iter(ends)) if len(ends) == 1 else None


@rule(*REDUCE)
def _reduce(op: Op, shapes: Shapes) -> int | None:
    use = op.args[0]
    if not isinstance(use, Use) or shapes.time(use) is None:
        return None
    at = 2 if op.kind in ("linalg_vector_norm", "norm") else 1
    before, source = shapes.rank(use), shapes.axes[use.name]
    dims = _listed(op.args[at] if len(op.args) > at else dict(op.attrs).get("dim"), before)
    if not dims or source in dims:
        return None
    keep = dict(op.attrs).get("keepdim", False) or any(a is True for a in op.args[at + 1 :])
    return source if keep else source - sum(d < source for d in dims)


@rule(*LAST_AXES)
def _normalised(op: Op, shapes: Shapes) -> int | None:
    use, normal = op.args[0], op.args[1]
    if not isinstance(use, Use) or shapes.only(op) != use or not isinstance(normal, tuple):
        return None
    return shapes.axes[use.name] if shapes.rank(use) - shapes.axes[use.name] > len(normal) else None


@rule(*ONE_AXIS)
def _one_axis(op: Op, shapes: Shapes) -> int | None:
    use = shapes.only(op)
    if use is None:
        return None
    rank, source = shapes.rank(use), shapes.axes[use.name]
    dims = op.args[2] if op.kind == "roll" and len(op.args) > 2 else op.args[1] if len(op.args) > 1 else -1
    listed = _listed(dims, rank)
    return source if listed and source not in listed else None


@rule("linear")
def _linear(op: Op, shapes: Shapes) -> int | None:
    use = op.args[0]
    if not isinstance(use, Use) or shapes.only(op) != use:
        return None
    return shapes.axes[use.name] if shapes.axes[use.name] < shapes.rank(use) - 1 else None


@rule("matmul", "bmm", "mm")
def _matmul(op: Op, shapes: Shapes) -> int | None:
    left, right = op.args[:2]
    assert isinstance(left, Use) and isinstance(right, Use) and isinstance(op.type, Type)
    if shapes.rank(left) < 2 or shapes.rank(right) < 2:
        return None
    ends = []
    for use, contracted in ((left, 1), (right, 2)):
        if use.name in shapes.axes:
            end = shapes.rank(use) - shapes.axes[use.name]
            if end == contracted:
                return None
            ends.append(end)
    rank = len(op.type.shape)
    # rows of the left and columns of the right factor are axes of their own; the rest is a common batch
    return rank - ends[0] if len(set(ends)) == 1 and (len(ends) == 1 or ends[0] > 2) else None


@rule("einsum")
def _einsum(op: Op, shapes: Shapes) -> int | None:
    equation, operands = op.args[:2]
    if not isinstance(equation, str) or not isinstance(operands, tuple) or "..." in equation or "->" not in equation:
        return None
    inputs, _, output = equation.replace(" ", "").partition("->")
    letters = {
        term[shapes.axes[u.name]]
        for term, u in zip(inputs.split(","), operands, strict=True)
        if isinstance(u, Use) and u.name in shapes.axes
    }
    if len(letters) != 1:
        return None
    (letter,) = letters
    varying = [u for term, u in zip(inputs.split(","), operands, strict=True) if letter in term]
    if any(not isinstance(u, Use) or u.name not in shapes.axes for u in varying) or letter not in output:
        return None
    return output.index(letter)


@rule("pad", "constant_pad_nd")
def _padded(op: Op, shapes: Shapes) -> int | None:
    """Other axes than that of time, made longer."""
    use, widths = shapes.only(op), op.args[1]
    if use is None or not isinstance(widths, tuple):
        return None
    place = 2 * (shapes.rank(use) - 1 - shapes.axes[use.name])
    return None if any(widths[place : place + 2]) else shapes.axes[use.name]


@rule("embedding")
def _embedding(op: Op, shapes: Shapes) -> int | None:
    return shapes.time(op.args[1]) if shapes.time(op.args[0]) is None else None


@rule("one_hot", "view_as_real", "view_as_complex")
def _front(op: Op, shapes: Shapes) -> int | None:
    use = op.args[0]
    axis = shapes.time(use)
    if op.kind == "view_as_complex" and isinstance(use, Use) and axis == shapes.rank(use) - 1:
        return None
    return axis


@rule("batch_norm")
def _batch_norm(op: Op, shapes: Shapes) -> int | None:
    training = op.args[5] if len(op.args) > 5 else True
    axis = shapes.time(op.args[0])
    return axis if training is False and axis != 1 else None


@rule("gather", "take_along_dim")
def _gather(op: Op, shapes: Shapes) -> int | None:
    use = op.args[0]
    dim = op.args[1] if op.kind == "gather" else op.args[2]
    axes = {shapes.time(a) for a in op.args if isinstance(a, Use)}
    if not isinstance(use, Use) or not isinstance(dim, int) or len(axes) != 1:
        return None
    (axis,) = axes
    return axis if axis != dim % shapes.rank(use) else None


@rule("stack", "cat", "concat")
def _joined(op: Op, shapes: Shapes) -> int | None:
    parts = op.args[0]
    if not isinstance(parts, tuple) or not isinstance(op.type, Type):
        return None
    axes = {shapes.time(p) for p in parts}
    dim = op.args[1] if len(op.args) > 1 else dict(op.attrs).get("dim", 0)
    if len(axes) != 1 or not isinstance(dim, int):
        return None
    (axis,) = axes
    dim %= len(op.type.shape)
    if op.kind == "stack" and axis is not None:
        return axis + (dim <= axis)
    return axis if dim != axis else None


@rule(*MOVING)
def _moved(op: Op, shapes: Shapes) -> int | None:
    use = op.args[0]
    if not isinstance(use, Use) or shapes.only(op) != use:
        return None
    before, source = shapes.rank(use), shapes.axes[use.name]
    if op.kind in ("mT", "mH", "numpy_T", "t"):
        if op.kind in ("numpy_T", "t"):
            return before - 1 - source
        return {before - 1: before - 2, before - 2: before - 1}.get(source, source)
    if op.kind in ("transpose", "swapaxes"):
        a, b = (i % before for i in op.args[1:3] if isinstance(i, int))
        return b if source == a else a if source == b else source
    if op.kind == "permute" and isinstance(op.args[1], tuple):
        return [i % before for i in op.args[1] if isinstance(i, int)].index(source)
    if op.kind == "movedim":
        old, new = (_listed(a, before) for a in op.args[1:3])
        order = [i for i in range(before) if i not in old]
        for place, axis in sorted(zip(new, old, strict=True)):
            order.insert(place, axis)
        return order.index(source)
    if op.kind == "unsqueeze":
        (dim,) = _listed(op.args[1], before + 1)
        return source + (dim <= source)
    at = 2 if op.kind in ("split", "chunk", "split_with_sizes") else 1
    dims = _listed(op.args[at] if len(op.args) > at else 0 if op.kind != "squeeze" else None, before)
    if not dims or source in dims:
        return None
    if op.kind == "squeeze":
        dims = [d for d in dims if shapes.types[use.name].shape[d] == 1]
    gone = op.kind in ("squeeze", "select", "unbind")
    return source - sum(d < source for d in dims) if gone else source


@rule("expand", "broadcast_to")
def _expanded(op: Op, shapes: Shapes) -> int | None:
    use = op.args[0]
    if not isinstance(use, Use) or not isinstance(op.type, Type):
        return None
    return shapes.axes[use.name] + len(op.type.shape) - shapes.rank(use)


@rule("conv1d", "conv2d", "conv3d", "avg_pool1d", "avg_pool2d", "max_pool1d", "max_pool2d", "group_norm")
def _images(op: Op, shapes: Shapes) -> int | None:
    """Each entry of the first axis is an image of its own."""
    use = shapes.only(op)
    if use is None or use != op.args[0] or shapes.time(use) != 0:
        return None
    return 0 if op.kind == "group_norm" or shapes.rank(use) == int(op.kind[-2]) + 2 else None


def _listed(dims: Arg, rank: int) -> list[int]:
    items = dims if isinstance(dims, tuple) else (dims,)
    return [d % rank for d in items if isinstance(d, int) and not isinstance(d, bool)]


# windows over time --------------------------------------------------------------------------------------


def reach(op: Op, source: int, shapes: Shapes) -> tuple[int, int] | None:
    """(steps that an op over windows of time reads back, the time axis of its result), None if it is none.

    Entry j of the result reads entries j .. j + reach of its first argument.
    """
    use = op.args[0]
    assert isinstance(use, Use)
    last = shapes.rank(use) - 1

    def given(at: int, name: str, default: Arg) -> Arg:
        return op.args[at] if len(op.args) > at else dict(op.attrs).get(name, default)

    def one(arg: Arg) -> Arg:
        return arg[0] if isinstance(arg, tuple) and len(arg) == 1 else arg

    if op.kind == "conv1d" and source == last and isinstance(op.args[1], Use) and shapes.only(op) == use:
        taps = shapes.types[op.args[1].name].shape[-1]
        spread = one(given(5, "dilation", 1))
        plain = one(given(3, "stride", 1)) == 1 and one(given(4, "padding", 0)) == 0
        return ((taps - 1) * spread, source) if plain and isinstance(taps, int) and isinstance(spread, int) else None
    if op.kind in ("avg_pool1d", "max_pool1d") and source == last:
        width = one(op.args[1])
        plain = (
            one(given(2, "stride", 0)) == 1 and one(given(3, "padding", 0)) == 0 and one(given(4, "d", 1)) in (1, False)
        )
        return (width - 1, source) if plain and isinstance(width, int) else None
    if op.kind == "unfold" and op.args[3] == 1 and isinstance(op.args[1], int) and isinstance(op.args[2], int):
        return (op.args[2] - 1, source) if op.args[1] % (last + 1) == source else None
    if op.kind == "diff" and len(op.args) <= 3:
        count, dim = given(1, "n", 1), given(2, "dim", -1)
        if isinstance(count, int) and isinstance(dim, int) and dim % (last + 1) == source:
            return count, source
    return None


def bounds(length: Dim, start: Arg, end: Arg) -> tuple[Dim, Dim] | None:
    """The first and the last-but-one entry of a slice, counted from the front; None if they are not known."""

    def counted(arg: Arg, default: Dim) -> Dim | None:
        if arg is None or (isinstance(arg, int) and arg >= 1 << 62):
            return default
        if isinstance(arg, int) and arg < 0:
            return length + arg
        return arg if isinstance(arg, int | Size) and not isinstance(arg, bool) else None

    first, last = counted(start, 0), counted(end, length)
    return None if first is None or last is None else (first, last)
