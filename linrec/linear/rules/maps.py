"""Rules of linear maps: operators that are a matrix along some axes of the state, and act alike along the others.

The matrix is what the operator makes of the unit vectors (`map_matrix`), so a rule only says which axes mix, which
pass on to which axis of the result, and along which of those a coefficient differs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from linrec.dtypes import LONG
from linrec.ir import Arg, Atom, Op, Type, Use
from linrec.linear.affine import Factor, Form, Refusal, Term
from linrec.linear.rules.table import BIAS, Builder, offset_through, rule, shape_of, whole
from linrec.linear.semirings import ALL, SUM
from linrec.sizes import Dim

LARGEST = 4096  # unit vectors: beyond this the matrix of an operator is not worth its memory


@dataclass(frozen=True)
class Axes:
    """How a linear map treats the axes of argument `place`: `mixed` ones, and `passing` ones by where they go."""

    place: int
    mixed: Sequence[int]
    passing: Mapping[int, int]
    touched: Collection[int] = field(default=())  # passing axes along which a coefficient differs


def mapped(op: Op, build: Builder, axes: Axes) -> Form | Refusal:
    """The form of an operator that is linear in one argument."""
    form = build.form(op.args[axes.place])
    if form is None or any(build.form(a) is not None for i, a in enumerate(op.args) if i != axes.place):
        return chosen_by_the_state(op)
    matrix = matrix_of(op, build, axes)
    if isinstance(matrix, Refusal):
        return matrix
    terms = tuple(applied(t, matrix, shape_of(op), axes, build) for t in form.terms)
    return Form(terms, offset_through(op, build, axes.place, form))


def chosen_by_the_state(op: Op) -> Refusal:
    """The state is an index, a weight or a size."""
    reason = f"the state is more than one argument of `{op.kind}`, or one that chooses rather than is computed with"
    return Refusal("LR1210", op.result, reason, "compute indices, kernels and sizes from the input")


def unknown_length(op: Op) -> Refusal:
    """The matrix of an operator needs numbers for the sizes of the axes it mixes."""
    return Refusal(
        "LR1297", op.result, f"`{op.kind}` mixes the state along an axis whose length differs from call to call"
    )


def matrix_of(op: Op, build: Builder, axes: Axes, unit: Arg = 1) -> Use | Refusal:
    """The matrix (n, ...) of a map: unit vectors first, then the axes of the result; passing ones of size one."""
    given, after = build.type(op.args[axes.place]), shape_of(op)
    sizes = [given.shape[i] for i in axes.mixed]
    n = 1
    for size in sizes:
        if not isinstance(size, int):
            return unknown_length(op)
        n *= size
    if n > LARGEST:
        return Refusal("LR1299", op.result, f"no rule for `{op.kind}` on {n} numbers at once, {LARGEST} are the most")
    shape: tuple[Dim, ...] = tuple(d if i in axes.mixed or i in axes.touched else 1 for i, d in enumerate(given.shape))
    args = tuple(None if i in (axes.place, BIAS.get(op.kind)) else a for i, a in enumerate(op.args))
    assert isinstance(op.type, Type)
    made = build.make(
        "map_matrix",
        (op.kind, axes.place, shape, tuple(axes.mixed), unit, Atom(LONG[given.dtype]), args),
        Type(op.type.dtype, (n, *_rows(after, axes))),
        op.attrs,
    )
    assert isinstance(made, Use)
    return build.indicator(made)


def _rows(after: tuple[Dim, ...], axes: Axes) -> tuple[Dim, ...]:
    still = {out for i, out in axes.passing.items() if i not in axes.touched}
    return tuple(1 if j in still else d for j, d in enumerate(after))


def applied(term: Term, matrix: Use, after: tuple[Dim, ...], axes: Axes, build: Builder) -> Term:
    """The term times the matrix of a map, made by `matrix_of`."""
    came = {out: i for i, out in axes.passing.items()}
    result = tuple(term.axes[came[j]] if j in came else build.labels.axis(d) for j, d in enumerate(after))
    columns = tuple(label for i in axes.mixed for label in term.axes[i])
    rows = tuple(() if j in came and came[j] not in axes.touched else axis for j, axis in enumerate(result))
    return term.times(Factor(matrix, (columns, *rows)), axes=result)


# ---- selections: maps of zeros and ones, the same over every semiring -----------------------------------------


@rule("select", "slice", "index_select", "flip", "roll", "repeat_interleave", semirings=ALL)
def _selected(op: Op, build: Builder) -> Form | Refusal:
    rank = len(build.type(op.args[0]).shape)
    dims = _dimensions(op, rank)
    if dims is None:
        return Refusal("LR1299", op.result, f"no rule for this use of `{op.kind}`")
    gone = dims if len(shape_of(op)) < rank else ()
    return mapped(op, build, along(0, dims, rank, gone))


def along(place: int, dims: Sequence[int], rank: int, gone: Collection[int] = ()) -> Axes:
    """`dims` mix, the others pass; `gone` are not in the result."""
    rest = [i for i in range(rank) if i not in gone]
    return Axes(place, dims, {i: rest.index(i) for i in rest if i not in dims})


def _dimensions(op: Op, rank: int) -> tuple[int, ...] | None:
    args = dict(enumerate(op.args)) | dict(op.attrs)
    place, name = {
        "flip": (1, "dims"), "roll": (2, "dims"), "repeat_interleave": (2, "dim"), "cumsum": (1, "dim"),
    }.get(op.kind, (1, "dim"))  # fmt: skip
    found: Arg = args.get(place, args.get(name))
    if op.kind in ("select", "slice") and found is None:
        found = 0
    dims = found if isinstance(found, tuple) else (found,)
    if found is None or dims == ():
        dims = tuple(range(rank))
    return tuple(d % rank for d in dims if isinstance(d, int))


@rule("repeat", semirings=ALL)
def _repeat(op: Op, build: Builder) -> Form | Refusal:
    rank, times = len(build.type(op.args[0]).shape), op.args[1]
    assert isinstance(times, tuple)
    more = len(times) - rank
    mixed = [i for i in range(rank) if times[more + i] != 1]
    return mapped(op, build, Axes(0, mixed, {i: more + i for i in range(rank) if i not in mixed}))


@rule("gather", semirings=ALL)
def _gather(op: Op, build: Builder) -> Form | Refusal:
    given, dim = build.type(op.args[0]).shape, op.args[1]
    index = build.type(op.args[2]).shape
    assert isinstance(dim, int)
    dim %= len(given)
    others = [i for i in range(len(given)) if i != dim]
    if any(given[i] != index[i] for i in others):
        return Refusal("LR1299", op.result, "no rule for `gather` with an index smaller than what it reads")
    touched = [i for i in others if index[i] != 1]
    return mapped(op, build, Axes(0, [dim], {i: i for i in others}, touched))


@rule("embedding", semirings=ALL)
def _rows_of(op: Op, build: Builder) -> Form | Refusal:
    # rows of a state that stands for the weight; rows of padding, or those that are scaled, have gradients of their own
    if op.args[2:] not in ((), (-1,), (-1, False), (-1, False, False)) or op.attrs:
        return Refusal("LR1299", op.result, f"no rule for `{op.kind}` of the state with gradients of its own")
    return mapped(op, build, Axes(0, [0], {1: len(shape_of(op)) - 1}))


@rule("index", semirings=ALL)
def _index(op: Op, build: Builder) -> Form | Refusal:
    given, indices = build.type(op.args[0]), op.args[1]
    assert isinstance(indices, tuple)
    chosen = [i for i, index in enumerate(indices) if index is not None]
    if build.form(op.args[0]) is None or any(build.form(i) is not None for i in indices):
        return chosen_by_the_state(op)
    if any(build.type(indices[i]).dtype in ("bool", "u8") for i in chosen):
        return Refusal("LR1299", op.result, "no rule for a state indexed by a mask: how many numbers it has is data")
    if chosen != list(range(chosen[0], chosen[-1] + 1)):
        return Refusal("LR1299", op.result, "no rule for an index with a slice between its parts")
    rank = len(given.shape)
    wide = len(shape_of(op)) - (rank - len(chosen))
    passing = {i: i if i < chosen[0] else i - len(chosen) + wide for i in range(rank) if i not in chosen}
    return mapped(op, build, Axes(0, chosen, passing))


@rule("diagonal", "diagonal_copy", "diag_embed", "tril", "triu")
def _matrices(op: Op, build: Builder) -> Form | Refusal:
    rank = len(build.type(op.args[0]).shape)
    if op.kind in ("diagonal", "diagonal_copy"):
        pair = {d % rank for d in (*op.args[2:4], *(0, 1)[len(op.args[2:4]) :]) if isinstance(d, int)}
        rest = [i for i in range(rank) if i not in pair]
        return mapped(op, build, Axes(0, sorted(pair), {i: rest.index(i) for i in rest}))
    if op.kind == "diag_embed":
        if len(op.args) > 2:
            return Refusal("LR1299", op.result, "no rule for `diag_embed` to axes that are not the last")
        return mapped(op, build, Axes(0, [rank - 1], {i: i for i in range(rank - 1)}))
    return mapped(op, build, along(0, (rank - 2, rank - 1), rank))


@rule("constant_pad_nd", "pad", semirings=ALL)
def _pad(op: Op, build: Builder) -> Form | Refusal:
    rank, widths = len(build.type(op.args[0]).shape), op.args[1]
    assert isinstance(widths, tuple)
    dims = {rank - 1 - i // 2 for i, w in enumerate(widths) if w != 0}
    axes = along(0, sorted(dims), rank)
    mode = op.args[2] if op.kind == "pad" and len(op.args) > 2 else "constant"
    fill = op.args[3 if op.kind == "pad" else 2] if len(op.args) > (3 if op.kind == "pad" else 2) else 0
    if mode != "constant" or fill in (0, None):
        if mode == "constant" and build.semiring != SUM:
            return _filled(op, build, axes, 0.0)
        return mapped(op, build, axes)
    return _filled(op, build, axes, fill)


def _filled(op: Op, build: Builder, axes: Axes, fill: Arg) -> Form | Refusal:
    """Padding with a number: a selection, and an offset that has the number in the margin."""
    bare = Op(op.result, "constant_pad_nd", (op.args[0], op.args[1], 0.0), (), op.type, op.time, (), op.source)
    form = build.form(op.args[0])
    matrix = matrix_of(bare, build, axes)
    if form is None:
        return chosen_by_the_state(op)
    if isinstance(matrix, Refusal):
        return matrix
    terms = tuple(applied(t, matrix, shape_of(op), axes, build) for t in form.terms)
    inside = whole(form.offset, build.type(op.args[0]), build)
    return Form(terms, build.make("constant_pad_nd", (inside, op.args[1], fill), _type(op)))


def _type(op: Op) -> Type:
    assert isinstance(op.type, Type)
    return op.type


# ---- sums with weights ----------------------------------------------------------------------------------------


@rule("trace")
def _trace(op: Op, build: Builder) -> Form | Refusal:
    return mapped(op, build, Axes(0, (0, 1), {}))


@rule("cumsum")
def _running(op: Op, build: Builder) -> Form | Refusal:
    rank, dim = len(build.type(op.args[0]).shape), op.args[1]
    assert isinstance(dim, int)
    return mapped(op, build, along(0, (dim % rank,), rank))


@rule("diff")
def _differences(op: Op, build: Builder) -> Form | Refusal:
    # linear in x, what comes before it and what comes after it together: a sum of maps, each with zeros for the others
    given = dict(op.attrs)
    order, dim, before, after = (
        op.args[i] if len(op.args) > i else given.get(name, default)
        for i, name, default in ((1, "n", 1), (2, "dim", -1), (3, "prepend", None), (4, "append", None))
    )
    assert isinstance(dim, int)
    parts: list[Arg] = [op.args[0], order, dim, before, after]
    rank = len(shape_of(op))
    terms: list[Term] = []
    offsets = list(parts)
    for place in (0, 3, 4):
        form = build.form(parts[place])
        if form is None:
            continue
        apart = [_no(p, dim, build) if i in (0, 3, 4) and i != place else p for i, p in enumerate(parts)]
        axes = along(place, (dim % rank,), rank)
        matrix = matrix_of(replace(op, args=tuple(apart), attrs=()), build, axes)
        if isinstance(matrix, Refusal):
            return matrix
        terms += [applied(t, matrix, shape_of(op), axes, build) for t in form.terms]
        offsets[place] = form.offset
    if all(offsets[i] is None for i in (0, 3, 4)):
        return Form(tuple(terms))
    full = [
        whole(o, build.type(p), build) if i in (0, 3, 4) and p is not None else o
        for i, (o, p) in enumerate(zip(offsets, parts, strict=True))
    ]
    return Form(tuple(terms), build.make(op.kind, tuple(full), _type(op)))


def _no(value: Arg, dim: int, build: Builder) -> Arg:
    """Zeros as long as a value along `dim`, of size one along the axes that pass."""
    if value is None:
        return None
    type_ = build.type(value)
    along_dim = dim % len(type_.shape)
    return build.filled(0.0, Type(type_.dtype, tuple(d if i == along_dim else 1 for i, d in enumerate(type_.shape))))


@rule("fft_fft", "fft_ifft", "fft_rfft", "fft_fft2", "fft_ifft2", "fft_rfft2", "fft_fftn", "fft_ifftn", "fft_rfftn")
def _fourier(op: Op, build: Builder) -> Form | Refusal:
    return mapped(op, build, fourier_axes(op, build))


def fourier_axes(op: Op, build: Builder) -> Axes:
    """The axes that a Fourier transform mixes."""
    rank = len(build.type(op.args[0]).shape)
    several = op.kind[-1] in "2n"
    dims = op.args[2] if len(op.args) > 2 else dict(op.attrs).get("dim")
    if dims is None:
        dims = (-2, -1) if op.kind[-1] == "2" else tuple(range(rank)) if several else -1
    chosen = dims if isinstance(dims, tuple) else (dims,)
    return along(0, sorted(d % rank for d in chosen if isinstance(d, int)), rank)


@rule("linalg_solve_triangular", "linalg_solve")
def _solve(op: Op, build: Builder) -> Form | Refusal:
    # A X = B along the rows of B, or of its only axis; A may have batch axes
    matrix, right = build.type(op.args[0]).shape, build.type(op.args[1]).shape
    if build.form(op.args[1]) is None or build.form(op.args[0]) is not None:
        return Refusal(
            "LR1202",
            op.result,
            "the state is divided by itself in a linear system",
            "solve with a matrix computed from the input",
        )
    left = dict(op.attrs).get("left", True)
    vectors = op.kind == "linalg_solve" and right == matrix[:-1]
    rank = len(right)
    dim = rank - 1 if vectors or not left else rank - 2
    if len(shape_of(op)) != rank:
        return Refusal("LR1299", op.result, f"no rule for `{op.kind}` that repeats the state for several matrices")
    axes = along(1, (dim,), rank)
    batch = matrix[:-2]
    lead = rank - 1 if vectors else rank - 2
    touched = [i for i in range(lead) if (k := i - lead + len(batch)) >= 0 and batch[k] != 1]
    return mapped(op, build, Axes(1, axes.mixed, axes.passing, touched))


@rule("cholesky_solve", "linalg_lu_solve")
def _solve_factored(op: Op, build: Builder) -> Form | Refusal:
    # along the columns of the right-hand side, with factors that do not depend on the state
    place = 0 if op.kind == "cholesky_solve" else 2
    right, factor = build.type(op.args[place]).shape, build.type(op.args[1 - place // 2]).shape
    rank = len(right)
    if (op.attrs and op.kind != "cholesky_solve") or len(shape_of(op)) != rank:
        return Refusal("LR1299", op.result, f"no rule for this use of `{op.kind}`")
    axes = along(place, (rank - 2,), rank)
    touched = [i for i in range(rank - 2) if (k := i - rank + len(factor)) >= 0 and factor[k] != 1]
    return mapped(op, build, Axes(place, axes.mixed, axes.passing, touched))


@rule("linalg_cross", "cross")
def _cross(op: Op, build: Builder) -> Form | Refusal:
    places = [i for i in (0, 1) if build.form(op.args[i]) is not None]
    if len(places) != 1:
        return _squared(op)
    rank, other = len(shape_of(op)), build.type(op.args[1 - places[0]]).shape
    dim = dict(op.attrs).get("dim", op.args[2] if len(op.args) > 2 else -1)
    if len(build.type(op.args[places[0]]).shape) != rank or len(other) != rank or not isinstance(dim, int):
        return Refusal("LR1299", op.result, f"no rule for `{op.kind}` that repeats the state")
    axes = along(places[0], (dim % rank,), rank)
    touched = [i for i in range(rank) if i != dim % rank and other[i] != 1]
    return mapped(op, build, Axes(places[0], axes.mixed, axes.passing, touched))


def _squared(op: Op) -> Refusal:
    return Refusal(
        "LR1201", op.result, f"`{op.kind}` multiplies the state with itself",
        "let one of the two be computed from the input",
    )  # fmt: skip


@rule("tensordot")
def _tensordot(op: Op, build: Builder) -> Form | Refusal:
    places = [i for i in (0, 1) if build.form(op.args[i]) is not None]
    if len(places) != 1:
        return _squared(op)
    (place,) = places
    dims = op.args[2 + place]
    rank, other = len(build.type(op.args[place]).shape), len(build.type(op.args[1 - place]).shape)
    assert isinstance(dims, tuple)
    mixed = sorted(d % rank for d in dims if isinstance(d, int))
    rest = [i for i in range(rank) if i not in mixed]
    start = 0 if place == 0 else other - len(mixed)
    return mapped(op, build, Axes(place, mixed, {i: start + k for k, i in enumerate(rest)}))
