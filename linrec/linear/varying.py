"""Lowering of time-varying recurrences: s[k] = A[k] s[k-1] + b[k] as a scan over steps.

Each axis of the states either *passes* (its label goes from old to new state, whether or not coefficients touch
it) or *mixes*. With e the passing axes and n all mixing ones (every state, every delay), a step is A[k]: (e, n, n),
b[k]: (e, n); n = 1 is the elementwise scan. A and b are maps over time, so they are made for all steps at once.

    scan_diagonal(a, b, s)         s[k] = a[k] s[k-1] + b[k], all k: (T, e); a of size one along time if it does not vary
    scan_dense(A, b, s)            the same with matrices: A (T or 1, e or 1s, n, n), b (T, e, n)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from linrec.dtypes import LONG
from linrec.ir import Arg, Atom, Graph, Op, Recurrence, Time, Type, Use, order
from linrec.linear.affine import Refusal
from linrec.linear.analysis import Analysis, analysed, state_reads
from linrec.linear.rules.reals import conjugated
from linrec.linear.semirings import SEMIRINGS
from linrec.linear.system import Writer, product
from linrec.sizes import Dim


@dataclass(frozen=True)
class Layout:
    """Which axes of the states pass, and how wide the vector of mixing axes is."""

    passing: tuple[int, ...]
    widths: tuple[Dim, ...]  # of each state's mixing axes
    depths: tuple[int, ...]  # how far back each state is read
    twins: tuple[bool, ...]  # whether each state's conjugate is a state too

    @property
    def width(self) -> Dim:
        """n, all states at all delays."""
        total: Dim = 0
        for width, depth, twin in zip(self.widths, self.depths, self.twins, strict=True):
            total = width * depth * (1 + twin) + total
        return total


@dataclass(frozen=True)
class Slot:
    """A part of the vector: a state so many steps back, or its conjugate."""

    use: Use
    conjugate: bool = False


def layout_of(graph: Graph, recurrence: Recurrence) -> Layout | Refusal:
    """Passing and mixing axes of a proven recurrence."""
    reads = state_reads(graph, recurrence)
    analysis = analysed(graph, recurrence)
    shapes = [analysis.type(Use(s)).shape for s in recurrence.states]
    rank = min(map(len, shapes))
    passing = {i for i in range(rank) if len({s[i] for s in shapes}) == 1}
    for state in recurrence.states:
        for term in analysis.forms[state].terms:
            passing -= {i for i in passing if term.axes[i] != term.state_axes[i]}
    axes = tuple(sorted(passing))
    widths = tuple(product([d for i, d in enumerate(shape) if i not in passing]) for shape in shapes)
    depths = tuple(max(u.delay for u in reads if u.name == s) for s in recurrence.states)
    # z -> A z + B z* is linear over the reals only; over the complex numbers (z, z*) -> ((A, B), (B*, A*)) (z, z*) is
    meets = any(term.conjugate for state in recurrence.states for term in analysis.forms[state].terms)
    twins = tuple(meets and analysis.type(Use(s)).dtype[0] == "c" for s in recurrence.states)
    layout = Layout(axes, widths, depths, twins)
    if not isinstance(layout.width, int):
        return Refusal("LR2002", recurrence.states[0], "coefficients mix an axis of unknown length")
    return layout


def touched(layout: Layout, recurrence: Recurrence, analysis: Analysis) -> set[int]:
    """The passing axes along which coefficients differ."""
    found = set()
    for state in recurrence.states:
        for term in analysis.forms[state].terms:
            held = {x for f in term.factors for x in f.labels}
            found |= {i for i in layout.passing if held & set(term.axes[i])}
    return found


def lower_varying(graph: Graph, recurrence: Recurrence) -> Graph:
    """Replace a proven recurrence by a scan over its steps."""
    layout = layout_of(graph, recurrence)
    assert isinstance(layout, Layout)
    found, written = Lowering(graph, recurrence, layout).signals()
    # states become signals; other members that the rest reads become maps of states, read with their delays
    ops = [found.get(op.result, op) for op in graph.ops]
    return replace(graph, ops=order((*ops, *written)))


def over_time(write: Writer, time: Time, use: Use, *, is_broadcast: bool = False) -> Use:
    """All steps of a value, first step first, along a new leading axis; of size one if it may be broadcast."""
    shape = write.types[use.name].shape
    dtype = write.types[use.name].dtype
    whole = (time.trip, *shape)
    if write.times[use.name] is None:
        one = write.make("unsqueeze", (use, 0), (1, *shape), dtype=dtype)
        return one if is_broadcast else write.make("expand", (one, whole), whole, dtype=dtype)
    stacked = write.make("stack", (use, 0), whole, dtype=dtype)
    return write.make("flip", (stacked, (0,)), whole, dtype=dtype) if time.direction == "backward" else stacked


class Lowering:
    """Writes a recurrence as a scan over any semiring."""

    def __init__(self, graph: Graph, recurrence: Recurrence, layout: Layout) -> None:
        self.graph, self.recurrence, self.layout = graph, recurrence, layout
        self.slots = [
            Slot(Use(s, d), conjugate)
            for s, depth, twin in zip(recurrence.states, layout.depths, layout.twins, strict=True)
            for conjugate in (False, True)[: 1 + twin]
            for d in range(1, depth + 1)
        ]
        reads = [slot.use for slot in self.slots if not slot.conjugate]
        self.analysis = Analysis(graph, recurrence.members, reads, SEMIRINGS[recurrence.semiring])
        first = self.analysis.type(Use(recurrence.states[0]))
        dtypes = {self.analysis.type(Use(s)).dtype for s in recurrence.states}
        complex_ = any(d[0] == "c" for d in dtypes)
        dtype = first.dtype if not complex_ else "c128" if dtypes & {"c128", "f64"} else "c64"
        self.write = Writer(self.analysis, dtype, recurrence.name)
        self.time = graph.time(recurrence.time)
        self.shape = tuple(first.shape[i] for i in layout.passing)
        self.diagonal = layout.width == 1
        self.n: tuple[Dim, ...] = () if self.diagonal else (layout.width,)

    def signals(self) -> tuple[dict[str, Op], list[Op]]:
        """Each state as a signal of all its steps, and the ops that make them."""
        write = self.write
        steps, ring = (self.time.trip,), write.semiring.is_ring
        a = over_time(write, self.time, self._transition(), is_broadcast=self.diagonal or ring)
        b = over_time(write, self.time, self._offset())
        s = self._initial()
        shape = (*steps, *self.shape, *self.n)
        if write.semiring.is_ring:
            states = write.make("scan_diagonal" if self.diagonal else "scan_dense", (a, b, s), shape)
        else:
            kind = "semiring_scan" if self.diagonal else "semiring_scan_dense"
            states = write.make(kind, (write.semiring.name, a, b, s), shape)
        if self.time.direction == "backward":
            states = write.make("flip", (states, (0,)), shape)
        return self._signals(states), write.ops

    # one step ----------------------------------------------------------------------------------------

    def _transition(self) -> Use:
        """A[k] as a per-step value of shape (e or 1s, n, n), or (e or 1s) if n is one."""
        lines: list[Arg] = []
        lead = self._touched()
        for row in self.slots:
            cells: list[Arg] = [self._cell(row, column, lead) for column in self.slots]
            if self.diagonal:
                assert isinstance(cells[0], Use)
                return self.write.make("reshape", (cells[0], lead), lead)
            height = self._width(row.use)
            shape = (*lead, height, *self.n)
            # a single cell is the line as it lies: a copy of all transitions takes longer than the scan
            whole = self.write.make("reshape", (cells[0], shape), shape) if len(cells) == 1 else None
            line = whole or self.write.make("cat", (tuple(cells), -1), shape)
            lines.append(line)
        if len(lines) == 1 and isinstance(lines[0], Use):
            return lines[0]
        return self.write.make("cat", (tuple(lines), -2), (*lead, *self.n, *self.n))

    def _touched(self) -> tuple[Dim, ...]:
        """The passing axes, of size one where no coefficient differs along them."""
        differing = touched(self.layout, self.recurrence, self.analysis)
        return tuple(d if i in differing else 1 for i, d in zip(self.layout.passing, self.shape, strict=True))

    def _width(self, use: Use) -> Dim:
        return self.layout.widths[self.recurrence.states.index(use.name)]

    def _cell(self, row: Slot, column: Slot, lead: tuple[Dim, ...]) -> Use:
        """The block that takes the state `column` to the state `row`."""
        write, state, delay = self.write, row.use.name, row.use.delay
        shape = (*lead, self._width(row.use), self._width(column.use))
        if delay > 1:
            if column != Slot(Use(state, delay - 1), row.conjugate):
                return self._zeros(shape)
            eye = write.make("reshape", (write.eye(self._width(row.use)), (*[1] * len(lead), *shape[-2:])), shape)
            return write.make("expand", (eye, shape), shape)
        total: Use | None = None
        for path in self.analysis.forms[state].terms:
            term = conjugated(path, self.analysis) if row.conjugate else path
            if Slot(term.state, term.conjugate) != column:
                continue
            passing = [term.axes[i] for i in self.layout.passing]
            kept = [axis if size != 1 else () for axis, size in zip(passing, lead, strict=True)]
            rows = [x for axis in kept for x in axis]
            rows += [x for i, axis in enumerate(term.axes) if i not in self.layout.passing for x in axis]
            columns = [x for i, axis in enumerate(term.state_axes) if i not in self.layout.passing for x in axis]
            one = write.term(term, rows, columns, shape)
            total = one if total is None else write.plus(total, one, shape)
        return self._zeros(shape) if total is None else total

    def _zeros(self, shape: tuple[Dim, ...]) -> Use:
        return self.write.make("expand", (self.write.number(self.write.semiring.zero), shape), shape)

    def _offset(self) -> Use:
        """b[k] as a per-step value of shape (e, n), or (e) if n is one."""
        parts: list[Arg] = []
        for slot in self.slots:
            use = slot.use
            size = (*self.shape, self._width(use))
            offset = self.analysis.forms[use.name].offset if use.delay == 1 else None
            parts.append(self._zeros(size) if offset is None else self._ordered(slot, offset, size))
        return self._side_by_side(parts)

    def _side_by_side(self, parts: list[Arg]) -> Use:
        joined = (
            parts[0]
            if len(parts) == 1
            else self.write.make("cat", (tuple(parts), -1), (*self.shape, self.layout.width))
        )
        assert isinstance(joined, Use)
        return self.write.make("reshape", (joined, self.shape), self.shape) if self.diagonal else joined

    def _ordered(self, slot: Slot, value: Arg, size: tuple[Dim, ...]) -> Use:
        """A value of the state's shape with its passing axes first and its mixing axes merged."""
        write, shape = self.write, self.analysis.type(Use(slot.use.name)).shape
        tensor = write.number(value) if not isinstance(value, Use) else write.cast(value)
        if slot.conjugate:
            tensor = write.make("conj_physical", (tensor,), write.types[tensor.name].shape)
        if write.types[tensor.name].shape != shape:
            tensor = write.make("expand", (tensor, shape), shape)
        axes = (*self.layout.passing, *(i for i in range(len(shape)) if i not in self.layout.passing))
        if axes != tuple(range(len(shape))):
            tensor = write.make("permute", (tensor, axes), tuple(shape[i] for i in axes))
        return write.make("reshape", (tensor, size), size)

    def _initial(self) -> Use:
        parts: list[Arg] = []
        for slot in self.slots:
            value = self.graph.op(slot.use.name).init[slot.use.delay - 1]
            parts.append(self._ordered(slot, value, (*self.shape, self._width(slot.use))))
        return self._side_by_side(parts)

    # back to signals -----------------------------------------------------------------------------------

    def _signals(self, states: Use) -> dict[str, Op]:
        """Each state as a signal of its own shape."""
        write, found, start = self.write, {}, 0
        layout = self.layout
        parts = zip(self.recurrence.states, layout.widths, layout.depths, layout.twins, strict=True)
        for state, width, depth, twin in parts:
            assert isinstance(width, int)
            shape = self.analysis.type(Use(state)).shape
            part = states
            if not self.diagonal and width != self.layout.width:
                part = write.make("slice", (states, -1, start, start + width), (self.time.trip, *self.shape, width))
            start += width * depth * (1 + twin)
            rest = [i for i in range(len(shape)) if i not in self.layout.passing]
            rows = (self.time.trip, *self.shape, *(shape[i] for i in rest))
            part = write.make("reshape", (part, rows), rows)
            axes = [*self.layout.passing, *rest]
            back = (0, *(axes.index(i) + 1 for i in range(len(shape))))
            if back != tuple(range(len(shape) + 1)):
                part = write.make("permute", (part, back), (self.time.trip, *shape))
            own = self.analysis.type(Use(state))
            if own.dtype != write.dtype:
                if write.dtype[0] == "c" and own.dtype[0] != "c":
                    part = write.make(
                        "real", (part,), (self.time.trip, *shape), dtype="f64" if write.dtype == "c128" else "f32"
                    )
                part = write.make("to", (part, Atom(LONG[own.dtype])), (self.time.trip, *shape), dtype=own.dtype)
            source = self.graph.op(state)
            found[state] = replace(source, kind="signal", args=(part, 0, 0, 1), attrs=(), type=Type(own.dtype, shape))
        return found
