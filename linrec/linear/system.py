"""Linear systems: a proven recurrence as s[k] = A s[k-1] + G w[k] + c,  y[k] = C s[k-1] + D w[k] + e.

The state vector s holds every state at every delay that is read (order m gives the companion form);
w are the drives, y the outputs. Each axis of a state has one of three parts in it:

    batch     passes from old to new state, and no coefficient touches it     (b)
    group     passes, but coefficients differ along it                        (g)
    mixed     everything else: what A, G, C, D sum over                       (n states, p drives, q outputs)

so that A is (g, n, n), G (g, n, p), C (g, q, n), D (g, q, p) whatever the user's shapes were: a diagonal
recurrence has n = 1, a dense one g = 1. The matrices are written as ops on the coefficients, so they follow
parameters and have gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from linrec.dtypes import LONG
from linrec.ir import Arg, Atom, Graph, Op, Recurrence, Time, Type, Use
from linrec.linear.affine import Axis, Factor, Label, Refusal, Term
from linrec.linear.analysis import Analysis, driven_by, state_reads
from linrec.sizes import Dim

BATCH, GROUP, MIXED = "batch", "group", "mixed"
CONJUGATED = Refusal("LR2002", "", "a complex state meets its own conjugate, so it is linear over the reals only")


@dataclass(frozen=True)
class Vector:
    """A value as part of a vector: which of its axes are batch, group and mixed, and where they come from."""

    use: Use
    type: Type
    parts: tuple[str, ...]
    links: tuple[int | None, ...]  # which axis of the states each axis is

    def sizes(self, part: str) -> tuple[Dim, ...]:
        """The sizes of the axes of one part."""
        return tuple(d for d, p in zip(self.type.shape, self.parts, strict=True) if p == part)

    def axes(self, part: str) -> tuple[int, ...]:
        """The axes of one part."""
        return tuple(i for i, p in enumerate(self.parts) if p == part)


@dataclass
class System:
    """The matrices of a time-invariant recurrence, as terms; `matrix` writes one as ops."""

    graph: Graph
    recurrence: Recurrence
    time: Time
    states: list[Vector]
    drives: list[Vector]
    outputs: list[Vector]
    terms: dict[tuple[str, Use], list[Term]]  # (row value, column variable) -> terms
    offsets: dict[str, Arg]
    analysis: Analysis
    dtype: str

    @property
    def order(self) -> int:
        """How many steps back the states are read."""
        return max(v.use.delay for v in self.states)

    @property
    def is_diagonal(self) -> bool:
        """One state per group, read one step back: the transition multiplies elementwise."""
        return len(self.states) == 1 and product(self.states[0].sizes(MIXED)) == 1

    @property
    def is_elementwise(self) -> bool:
        """Is the transition diagonal: does each number of the state, read one step back, reach itself alone?"""
        if len(self.states) != 1:
            return False
        (state,) = self.states
        return all(term.axes == term.state_axes for term in self.terms.get((state.use.name, state.use), []))

    def width(self, vectors: Sequence[Vector]) -> Dim:
        """How many numbers a group of `vectors` together has."""
        total: Dim = 0
        for v in vectors:
            total = product(v.sizes(MIXED)) + total
        return total


def product(sizes: Sequence[Dim]) -> Dim:
    """The product of sizes."""
    total: Dim = 1
    for s in sizes:
        total = s * total
    return total


def system_of(graph: Graph, recurrence: Recurrence) -> System | Refusal:
    """The system of a time-invariant recurrence, with whatever is folded into it."""
    by_name = graph.by_name()
    reads = state_reads(graph, recurrence)
    depth = {s: max(u.delay for u in reads if u.name == s) for s in recurrence.states}
    states = [Use(s, d) for s in recurrence.states for d in range(1, depth[s] + 1)]
    drives = driven_by(graph, recurrence)
    if any(u.delay for u in drives):
        return Refusal("LR2002", recurrence.states[0], "a drive is read with a delay")
    analysis = Analysis(graph, recurrence.members, [*states, *drives])
    if analysis.refusal is not None:
        return analysis.refusal
    if analysis.conjugates():
        return CONJUGATED
    terms: dict[tuple[str, Use], list[Term]] = {}
    offsets: dict[str, Arg] = {}
    for row in dict.fromkeys((*recurrence.states, *recurrence.outputs)):
        form = analysis.forms[row]
        offsets[row] = form.offset
        for term in form.terms:
            if any(analysis.varies(f.value) for f in term.factors):
                return Refusal("LR2002", row, "a coefficient varies over time")
            terms.setdefault((row, term.state), []).append(term)
        if form.offset is not None and analysis.varies(form.offset):
            return Refusal("LR2002", row, "an offset varies over time without depending on a drive")
    types = {u: analysis.type(u) for u in (*states, *drives)}
    types |= {Use(o): analysis.type(Use(o)) for o in (*recurrence.states, *recurrence.outputs)}
    roles = _roles(states, list(drives), recurrence, terms, types)
    dtype = by_name[recurrence.states[0]].type
    assert isinstance(dtype, Type)

    def vector(use: Use) -> Vector:
        return Vector(use, types[use], *roles[Use(use.name) if use.name in recurrence.states else use])

    system = System(
        graph, recurrence, graph.time(recurrence.time),
        [vector(u) for u in states], [vector(u) for u in drives], [vector(Use(o)) for o in recurrence.outputs],
        terms, offsets, analysis, dtype.dtype,
    )  # fmt: skip
    groups = {v.sizes(GROUP) for v in (*system.states, *system.outputs)}
    if len(groups) > 1:
        return Refusal("LR2002", recurrence.states[0], "states of different group shapes are coupled")
    if any(not isinstance(d, int) for v in system.states for part in (GROUP, MIXED) for d in v.sizes(part)):
        return Refusal("LR2002", recurrence.states[0], "the state has an axis of unknown length that coefficients mix")
    if any(not isinstance(d, int) for v in (*system.drives, *system.outputs) for d in v.sizes(MIXED)):
        return Refusal(
            "LR2002", recurrence.states[0], "coefficients mix an axis of unknown length into the state, or out of it"
        )
    return system


def _roles(
    states: list[Use],
    drives: list[Use],
    recurrence: Recurrence,
    terms: dict[tuple[str, Use], list[Term]],
    types: dict[Use, Type],
) -> dict[Use, tuple[tuple[str, ...], tuple[int | None, ...]]]:
    """Which axes are batch, group and mixed: the finest answer that every term allows.

    Axis i of the states starts as batch; a term in which it does not pass straight through makes it
    mixed, a factor that touches it makes it group. Axes of drives and outputs follow the state axis they
    are linked to, and are mixed if there is none. Iterated to a fixed point, as mixing spreads.
    """
    first = Use(recurrence.states[0])
    rank = len(types[first].shape)
    role = [BATCH] * rank
    shapes = {types[Use(s)].shape for s in recurrence.states}
    same = len(shapes) == 1
    if not same:
        # states of different shapes share what leading axes they have in common
        ranks = min(len(s) for s in shapes)
        common = 0
        while common < ranks and len({s[common] for s in shapes}) == 1:
            common += 1
        role = [BATCH if i < common else MIXED for i in range(max(len(s) for s in shapes))]
    outputs = [Use(o) for o in recurrence.outputs]
    order = {BATCH: 0, GROUP: 1, MIXED: 2}

    def raise_to(i: int, part: str) -> bool:
        if order[role[i]] >= order[part]:
            return False
        role[i] = part
        return True

    changed = True
    while changed:
        changed = False
        for (row, column), found in terms.items():
            row_is_state = row in recurrence.states
            column_is_state = column in states
            for term in found:
                touched = {x for f in term.factors for axis in f.axes for x in axis}
                if row_is_state and column_is_state:
                    for i in range(max(len(term.axes), len(term.state_axes))):
                        a = term.axes[i] if i < len(term.axes) else None
                        s = term.state_axes[i] if i < len(term.state_axes) else None
                        if a is None or s is None or (a != s):
                            changed |= raise_to(i, MIXED)
                        elif touched & set(a):
                            changed |= raise_to(i, GROUP)
                elif row_is_state:  # driven: the drive's labels may pass, the rest is made by factors
                    for i, a in enumerate(term.axes):
                        if touched & set(a) or (a and a not in term.state_axes and not _unlabelled(term, a)):
                            changed |= raise_to(i, GROUP)
                        if (
                            len(a) > 1
                            and a not in term.state_axes
                            and set(a) & {x for ax in term.state_axes for x in ax}
                        ):
                            changed |= raise_to(i, MIXED)
                elif column_is_state:  # read out: a state axis that does not reach the output is summed over
                    for i, s in enumerate(term.state_axes):
                        if s and s not in term.axes:
                            changed |= raise_to(i, MIXED)
                        elif touched & set(s):
                            changed |= raise_to(i, GROUP)
    found_roles: dict[Use, tuple[tuple[str, ...], tuple[int | None, ...]]] = {}
    for state in recurrence.states:
        n = len(types[Use(state)].shape)
        found_roles[Use(state)] = tuple(role[:n]), tuple(range(n))
    for use in (*outputs, *drives):
        if use not in found_roles:
            found_roles[use] = _linked(use, recurrence, terms, types, role)
    return found_roles


def _unlabelled(term: Term, axis: Axis) -> bool:
    """Is an axis of the result one the drive is merely repeated along?"""
    held = {x for f in term.factors for a in f.axes for x in a} | {x for a in term.state_axes for x in a}
    return not held & set(axis)


def _linked(
    use: Use, recurrence: Recurrence, terms: dict[tuple[str, Use], list[Term]], types: dict[Use, Type], role: list[str]
) -> tuple[tuple[str, ...], tuple[int | None, ...]]:
    """Parts of a drive's or an output's axes: those of the state axis that they pass to or from in every term.

    An axis that passes in one term and is summed over, or made, in another is mixed: u @ W + u.
    """
    rank = len(types[use].shape)
    found_at: list[set[int | None]] = [set() for _ in range(rank)]
    for (row, column), found in terms.items():
        for term in found:
            if column == use and row in recurrence.states:
                mine, theirs = term.state_axes, term.axes
            elif Use(row) == use and column.name in recurrence.states and column.delay:
                mine, theirs = term.axes, term.state_axes
            else:
                continue
            for i, axis in enumerate(mine):
                if axis:
                    found_at[i].add(theirs.index(axis) if axis in theirs else None)
    links = tuple(next(iter(at)) if len(at) == 1 else None for at in found_at)
    return tuple(MIXED if link is None else role[link] for link in links), links


class Writer:
    """Writes matrices of a system as ops, named after the recurrence; what depends on a signal is a signal."""

    def __init__(self, analysis: Analysis, dtype: str, prefix: str) -> None:
        self.analysis, self.dtype, self.prefix = analysis, dtype, prefix
        self.semiring = analysis.semiring
        self.ops = list(analysis.ops)
        self.types = dict(analysis.types)
        self.times = dict(analysis.times)
        self.count = 0

    def make(
        self,
        kind: str,
        args: tuple[Arg, ...],
        shape: tuple[Dim, ...],
        attrs: tuple[tuple[str, Arg], ...] = (),
        dtype: str = "",
    ) -> Use:
        """A new op; one step of it if it reads a signal, unless it turns one into a tensor."""
        self.count += 1
        name = f"{self.prefix}.{kind}{self.count}"
        op = Op(name, kind, args, attrs, Type(dtype or self.dtype, shape))
        times = {t for use in op.uses() if (t := self.times.get(use.name)) is not None}
        self.times[name] = None if op.leaves_time or not times else times.pop()
        self.types[name] = Type(dtype or self.dtype, shape)
        self.ops.append(replace(op, time=self.times[name]))
        return Use(name)

    def number(self, value: Arg, shape: tuple[Dim, ...] = ()) -> Use:
        """A tensor filled with one number."""
        return self.make("full", (shape, value), shape, (("dtype", Atom(LONG[self.dtype])),))

    def eye(self, n: Dim) -> Use:
        """The identity: ones on the diagonal, zeros elsewhere."""
        made = self.make("eye", (n,), (n, n), (("dtype", Atom(LONG[self.dtype])),))
        if self.semiring.is_ring:
            return made
        on = self.make("to", (made, Atom("bool")), (n, n), dtype="bool")
        return self.make("where", (on, self.number(self.semiring.one), self.number(self.semiring.zero)), (n, n))

    def plus(self, left: Use, right: Use, shape: tuple[Dim, ...]) -> Use:
        """The sum of the semiring."""
        return self.make(self.semiring.plus, (left, right), shape)

    def term(self, term: Term, rows: Sequence[Label], columns: Sequence[Label], shape: tuple[Dim, ...]) -> Use:
        """The coefficients of a term as a tensor over the labels `rows`, then `columns`, reshaped to `shape`."""
        labels = self.analysis.labels
        factors = list(term.factors)
        # a label that is both row and column passes unchanged there: an identity
        for label in [x for x in rows if x in columns]:
            twin = labels.axis(labels.size[label])[0]
            columns = [twin if x == label else x for x in columns]
            factors.append(Factor(self.eye(labels.size[label]), ((label,), (twin,))))
        held = {x for f in factors for axis in f.axes for x in axis}
        wanted = [*rows, *columns]
        out = [x for x in wanted if x in held]
        sizes = tuple(labels.size[x] for x in out)
        if self.semiring.is_ring:
            result = self._product(factors, out, sizes)
        else:
            result = self._aligned(factors, out, [x for x in dict.fromkeys(held) if x not in out], sizes)
        full = tuple(labels.size[x] for x in wanted)
        if len(out) < len(wanted):  # repeat along what no factor has
            view = tuple(labels.size[x] if x in held else 1 for x in wanted)
            result = self.make("expand", (self.make("reshape", (result, view), view), full), full)
        return self.make("reshape", (result, shape), shape) if full != shape else result

    def _product(self, factors: list[Factor], out: list[Label], sizes: tuple[Dim, ...]) -> Use:
        """Factors multiplied and summed; complex ones may make a real path, whose imaginary part cancels or is dropped."""
        dtype = self.dtype
        if dtype[0] == "f" and any(self._is_complex(f.value) for f in factors):
            self.dtype = "c128" if dtype == "f64" else "c64"
        result = self._einsum([f for f in factors if isinstance(f.value, Use)], out)
        for f in factors:
            if not isinstance(f.value, Use):
                value = f.value.conjugate() if f.conjugate and isinstance(f.value, complex) else f.value
                result = self.number(1.0) if result is None else result
                result = self.make("div" if f.inverse else "mul", (result, value), sizes)
        result = self.number(1.0) if result is None else result
        if self.dtype != dtype:
            self.dtype = dtype
            result = self.make("real", (result,), sizes)
        return result

    def _is_complex(self, value: Arg) -> bool:
        return isinstance(value, complex) or (isinstance(value, Use) and self.types[value.name].dtype[0] == "c")

    def _aligned(self, factors: list[Factor], out: list[Label], summed: list[Label], sizes: tuple[Dim, ...]) -> Use:
        """The same over a semiring whose times is +: factors aligned, added, and reduced over `summed` labels."""
        labels, result = self.analysis.labels, self.number(self.semiring.one)
        order = [*out, *summed]
        extent: tuple[Dim, ...] = (1,) * len(order)
        for f in factors:
            value: Arg = -f.value if f.inverse and isinstance(f.value, int | float) else f.value
            if isinstance(f.value, Use):
                value = self._along(f, order)
                extent = tuple(a if b == 1 else b for a, b in zip(extent, self.types[value.name].shape, strict=True))
            result = self.make("sub" if f.inverse and isinstance(value, Use) else "add", (result, value), extent)
        if summed:
            axes = tuple(range(len(out), len(order)))
            result = self.make(
                "expand", (result, tuple(labels.size[x] for x in order)), tuple(labels.size[x] for x in order)
            )
            result = self.make(self.semiring.total, (result, axes), sizes)
        return result

    def _along(self, factor: Factor, labels: list[Label]) -> Use:
        """A factor with one axis for each of `labels`, of size one where it has none."""
        size, value = self.analysis.labels.size, factor.value
        flat = [x for axis in factor.axes for x in axis]
        assert isinstance(value, Use)
        split = tuple(size[x] for x in flat)
        value = self.cast(value)
        if self.types[value.name].shape != split:
            value = self.make("reshape", (value, split), split)
        ordered = sorted(range(len(flat)), key=lambda i: labels.index(flat[i]))
        if ordered != list(range(len(flat))):
            value = self.make("permute", (value, tuple(ordered)), tuple(split[i] for i in ordered))
        wide = tuple(size[x] if x in flat else 1 for x in labels)
        return self.make("reshape", (value, wide), wide)

    def _einsum(self, factors: list[Factor], out: list[Label]) -> Use | None:
        if not factors:
            return None
        labels = self.analysis.labels
        letters: dict[Label, str] = {}
        parts: list[str] = []
        operands: list[Use] = []
        for f in factors:
            flat = [x for axis in f.axes for x in axis]
            value = f.value
            assert isinstance(value, Use)
            split = tuple(labels.size[x] for x in flat)
            if self.types[value.name].shape != split:
                value = self.make("reshape", (value, split), split, dtype=self.types[value.name].dtype)
            if f.inverse:
                value = self.make("reciprocal", (self.cast(value),), split)
            if f.conjugate and self.dtype[0] == "c":
                value = self.make("conj_physical", (self.cast(value),), split)
            operands.append(self.cast(value))
            parts.append("".join(letters.setdefault(x, _letter(len(letters))) for x in flat))
        result = "".join(letters[x] for x in out)
        if len(parts) == 1 and parts[0] == result:
            return operands[0]
        sizes = tuple(labels.size[x] for x in out)
        if len(parts) == 1 and sorted(parts[0]) == sorted(result):
            return self.make("permute", (operands[0], tuple(parts[0].index(c) for c in result)), sizes)
        return self.make("einsum", (f"{','.join(parts)}->{result}", tuple(operands)), sizes)

    def cast(self, use: Use) -> Use:
        """The value in the state's element type."""
        found = self.types[use.name]
        return use if found.dtype == self.dtype else self.make("to", (use, Atom(LONG[self.dtype])), found.shape)


