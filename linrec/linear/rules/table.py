"""The operator table: which operators keep a value affine in the state, and why others do not.

A rule takes the op and the forms of its arguments and gives the form of the result or a refusal.
An operator without a rule is refused by name; linearity is never guessed from numbers (a numeric
test would take `round` and `detach` for linear). Adding an operator is adding a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Protocol

from linrec.dtypes import LONG
from linrec.ir import Arg, Atom, Op, Type, Use
from linrec.linear.affine import Axis, Factor, Form, Labels, Refusal, Term
from linrec.linear.rules.refused import REFUSED
from linrec.linear.semirings import SUM, Semiring
from linrec.sizes import Dim


class Builder(Protocol):
    """What a rule may ask of the analysis."""

    labels: Labels
    semiring: Semiring

    def form(self, arg: Arg) -> Form | None:
        """The form of an argument, or None if it does not depend on the state."""

    def type(self, arg: Arg) -> Type:
        """The type of an argument; numbers are scalars."""

    def clone(self, op: Op, args: tuple[Arg, ...]) -> Arg:
        """The same operator on other arguments: how offsets are carried along."""

    def make(self, kind: str, args: tuple[Arg, ...], type_: Type, attrs: tuple[tuple[str, Arg], ...] = ()) -> Arg:
        """A new op on values that do not depend on the state."""

    def filled(self, value: Arg, type_: Type) -> Arg:
        """A tensor of one number."""

    def indicator(self, matrix: Use) -> Use:
        """Zeros and ones of numbers as those of the semiring."""


Rule = Callable[[Op, Builder], Form | Refusal]
RULES: dict[tuple[str, str], Rule] = {}  # (semiring, operator) -> rule


def rule(*kinds: str, semirings: Iterable[Semiring] = (SUM,)) -> Callable[[Rule], Rule]:
    """Register a rule for operators; most are about one semiring, those that only move numbers about all."""

    def add(function: Rule) -> Rule:
        for semiring in semirings:
            for kind in kinds:
                RULES[semiring.name, kind] = function
        return function

    return add


def apply(op: Op, build: Builder) -> Form | Refusal:
    """The form of `op`, whose arguments include values that depend on the state."""
    found = RULES.get((build.semiring.name, op.kind))
    if found is not None:
        return found(_promoted(op, build) if op.kind in _ADDING else op, build)
    for code, (kinds, reason, help_) in REFUSED.items():
        if op.kind in kinds.split():
            return Refusal(code, op.result, reason.format(op.kind), help_)
    return Refusal("LR1299", op.result, f"no rule says what `{op.kind}` does to the state")


_ADDING = {  # the arguments that a result is the sum of, or a choice from; None for all
    "add": None, "sub": None, "rsub": None, "cat": None, "stack": None, "maximum": None, "minimum": None,
    "logaddexp": None, "where": (1, 2), "lerp": (0, 1), "addcmul": (0,), "addcdiv": (0,), "mul": (), "div": (),
}  # fmt: skip


def _promoted(op: Op, build: Builder) -> Op:
    """The op with what torch does before it computes: inputs of fewer bits than the result take on as many.

    A form keeps inputs apart from the state that would have widened them, and sums them up without it.
    """
    assert isinstance(op.type, Type)
    wide, places = op.type.dtype, _ADDING[op.kind]
    if op.kind in ("addcmul", "addcdiv") and build.form(op.args[0]) is not None:
        places = None  # a state plus a product

    def promoted(arg: Arg, adds: bool) -> Arg:
        if isinstance(arg, tuple):
            return tuple(promoted(part, adds) for part in arg)
        if not isinstance(arg, Use) or build.form(arg) is not None:
            return arg
        given = build.type(arg)
        dtype = _widened(given.dtype, wide, adds=adds)
        return arg if dtype == given.dtype else build.make("to", (arg, Atom(LONG[dtype])), Type(dtype, given.shape))

    args = tuple(promoted(a, places is None or i in places) for i, a in enumerate(op.args))
    return replace(op, args=args)


def _widened(dtype: str, wide: str, *, adds: bool) -> str:
    """What multiplies stays real, or a whole number."""
    if dtype == "bool" or wide == "bool" or wide[0] not in "fcb":
        return dtype
    if adds:
        is_less = dtype[0] in "iu" or (wide[0] == "c") > (dtype[0] == "c") or _bits(dtype) < _bits(wide)
        return wide if is_less else dtype
    real = {"c128": "f64", "c64": "f32"}.get(wide, wide)
    same = wide if dtype[0] == "c" else real
    return same if dtype[0] not in "iu" and _bits(dtype) < _bits(same) else dtype


def _bits(dtype: str) -> int:
    return int(dtype.lstrip("bfc"))


def aligned(
    axes: tuple[Axis, ...], shape: tuple[Dim, ...], target: tuple[Dim, ...], build: Builder
) -> tuple[Axis, ...]:
    """Axes broadcast to `target`: new labels where the value is repeated."""
    padded = ((),) * (len(target) - len(shape)) + axes
    sizes = (1,) * (len(target) - len(shape)) + shape
    return tuple(
        axis if size == want else build.labels.axis(want)
        for axis, size, want in zip(padded, sizes, target, strict=True)
    )


def broadcast(form: Form, shape: tuple[Dim, ...], target: tuple[Dim, ...], build: Builder) -> tuple[Term, ...]:
    if shape == target:
        return form.terms
    return tuple(replace(t, axes=aligned(t.axes, shape, target, build)) for t in form.terms)


def scaled_by(term: Term, value: Arg, build: Builder, *, inverse: bool = False) -> Term:
    """The term times a coefficient that broadcasts against it."""
    if not isinstance(value, Use):
        return term.times(Factor(value, (), inverse))
    shape = build.type(value).shape
    axes: list[Axis] = []
    for size, axis in zip(shape, term.axes[len(term.axes) - len(shape) :], strict=True):
        axes.append(() if size == 1 else axis)
    return term.times(Factor(value, tuple(axes), inverse))


def shape_of(op: Op) -> tuple[Dim, ...]:
    assert isinstance(op.type, Type)
    return op.type.shape


def one_state(op: Op, build: Builder, *places: int) -> tuple[int, Form] | Refusal:
    """The one argument among `places` that depends on the state."""
    found = [(i, f) for i in places if i < len(op.args) and (f := build.form(op.args[i])) is not None]
    if len(found) != 1:
        return Refusal(
            "LR1201", op.result, f"`{op.kind}` multiplies the state with itself",
            "let one of the two be computed from the input",
        )  # fmt: skip
    return found[0]


def through(op: Op, build: Builder, place: int, form: Form, terms: tuple[Term, ...]) -> Form:
    """Terms mapped by a linear operator, and the offset by the operator itself."""
    return Form(terms, offset_through(op, build, place, form))


BIAS = {f"conv{transposed}{n}d": 2 for n in (1, 2, 3) for transposed in ("", "_transpose")}  # where an operator has one
_ELEMENTWISE = frozenset("mul div neg to _to_copy clone alias positive real imag _conj".split())


def offset_through(op: Op, build: Builder, place: int, form: Form) -> Arg:
    """What the operator makes of the offset; of zero, where it adds a bias of its own."""
    bias, offset = BIAS.get(op.kind, len(op.args)), form.offset
    if offset is None and (bias >= len(op.args) or op.args[bias] is None):
        return None
    given = build.type(op.args[place])
    if op.kind not in _ELEMENTWISE:
        offset = whole(offset, given, build)
    args = tuple(offset if i == place else a for i, a in enumerate(op.args))
    if op.kind not in _ELEMENTWISE:
        return build.clone(op, args)
    assert isinstance(op.type, Type)
    return build.make(
        op.kind, numbered(args, op.type.dtype, build), Type(op.type.dtype, joined_shape(args, build)), op.attrs
    )


def joined_shape(args: Iterable[Arg], build: Builder) -> tuple[Dim, ...]:
    """The shape that values broadcast to: an offset may be smaller than the value it belongs to."""
    shapes = [build.type(a).shape for a in args if isinstance(a, Use)]
    rank = max(map(len, shapes), default=0)
    joined: list[Dim] = [1] * rank
    for shape in shapes:
        for i, d in enumerate(shape, rank - len(shape)):
            joined[i] = d if joined[i] == 1 else joined[i]
    return tuple(joined)


def numbered(args: tuple[Arg, ...], dtype: str, build: Builder) -> tuple[Arg, ...]:
    """The arguments with a tensor in the first place, as most operators want it."""
    if isinstance(args[0], int | float | complex) and not isinstance(args[0], bool):
        return (build.filled(args[0], Type(dtype, ())), *args[1:])
    return args


def whole(offset: Arg, type_: Type, build: Builder) -> Arg:
    """An offset in full: None is zero, and what is a number or repeats along an axis is written out."""
    if isinstance(offset, Use) and build.type(offset).shape == type_.shape:
        return offset
    filled = build.filled(build.semiring.zero if offset is None else build.semiring.one, type_)
    return filled if offset is None else build.make(build.semiring.times, (filled, offset), type_)


def dtype_of(op: Op) -> Arg:
    assert isinstance(op.type, Type)
    return Atom(LONG[op.type.dtype])