class MatrixWriter(Writer):
    """Writes the block matrices of a time-invariant system."""

    def __init__(self, system: System, prefix: str) -> None:
        super().__init__(system.analysis, system.dtype, prefix)
        self.system = system

    def matrix(self, rows: Sequence[tuple[Vector, str | None]], columns: Sequence[Vector]) -> Use | None:
        """The block matrix (g, rows, columns), None if it is zero everywhere.

        A row is (vector, value whose form it is), or (vector, None) for the identity that moves a state
        one step further back.
        """
        blocks: list[list[Use | None]] = [[self._block(r, v, c) for c in columns] for r, v in rows]
        if all(b is None for line in blocks for b in line):
            return None
        group = product(self.system.states[0].sizes(GROUP))
        lines: list[Use] = []
        for (r, _), line in zip(rows, blocks, strict=True):
            n = _int(product(r.sizes(MIXED)))
            cells: list[Arg] = []
            for c, cell in zip(columns, line, strict=True):
                p = _int(product(c.sizes(MIXED)))
                cells.append(cell if cell is not None else self._zeros((group, n, p)))
            width = sum(_int(product(c.sizes(MIXED))) for c in columns)
            lines.append(
                cells[0]
                if len(cells) == 1 and isinstance(cells[0], Use)
                else self.make("cat", (tuple(cells), -1), (group, n, width))
            )
        if len(lines) == 1:
            return lines[0]
        height = sum(_int(product(r.sizes(MIXED))) for r, _ in rows)
        width = sum(_int(product(c.sizes(MIXED))) for c in columns)
        return self.make("cat", (tuple(lines), 1), (group, height, width))

    def diagonal(self) -> Use:
        """The transition of a system that is elementwise, (g, n)."""
        (state,) = self.system.states
        shape = (product(state.sizes(GROUP)), product(state.sizes(MIXED)))
        total: Use | None = None
        for term in self.system.terms.get((state.use.name, state.use), []):
            rows = [x for part in (GROUP, MIXED) for i in state.axes(part) for x in term.axes[i]]
            one = self.term(term, rows, (), shape)
            total = one if total is None else self.make("add", (total, one), shape)
        return self._zeros(shape) if total is None else total

    def _zeros(self, shape: tuple[Dim, ...]) -> Use:
        return self.make("zeros", (shape,), shape, (("dtype", Atom(LONG[self.dtype])),))

    def _block(self, row: Vector, value: str | None, column: Vector) -> Use | None:
        group = product(row.sizes(GROUP))
        n, p = product(row.sizes(MIXED)), product(column.sizes(MIXED))
        shape = (group, n, p)
        if value is None:
            if row.use != Use(column.use.name, column.use.delay + 1):
                return None
            wide = self.make("unsqueeze", (self.eye(n), 0), (1, n, n))
            return self.make("expand", (wide, shape), shape)
        total: Use | None = None
        for term in self.system.terms.get((value, column.use), []):
            rows = [x for part in (GROUP, MIXED) for i in row.axes(part) for x in term.axes[i]]
            columns = [x for i in column.axes(MIXED) for x in term.state_axes[i]]
            one = self.term(term, rows, columns, shape)
            total = one if total is None else self.make("add", (total, one), shape)
        return total


def _letter(index: int) -> str:
    return "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"[index]


def _int(dim: Dim) -> int:
    assert isinstance(dim, int)
    return dim
